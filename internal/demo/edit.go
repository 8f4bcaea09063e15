package demo

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// edit changes a manifest as an editor does, with a new file in the old one's
// place, and returns when that began.
func (w *world) edit(name string, change func(string) string) (time.Time, error) {
	path := filepath.Join(w.manifests(), name)
	old, err := os.ReadFile(path)
	if err != nil {
		return time.Time{}, err
	}
	changed := change(string(old))
	if changed == string(old) {
		return time.Time{}, fmt.Errorf("the edit of %s changes nothing", name)
	}
	// Files with a leading dot are not manifests.
	temporary := filepath.Join(w.manifests(), "."+name+".new")
	if err := os.WriteFile(temporary, []byte(changed), 0o644); err != nil {
		return time.Time{}, err
	}
	at := time.Now()
	return at, os.Rename(temporary, path)
}
