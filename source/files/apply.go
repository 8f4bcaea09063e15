package files

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/source"
)

// note takes in one event.
func (s *Source) note(b *batch, ev event, now time.Time) {
	if ev.dir == "" { // events were lost
		b.everything(now)
		return
	}
	if ev.name == "" {
		if ev.mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF) != 0 {
			b.everything(now)
		}
		return
	}
	if s.links[ev.dir][ev.name] {
		b.everything(now)
		return
	}
	if !s.dirs[ev.dir] || strings.HasPrefix(ev.name, ".") {
		return
	}
	if ev.mask&unix.IN_ISDIR != 0 {
		if ev.mask&(unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE) != 0 {
			b.everything(now)
		}
		return
	}
	path, ok := s.rel(ev.dir, ev.name)
	if !ok {
		return
	}
	switch {
	case ev.mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		info, err := os.Lstat(filepath.Join(ev.dir, ev.name))
		switch {
		case err != nil: // gone again
		case info.Mode()&os.ModeSymlink != 0: // of a file or of a folder
			b.everything(now)
		case !isManifest(ev.name):
		case !info.Mode().IsRegular(): // no manifest, of which the reader tells
			b.ready(path, now)
		case ev.mask&unix.IN_MOVED_TO != 0:
			b.ready(path, now)
			if s.moved.path != "" && s.moved.id == ev.move {
				b.ready(s.moved.path, now) // it is known where the file went
			}
		case links(info) > 1: // a hard link is complete
			b.ready(path, now)
		default:
			b.writing(path, now)
		}
	case !isManifest(ev.name):
	case ev.mask&unix.IN_CLOSE_WRITE != 0:
		b.ready(path, now)
	case ev.mask&unix.IN_MODIFY != 0:
		b.writing(path, now)
	case ev.mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0:
		b.removed(path, now)
		if ev.mask&unix.IN_MOVED_FROM != 0 {
			s.moved = move{ev.move, path}
		}
	case ev.mask&unix.IN_ATTRIB != 0 && !b.busy(path): // it may be readable now
		b.ready(path, now)
	}
}

func links(info os.FileInfo) uint64 {
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(sys.Nlink) //nolint:unconvert // of another type on other architectures
	}
	return 1
}

// commit decides which definitions are in force and brings the model and the
// board up to date.
func (s *Source) commit(paths []string) {
	changes, touched := s.registry.decide()
	var services []change
	puts := map[model.Key]source.Value{}
	var deletes []model.Key
	for _, c := range changes {
		switch {
		case c.key.Kind == model.KindService:
			services = append(services, c)
		case c.object != nil:
			puts[c.key] = c.object.Value
		}
		if c.object == nil {
			deletes = append(deletes, c.key)
		}
	}
	for key, service := range s.alloc.apply(services) {
		puts[key] = service
		touched = append(touched, key)
	}
	slices.SortFunc(touched, compareKeys)
	touched = slices.Compact(touched)

	// What was there at the start is older than all that comes later.
	var created metav1.Time
	if s.loaded {
		created = metav1.NewTime(time.Now().Truncate(time.Second))
	}
	s.opts.Store.Update(func(tx *model.Txn) {
		for _, key := range deletes {
			tx.Delete(key)
		}
		for key, value := range puts {
			kind, _ := source.KindOf(key.Kind)
			value = generation(tx, key, value, created)
			if old, ok := tx.Any(key).(source.Value); ok && kind.Equal(old, value) {
				delete(puts, key)
				continue
			}
			tx.Put(key.Kind, value)
		}
		if !s.loaded {
			for _, kind := range source.Kinds() {
				tx.MarkSynced(kind.ID)
			}
		}
	})
	for _, key := range touched {
		s.report(key)
	}
	if s.loaded && len(puts)+len(deletes) > 0 {
		s.log.Info("manifests changed", "files", abbreviate(paths), "set", len(puts), "deleted", len(deletes))
	}
	s.loaded = true
}

// generation counts the versions of an object in its metadata, as the API
// server does, since conditions refer to it, and says when it came, since of two
// that contend for a host or a port the older has it: what is added never takes
// anything from what is there. It returns a copy, because the value may have
// been in the store before.
func generation(tx *model.Txn, key model.Key, value source.Value, created metav1.Time) source.Value {
	api, ok := value.(runtime.Object)
	if !ok {
		return value
	}
	next := api.DeepCopyObject()
	m := next.(metav1.Object)
	m.SetGeneration(1)
	given := m.GetCreationTimestamp()
	if given.IsZero() {
		m.SetCreationTimestamp(created)
	}
	if old, ok := tx.Any(key).(metav1.Object); ok {
		kind, _ := source.KindOf(key.Kind)
		m.SetGeneration(old.GetGeneration())
		if given.IsZero() {
			m.SetCreationTimestamp(old.GetCreationTimestamp())
		}
		if !kind.Equal(old.(source.Value), next.(source.Value)) {
			m.SetGeneration(old.GetGeneration() + 1)
		}
	}
	return next.(source.Value)
}

// report puts on the board what there is to say of an object. What broke its
// file is said on the object too, but counts, and is logged, as a problem of
// the file alone.
func (s *Source) report(key model.Key) {
	problems, held, where := s.registry.problems(key)
	for _, p := range s.alloc.problems(key) {
		p.File = where
		problems = append(problems, p)
	}
	s.mu.Lock()
	old := s.byObject[key]
	if len(problems) == 0 {
		delete(s.byObject, key)
	} else {
		s.byObject[key] = problems
	}
	s.mu.Unlock()
	s.logNew(old, problems)
	switch {
	case s.opts.Board == nil:
	case where == "":
		s.opts.Board.Clear(Part, key)
	default:
		s.opts.Board.Set(Part, key, status.Report{Conditions: source.Conditions(slices.Concat(held, problems)), Where: where})
	}
}

// fileProblems keeps what is wrong with a file and with documents that name no
// object.
func (s *Source) fileProblems(path string, f *file) {
	var problems []source.Problem
	if f != nil {
		if f.broken != nil && len(f.docs) == 0 {
			problems = append(problems, *f.broken)
		}
		for _, d := range f.docs {
			for _, p := range d.problems {
				if !p.HasKey {
					problems = append(problems, locate(p, path, d.line))
				}
			}
		}
	}
	s.mu.Lock()
	old := s.byFile[path]
	if len(problems) == 0 {
		delete(s.byFile, path)
	} else {
		s.byFile[path] = problems
	}
	s.mu.Unlock()
	s.logNew(old, problems)
}

// logNew logs the problems that were not there before. One that only moved to
// another line was.
func (s *Source) logNew(old, now []source.Problem) {
	for _, p := range now {
		same := func(o source.Problem) bool {
			return o.Object == p.Object && o.Reason == p.Reason && o.Err.Error() == p.Err.Error()
		}
		switch {
		case slices.ContainsFunc(old, same):
		case p.Reason == source.ReasonIgnored:
			s.log.Debug("manifest left alone", "problem", p.Error())
		default:
			s.log.Warn("manifest with a mistake", "reason", string(p.Reason), "problem", p.Error())
		}
	}
}

func compareProblems(a, b source.Problem) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Error(), b.Error()))
}

// abbreviate lists files for a log line.
func abbreviate(paths []string) []string {
	if len(paths) > 5 {
		return append(slices.Clone(paths[:4]), "…")
	}
	return paths
}
