package model

import (
	"iter"
	"strings"

	"github.com/sluicenet/sluice/internal/btree"
)

// Snapshot is the cluster at one moment. It never changes; any number of
// goroutines may read it, for as long as they like.
type Snapshot struct {
	revision uint64
	synced   uint64 // a bit for each kind
	tables   [kindCount]table
	indexes  [indexCount]index
}

// table has the objects of a kind by name, and index those of some key.
type (
	table = btree.Tree[Name, named]
	index = btree.Tree[indexKey, indexed]
)

// named is any object.
type named interface {
	GetNamespace() string
	GetName() string
}

var byName = &btree.Order[Name, named]{Key: nameOf, Compare: compareNames}

func nameOf(obj named) Name { return Name{obj.GetNamespace(), obj.GetName()} }

func compareNames(a, b Name) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// Empty returns the snapshot of nothing.
func Empty() *Snapshot {
	s := &Snapshot{}
	for i := range s.tables {
		s.tables[i] = btree.New(byName)
	}
	for _, list := range indexesOf {
		for _, x := range list {
			s.indexes[x.id] = btree.New(x.order)
		}
	}
	return s
}

// Revision counts the updates that led to this snapshot.
func (s *Snapshot) Revision() uint64 { return s.revision }

// Synced reports whether the source has delivered its first full state of all
// these kinds. Kinds that a cluster does not have count as delivered.
func (s *Snapshot) Synced(kinds ...KindID) bool {
	for _, k := range kinds {
		if s.synced&(1<<k) == 0 {
			return false
		}
	}
	return true
}

// Has reports whether the snapshot holds the object of that key.
func (s *Snapshot) Has(key Key) bool { return s.get(key) != nil }

// Any returns the object of that key, or nil.
func (s *Snapshot) Any(key Key) any { return s.get(key) }

func (s *Snapshot) get(key Key) any {
	v, _ := s.tables[key.Kind].Get(Name{key.Namespace, key.Name})
	return v
}

// Keys yields the key of every object of a kind, in order.
func (s *Snapshot) Keys(kind KindID) iter.Seq[Key] { return keysOf(s.tables[kind], kind) }

func keysOf(t table, kind KindID) iter.Seq[Key] {
	return func(yield func(Key) bool) {
		for obj := range t.All() {
			if !yield(Key{kind, obj.GetNamespace(), obj.GetName()}) {
				return
			}
		}
	}
}

// Kind gives typed access to the objects of one kind.
type Kind[T Object] struct{ id KindID }

// ID returns the kind's number.
func (k Kind[T]) ID() KindID { return k.id }

// Key returns the key of an object of this kind.
func (k Kind[T]) Key(obj T) Key { return Key{k.id, obj.GetNamespace(), obj.GetName()} }

// Get returns one object. The zero T and false mean that there is none.
func (k Kind[T]) Get(s *Snapshot, namespace, name string) (T, bool) {
	v, ok := s.tables[k.id].Get(Name{namespace, name})
	if !ok {
		var none T
		return none, false
	}
	return any(v).(T), true
}

// All yields every object, ordered by namespace and name.
func (k Kind[T]) All(s *Snapshot) iter.Seq[T] {
	return func(yield func(T) bool) {
		for obj := range s.tables[k.id].All() {
			if !yield(any(obj).(T)) {
				return
			}
		}
	}
}

// In yields the objects of one namespace, ordered by name.
func (k Kind[T]) In(s *Snapshot, namespace string) iter.Seq[T] {
	return func(yield func(T) bool) {
		for obj := range s.tables[k.id].From(Name{Namespace: namespace}) {
			if obj.GetNamespace() != namespace || !yield(any(obj).(T)) {
				return
			}
		}
	}
}

// Len returns how many objects there are.
func (k Kind[T]) Len(s *Snapshot) int { return s.tables[k.id].Len() }
