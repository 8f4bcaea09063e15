package files

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/source"
)

// registry knows which file defines which object, and decides which definition
// is in force. It does no input or output.
type registry struct {
	files map[string]*fileDefs
	keys  map[model.Key]*entry
	dirty map[model.Key]struct{} // to be decided again
}

// fileDefs is what a file defines.
type fileDefs struct {
	file *file
	defs []*def
}

// def is one definition of an object.
type def struct {
	key   model.Key
	file  string
	index int // in the file
	line  int
	// object is the last good version; nil if there was none.
	object *source.Object
	// errs are what is wrong with the newest version, and keeps it out of
	// force; warnings are what does not.
	errs, warnings []source.Problem
	// held tells what broke the file so that it cannot be known whether the
	// definition is still there.
	held []source.Problem
}

func (d *def) where() string { return fmt.Sprintf("%s:%d", d.file, d.line) }

// entry is an object and all of its definitions, the first of which that was
// ever good is in force.
type entry struct {
	defs    []*def         // by file and place
	current *source.Object // in force; nil if none is
	origin  string         // where current was defined
	extra   []source.Problem
}

func newRegistry() *registry {
	return &registry{files: map[string]*fileDefs{}, keys: map[model.Key]*entry{}, dirty: map[model.Key]struct{}{}}
}

// set replaces what a file says; nil takes it away.
func (r *registry) set(path string, f *file) {
	old := r.files[path]
	if old != nil {
		for _, d := range old.defs {
			r.detach(d)
		}
	}
	if f == nil {
		delete(r.files, path)
		return
	}
	next := &fileDefs{file: f, defs: defsOf(f, old)}
	r.files[path] = next
	for _, d := range next.defs {
		r.attach(d)
	}
}

func (r *registry) detach(d *def) {
	r.dirty[d.key] = struct{}{}
	e := r.keys[d.key]
	e.defs = slices.DeleteFunc(e.defs, func(o *def) bool { return o == d })
}

func (r *registry) attach(d *def) {
	r.dirty[d.key] = struct{}{}
	e := r.keys[d.key]
	if e == nil {
		e = &entry{}
		r.keys[d.key] = e
	}
	at, _ := slices.BinarySearchFunc(e.defs, d, func(a, b *def) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.index, b.index))
	})
	e.defs = slices.Insert(e.defs, at, d)
}

// defsOf lists what a file defines. A definition that is wrong now keeps the
// last good version from old, and so does one that is lost in a document that
// does not parse.
func defsOf(f *file, old *fileDefs) []*def {
	good := map[model.Key]*def{}
	if old != nil {
		for _, d := range old.defs {
			if good[d.key] == nil && d.object != nil {
				good[d.key] = d
			}
		}
	}
	var out []*def
	seen := map[model.Key]bool{}
	add := func(d *def) *def {
		d.file, d.index = f.path, len(out)
		out = append(out, d)
		seen[d.key] = true
		return d
	}
	for i := range f.docs {
		doc := &f.docs[i]
		inDoc := map[model.Key]*def{}
		for j := range doc.objects {
			o := &doc.objects[j]
			inDoc[o.Key] = add(&def{key: o.Key, line: o.Line + doc.line - 1, object: o})
		}
		for _, p := range doc.problems {
			if !p.HasKey {
				continue
			}
			d := inDoc[p.Key]
			p = locate(p, f.path, doc.line)
			if d == nil {
				d = add(&def{key: p.Key, line: p.Line})
				inDoc[p.Key] = d
				if last := good[p.Key]; last != nil {
					d.object = last.object
				}
			}
			if p.Warning {
				d.warnings = append(d.warnings, p)
			} else {
				d.errs = append(d.errs, p)
			}
		}
	}
	if f.broken != nil && old != nil {
		for _, d := range old.defs {
			if seen[d.key] || d.object == nil {
				continue
			}
			p := *f.broken
			p.Key, p.HasKey, p.Object = d.key, true, d.key.String()
			add(&def{key: d.key, line: d.line, object: d.object, held: []source.Problem{p}})
		}
	}
	return out
}

// change is an object whose definition in force has changed.
type change struct {
	key    model.Key
	object *source.Object // nil: it is gone
}

// decide returns what has changed since it was called before, in the order of
// the keys.
func (r *registry) decide() (changes []change, touched []model.Key) {
	for key := range r.dirty {
		touched = append(touched, key)
	}
	slices.SortFunc(touched, compareKeys)
	clear(r.dirty)
	for _, key := range touched {
		e := r.keys[key]
		e.extra = nil
		if len(e.defs) == 0 {
			delete(r.keys, key)
			if e.current != nil {
				changes = append(changes, change{key, nil})
			}
			continue
		}
		winner := e.defs[0]
		if i := slices.IndexFunc(e.defs, func(d *def) bool { return d.object != nil }); i >= 0 {
			winner = e.defs[i]
		}
		for _, d := range e.defs {
			if d != winner && len(d.errs)+len(d.held) == 0 {
				e.extra = append(e.extra, source.Problem{
					File: d.file, Line: d.line, Object: key.String(), Key: key, HasKey: true, Reason: source.ReasonDuplicate,
					Err: fmt.Errorf("is defined at %s already; this one is left out", winner.where()),
				})
			}
		}
		if winner.object == nil {
			continue // what was in force stays, if anything was
		}
		e.origin = winner.where()
		if next := winner.object; e.current == nil || !next.Kind.Equal(e.current.Value, next.Value) || !sameRequest(e.current, next) {
			e.current = winner.object
			changes = append(changes, change{key, winner.object})
		}
	}
	return changes, touched
}

func compareKeys(a, b model.Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// problems returns what is wrong with an object, what broke the file that
// defines it, and where that is.
func (r *registry) problems(key model.Key) (own, held []source.Problem, where string) {
	e := r.keys[key]
	if e == nil {
		return nil, nil, ""
	}
	where = e.origin
	for _, d := range e.defs {
		if where == "" {
			where = d.where()
		}
		own = append(own, d.errs...)
		own = append(own, d.warnings...)
		held = append(held, d.held...)
	}
	return append(own, e.extra...), held, where
}
