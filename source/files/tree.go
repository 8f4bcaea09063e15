package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// stamp tells versions of a file apart without reading it.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime int64 // nanoseconds
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.dev, s.ino, s.ctime = sys.Dev, sys.Ino, sys.Ctim.Nano()
	}
	return s
}

// isManifest reports whether a file's name is one of a manifest. Hidden ones
// are editors' and kubelet's own.
func isManifest(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// listing is what a walk of the directory found.
type listing struct {
	root  string
	files map[string]stamp           // path under the root -> version
	dirs  map[string]bool            // paths of directories to watch
	links map[string]map[string]bool // directory -> entries that lead, or are led to, by a symbolic link
}

// maxLinks is how many symbolic links are followed in a row, as in the kernel.
const maxLinks = 40

// maxLevels bounds the depth of folders; a link may lead back up.
const maxLevels = 32

// walk lists the manifests under root, in folders and behind links too. watch
// is called for each directory before it is read, so that nothing is missed in
// between.
func walk(root string, watch func(dir string) error) (*listing, error) {
	l := &listing{root: root, files: map[string]stamp{}, dirs: map[string]bool{}, links: map[string]map[string]bool{}}
	info, err := os.Stat(root)
	if err != nil {
		return nil, fmt.Errorf("manifests: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("manifests: %s is a file; give the directory that holds it", root)
	}
	l.follow(root)
	if err := l.walk("", watch, nil); err != nil {
		return nil, fmt.Errorf("manifests: %w", err)
	}
	for dir := range l.links {
		// What is outside may be unreadable; a full look from time to time
		// sees it too.
		_ = watch(dir)
	}
	return l, nil
}

func (l *listing) walk(rel string, watch func(string) error, above []os.FileInfo) error {
	dir := filepath.Join(l.root, rel)
	here, err := os.Stat(dir)
	if err != nil {
		return vanished(err)
	}
	for _, a := range above {
		if os.SameFile(a, here) {
			return nil // a link back up
		}
	}
	if len(above) >= maxLevels {
		return fmt.Errorf("%s is nested deeper than %d folders", dir, maxLevels)
	}
	above = append(slices.Clip(above), here)
	if err := watch(dir); err != nil {
		return vanished(err)
	}
	l.dirs[dir] = true
	entries, err := os.ReadDir(dir)
	if err != nil {
		return vanished(err)
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		path := filepath.Join(rel, name)
		if e.Type()&fs.ModeSymlink != 0 {
			l.follow(filepath.Join(dir, name))
		}
		info, err := os.Stat(filepath.Join(dir, name))
		switch {
		case err != nil:
			// Gone again, or a link to nothing, of which the reader tells.
			if info, err := os.Lstat(filepath.Join(dir, name)); err == nil && isManifest(name) {
				l.files[path] = stampOf(info)
			}
		case info.IsDir():
			if err := l.walk(path, watch, above); err != nil {
				return err
			}
		case isManifest(name): // also if it is no file, of which the reader tells
			l.files[path] = stampOf(info)
		}
	}
	return nil
}

// vanished lets a walk go on where something went while it was under way.
func vanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}

// follow notes every entry on the way of a symbolic link, the target too.
func (l *listing) follow(path string) {
	path, err := filepath.Abs(path)
	if err != nil {
		return
	}
	linked := false
	rest := strings.Split(strings.TrimPrefix(path, "/"), "/")
	at := "/"
	for hops := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at)
			continue
		}
		target, err := os.Readlink(filepath.Join(at, name))
		if err != nil { // no link
			if linked && len(rest) == 0 {
				l.note(at, name)
			}
			at = filepath.Join(at, name)
			continue
		}
		if hops++; hops > maxLinks {
			return
		}
		linked = true
		l.note(at, name)
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(strings.Split(strings.TrimPrefix(target, "/"), "/"), rest...)
	}
}

func (l *listing) note(dir, name string) {
	if l.links[dir] == nil {
		l.links[dir] = map[string]bool{}
	}
	l.links[dir][name] = true
}
