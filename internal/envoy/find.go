// Package envoy finds the stock Envoy binary, runs it and watches over it:
// it is started again when it dies, drained when it is to end, and never
// outlives the process that started it.
package envoy

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Version is the release of Envoy that the project is tested with, and that
// hack/envoy puts into the cache.
const Version = "1.40.0"

// NotFoundError says that there is no Envoy binary, and what to do about it.
type NotFoundError struct {
	// Tried lists the places that were looked at.
	Tried []string
}

// Error implements error.
func (e *NotFoundError) Error() string {
	return fmt.Sprintf("no Envoy binary (looked at %s): run `make envoy`, which puts Envoy %s into the cache, install one in $PATH, or name it with --envoy",
		strings.Join(e.Tried, ", "), Version)
}

// Find returns the path of the Envoy binary. A path that is given is the only
// one tried. Otherwise it is "envoy" in $PATH, then the one in [CachePath].
// If there is none the error is a [*NotFoundError].
func Find(path string) (string, error) {
	if path != "" {
		if err := executable(path); err != nil {
			return "", fmt.Errorf("%w: %w", &NotFoundError{Tried: []string{path}}, err)
		}
		return filepath.Abs(path)
	}
	if found, err := exec.LookPath("envoy"); err == nil {
		return filepath.Abs(found)
	}
	tried := []string{"$PATH"}
	cached, err := CachePath()
	if err == nil {
		if err = executable(cached); err == nil {
			return cached, nil
		}
		tried = append(tried, cached)
	}
	return "", &NotFoundError{Tried: tried}
}

// CachePath is where hack/envoy puts the binary:
// ${XDG_CACHE_HOME:-$HOME/.cache}/sluice/envoy-VERSION/envoy.
func CachePath() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("the user's cache folder: %w", err)
	}
	return filepath.Join(dir, "sluice", "envoy-"+Version, "envoy"), nil
}

// executable returns an error unless path is a file that can be executed.
func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("not a regular file")
	case info.Mode().Perm()&0o111 == 0:
		return errors.New("not executable")
	}
	return nil
}
