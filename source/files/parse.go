package files

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"github.com/sluicenet/sluice/source"
)

// file is what one manifest file said when it was read last.
type file struct {
	path string
	docs []document
	// broken tells what keeps it from being known what all objects of the file
	// are: it could not be read, or a document does not parse. Objects that it
	// defined before and no longer seems to stay in force.
	broken *source.Problem
	// halfWritten marks what may be an editor's work in progress: nothing in
	// it, or a text that ends where it must not.
	halfWritten bool
}

// document is one document of a file, decoded. Its lines count from its own
// first line, so that it stays as it is while the text above it changes.
type document struct {
	hash     uint64
	size     int
	line     int // of the file at which it begins
	objects  []source.Object
	problems []source.Problem
}

// tooLargeError says that a file is above the limit.
type tooLargeError struct{ size, limit int64 }

func (e *tooLargeError) Error() string {
	return fmt.Sprintf("is larger than the limit of %d bytes; split it into several files", e.limit)
}

// notFileError says what is there under a manifest's name instead of a file.
func notFileError(mode fs.FileMode) error {
	what := "something else"
	switch {
	case mode.IsDir():
		what = "a folder"
	case mode&fs.ModeNamedPipe != 0:
		what = "a named pipe"
	case mode&fs.ModeSocket != 0:
		what = "a socket"
	case mode&fs.ModeDevice != 0:
		what = "a device"
	}
	return fmt.Errorf("is %s, not a file", what)
}

// linkError says where a symbolic link that cannot be opened leads. It is no
// fs.ErrNotExist: the link is there.
func linkError(path string, err error) error {
	target, readErr := os.Readlink(path)
	if readErr != nil {
		return readErr
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("links to %s, which does not exist", target)
	}
	return fmt.Errorf("links to %s: %w", target, err)
}

// reader reads files. Its methods are safe for concurrent use.
type reader struct {
	root  string
	limit int64
	seed  maphash.Seed
	cidrs []netip.Prefix // of Services
	// labels are what is kept of those of Services.
	labels []string
}

// read reads and decodes a file. Documents that old, the file as it was read
// before, has too are not decoded again. A nil file means that it is gone.
func (r *reader) read(path string, old *file) (*file, stamp) {
	text, st, err := r.text(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, st
	}
	f := &file{path: path}
	if err != nil {
		reason := source.ReasonUnread
		if _, large := errors.AsType[*tooLargeError](err); large {
			reason = source.ReasonTooLarge
		}
		f.broken = &source.Problem{File: path, Reason: reason, Err: err}
		return f, st
	}
	f.docs = r.documents(text, old)
	f.halfWritten = len(f.docs) == 0
	for i, d := range f.docs {
		for _, p := range d.problems {
			if p.Warning || p.HasKey {
				continue
			}
			if f.broken == nil {
				located := locate(p, path, d.line)
				f.broken = &located
			}
			f.halfWritten = f.halfWritten || i == len(f.docs)-1
		}
	}
	return f, st
}

func (r *reader) text(path string) ([]byte, stamp, error) {
	full := filepath.Join(r.root, path)
	// A pipe does not block, and a device has its way only if it is opened at
	// all.
	if info, err := os.Stat(full); err == nil && !info.Mode().IsRegular() {
		return nil, stampOf(info), notFileError(info.Mode())
	}
	in, err := os.OpenFile(full, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if info, gone := os.Lstat(full); gone == nil && info.Mode()&fs.ModeSymlink != 0 {
			return nil, stampOf(info), linkError(full, err)
		}
		return nil, stamp{}, err
	}
	defer in.Close() //nolint:errcheck // only read from
	info, err := in.Stat()
	if err != nil {
		return nil, stamp{}, fmt.Errorf("read: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, stampOf(info), notFileError(info.Mode())
	}
	if info.Size() > r.limit {
		return nil, stampOf(info), &tooLargeError{info.Size(), r.limit}
	}
	text, err := io.ReadAll(io.LimitReader(in, r.limit+1))
	if err != nil {
		return nil, stampOf(info), fmt.Errorf("read: %w", err)
	}
	if int64(len(text)) > r.limit { // it grew meanwhile
		return nil, stampOf(info), &tooLargeError{int64(len(text)), r.limit}
	}
	return text, stampOf(info), nil
}

func (r *reader) documents(text []byte, old *file) []document {
	type id struct {
		hash uint64
		size int
	}
	known := map[id]document{}
	if old != nil {
		for _, d := range old.docs {
			known[id{d.hash, d.size}] = d
		}
	}
	var out []document
	for _, raw := range source.Split(text) {
		d := document{hash: maphash.Bytes(r.seed, raw.Text), size: len(raw.Text)}
		if same, ok := known[id{d.hash, d.size}]; ok {
			d = same
		} else {
			d.objects, d.problems = source.Document{Text: raw.Text, Line: 1}.Decode(r.labels...)
			d.objects, d.problems = r.inRange(d.objects, d.problems)
			for i := range d.objects {
				slim(&d.objects[i])
			}
		}
		d.line = raw.Line
		out = append(out, d)
	}
	return out
}

// locate gives a problem of a document its place in the file.
func locate(p source.Problem, path string, docLine int) source.Problem {
	p.File = path
	if p.Line > 0 {
		p.Line += docLine - 1
	}
	return p
}
