// Package files reads the objects of the model from a directory of manifests
// and follows its changes. It does what the API server would on a cluster: it
// checks the objects, fills in defaults, and gives Services their addresses
// and node ports.
//
// A document that does not parse or is not valid is reported, with its file,
// line, object and field, and the last good version of its object stays in
// force. Nothing else is affected.
package files

import (
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/source"
)

// Part is the name under which reports are on the status board.
const Part = "source"

// DefaultMaxFileSize is the limit on a file's size in bytes.
const DefaultMaxFileSize = 4 << 20

// DefaultServiceCIDRs returns the ranges of addresses for Services, IPv4 first.
func DefaultServiceCIDRs() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")}
}

// Options say what to read and where to put it.
type Options struct {
	Dir   string        // the directory; required
	Store *model.Store  // gets the objects; required
	Board *status.Board // gets what is wrong with them; may be nil
	Log   *slog.Logger  // nil: slog.Default()
	// ServiceCIDRs are the ranges from which Services without an address get
	// one. The family of the first is that of a Service which names none.
	// Empty: DefaultServiceCIDRs.
	ServiceCIDRs []netip.Prefix
	// ServiceLabels are names of labels that are kept of Services because a
	// selector reads them.
	ServiceLabels []string
	// MaxFileSize in bytes is the size above which a file is refused. 0:
	// DefaultMaxFileSize.
	MaxFileSize int64
	// Rescan is how often the whole directory is looked at, in case that the
	// kernel did not tell of a change, as on network file systems. 0: every
	// 30 s.
	Rescan time.Duration
}

// Source reads one directory.
type Source struct {
	opts   Options
	log    *slog.Logger
	reader *reader
	ready  chan struct{}

	patience patience

	// Only Run touches the following.
	registry *registry
	alloc    *allocator
	stamps   map[string]stamp
	links    map[string]map[string]bool
	dirs     map[string]bool
	second   map[string]bool // files that are looked at again because they broke
	loaded   bool
	moved    move

	mu       sync.Mutex                     // guards following
	byFile   map[string][]source.Problem    // of files and of documents without a usable name
	byObject map[model.Key][]source.Problem // of objects
	unread   []source.Problem               // of the directory
}

// move is a file that was moved away last.
type move struct {
	id   uint32
	path string
}

// New returns a source; Run starts it.
func New(o Options) *Source {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if len(o.ServiceCIDRs) == 0 {
		o.ServiceCIDRs = DefaultServiceCIDRs()
	}
	if o.MaxFileSize == 0 {
		o.MaxFileSize = DefaultMaxFileSize
	}
	if o.Rescan == 0 {
		o.Rescan = 30 * time.Second
	}
	if dir, err := filepath.Abs(o.Dir); err == nil {
		o.Dir = dir
	}
	return &Source{
		opts:     o,
		log:      o.Log.With("dir", o.Dir),
		reader:   &reader{root: o.Dir, limit: o.MaxFileSize, seed: maphash.MakeSeed(), cidrs: o.ServiceCIDRs, labels: o.ServiceLabels},
		ready:    make(chan struct{}),
		patience: usual,
		registry: newRegistry(), alloc: newAllocator(o.ServiceCIDRs),
		stamps: map[string]stamp{}, second: map[string]bool{},
		byFile: map[string][]source.Problem{}, byObject: map[model.Key][]source.Problem{},
	}
}

// Ready is closed when the directory has been read for the first time, and
// what it says is in the store.
func (s *Source) Ready() <-chan struct{} { return s.ready }

// Problems returns all that is wrong with the manifests now, by file and line.
func (s *Source) Problems() []source.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.unread)
	for _, p := range s.byFile {
		out = append(out, p...)
	}
	for _, p := range s.byObject {
		out = append(out, p...)
	}
	slices.SortFunc(out, compareProblems)
	return out
}

// Run reads the directory and follows it until the context ends. The error is
// that the directory could not be read at the start, or cannot be watched; one
// that goes away later stays in force as it was.
func (s *Source) Run(ctx context.Context) error {
	n, err := newNotifier()
	if err != nil {
		return err
	}
	defer n.close() //nolint:errcheck // nothing is written to it
	l, err := walk(s.opts.Dir, n.watch)
	if err != nil {
		return err
	}
	s.load(l)
	close(s.ready)

	b := newBatch(s.patience)
	rescan := time.NewTicker(s.opts.Rescan)
	defer rescan.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if wait, some := b.wait(time.Now()); some {
			timer.Reset(wait)
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return nil
		case evs, open := <-n.events:
			if !open {
				return errors.New("manifests: the kernel ended the watch")
			}
			for _, ev := range evs {
				s.note(b, ev, time.Now())
			}
		case <-rescan.C:
			b.everything(time.Now())
		case <-timer.C:
			if wait, some := b.wait(time.Now()); some && wait == 0 {
				s.take(n, b)
			}
		}
	}
}

// take reads what a batch has ready.
func (s *Source) take(n *notifier, b *batch) {
	now := time.Now()
	paths, full := b.take(now)
	if full {
		l, err := walk(s.opts.Dir, n.watch)
		s.lost(err)
		if err == nil {
			n.unwatch(func(dir string) bool { return l.dirs[dir] || l.links[dir] != nil })
			paths = append(paths, s.compare(l, b)...)
			slices.Sort(paths)
			paths = slices.Compact(paths)
		}
	}
	if len(paths) > 0 {
		s.read(paths, func(path string) { b.again(path, now.Add(b.mending)) })
	}
}

// load reads everything for the first time.
func (s *Source) load(l *listing) {
	start := time.Now()
	paths := s.compare(l, newBatch(s.patience))
	s.read(paths, nil)
	s.log.Info("read the manifests", "files", len(paths), "objects", len(s.registry.keys), "problems", len(s.Problems()), "took", time.Since(start).Round(time.Millisecond))
}

// compare takes in a listing and returns the files that differ from it.
func (s *Source) compare(l *listing, b *batch) []string {
	var paths []string
	for path, st := range l.files {
		if old, had := s.stamps[path]; (!had || old != st) && !b.busy(path) {
			paths = append(paths, path)
		}
	}
	for path := range s.stamps {
		if _, there := l.files[path]; !there && !b.busy(path) {
			paths = append(paths, path)
		}
	}
	s.links, s.dirs = l.links, l.dirs
	slices.Sort(paths)
	return paths
}

// lost reports, and takes back, that the directory cannot be read.
func (s *Source) lost(err error) {
	s.mu.Lock()
	had := len(s.unread) > 0
	s.unread = nil
	if err != nil {
		s.unread = []source.Problem{{Reason: source.ReasonUnread, Err: err}}
	}
	s.mu.Unlock()
	if err != nil && !had {
		s.log.Error("cannot read the manifests; what they said last stays in force", "err", err)
	}
	if err == nil && had {
		s.log.Info("the manifests can be read again")
	}
}

// read reads files and brings the model up to date, in one update. again is
// called for files that look like half of an edit; nil takes them as they are.
func (s *Source) read(paths []string, again func(path string)) {
	files, stamps := make([]*file, len(paths)), make([]stamp, len(paths))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, path := range paths {
		var old *file
		if defs := s.registry.files[path]; defs != nil {
			old = defs.file
		}
		read := func() error {
			files[i], stamps[i] = s.reader.read(path, old)
			return nil
		}
		if len(paths) == 1 {
			_ = read()
			continue
		}
		group.Go(read)
	}
	_ = group.Wait() // read returns no error

	for i, path := range paths {
		f := files[i]
		old := s.registry.files[path]
		if f != nil && f.halfWritten && again != nil && !s.second[path] && (old == nil || !old.file.halfWritten) {
			s.second[path] = true
			again(path)
			continue
		}
		delete(s.second, path)
		if f == nil {
			delete(s.stamps, path)
		} else {
			s.stamps[path] = stamps[i]
		}
		s.registry.set(path, f)
		s.fileProblems(path, f)
	}
	s.commit(paths)
}

// rel returns the path under the directory of an entry of a folder.
func (s *Source) rel(dir, name string) (string, bool) {
	rel, err := filepath.Rel(s.opts.Dir, filepath.Join(dir, name))
	return rel, err == nil && filepath.IsLocal(rel)
}
