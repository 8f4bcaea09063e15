package envoy

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	binary := func(path string) string {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("PATH", filepath.Join(dir, "bin"))
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))

	_, err := Find("")
	var missing *NotFoundError
	if !errors.As(err, &missing) || len(missing.Tried) != 2 {
		t.Fatalf("got %v, want a NotFoundError of two places", err)
	}
	if _, err := Find(filepath.Join(dir, "none")); !errors.As(err, &missing) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a path that does not exist: %v", err)
	}
	if _, err := Find(dir); !errors.As(err, &missing) {
		t.Errorf("a folder: %v", err)
	}

	cached := binary(filepath.Join(dir, "cache/sluice/envoy-"+Version+"/envoy"))
	if got, err := Find(""); err != nil || got != cached {
		t.Errorf("got %q, %v, want the cached one", got, err)
	}
	inPath := binary(filepath.Join(dir, "bin/envoy"))
	if got, err := Find(""); err != nil || got != inPath {
		t.Errorf("got %q, %v, want the one in $PATH", got, err)
	}
	given := binary(filepath.Join(dir, "my-envoy"))
	if got, err := Find(given); err != nil || got != given {
		t.Errorf("got %q, %v, want the one given", got, err)
	}
}
