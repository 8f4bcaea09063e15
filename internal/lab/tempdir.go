package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// hidden guards the one file system in memory of a process.
var hidden struct {
	sync.Mutex
	at string
}

// coverable are directories that every system has and no program here needs, so
// that one can be covered without leaving even an empty directory behind.
var coverable = []string{"/mnt", "/media", "/srv", "/opt", "/boot"}

// TempDir makes a directory in memory that only this process sees, and those
// that it starts, so that nothing of it is left, however they end. The files
// named by keep stay visible. Call it before New: a namespace sees what was
// mounted when it was made. Without [Enter] it is an ordinary directory.
func TempDir(keep ...string) (string, error) {
	if !entered {
		return os.MkdirTemp("", "sluice-")
	}
	hidden.Lock()
	defer hidden.Unlock()
	if hidden.at == "" {
		at, err := choose(coverable, keep)
		if err != nil {
			return "", err
		}
		if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return "", fmt.Errorf("lab: a file system in memory: %w", err)
		}
		hidden.at = at
	}
	return os.MkdirTemp(hidden.at, "sluice-")
}

// choose returns the first directory that is there and holds none of the files.
func choose(from, keep []string) (string, error) {
	for _, dir := range from {
		info, err := os.Stat(dir)
		covers := err != nil || !info.IsDir()
		for _, k := range keep {
			real, err := filepath.EvalSymlinks(k)
			covers = covers || err != nil || strings.HasPrefix(real+"/", dir+"/") || strings.HasPrefix(k+"/", dir+"/")
		}
		if !covers {
			return dir, nil
		}
	}
	return "", fmt.Errorf("lab: there is no directory to cover among %s: %w", strings.Join(from, ", "), os.ErrNotExist)
}

// Bind makes a file appear at another place for this process and those that it
// starts, for instance to show a program to users who cannot look into the
// directory that it is in. The function takes it back.
func Bind(file, at string) (func() error, error) {
	f, err := os.OpenFile(at, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if err := unix.Mount(file, at, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("lab: show %s at %s: %w", file, at, err)
	}
	return func() error {
		return errors.Join(unix.Unmount(at, unix.MNT_DETACH), os.Remove(at))
	}, nil
}
