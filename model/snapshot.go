package model

import (
	"iter"
	"strings"
)

// Snapshot is the cluster at one moment. It never changes; any number of
// goroutines may read it, for as long as they like.
type Snapshot struct {
	revision uint64
	synced   uint64 // a bit for each kind
	tables   [kindCount]tree
	indexes  [indexCount]tree
}

// Empty returns the snapshot of nothing.
func Empty() *Snapshot { return &Snapshot{} }

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
	v, _ := s.tables[key.Kind].get(tableKey(key.Namespace, key.Name))
	return v
}

// Keys yields the key of every object of a kind, in order.
func (s *Snapshot) Keys(kind KindID) iter.Seq[Key] {
	return keysOf(s.tables[kind].root, kind)
}

func keysOf(root *node, kind KindID) iter.Seq[Key] {
	return func(yield func(Key) bool) {
		root.ascend("", func(e entry) bool {
			ns, name, _ := strings.Cut(e.key, sep)
			return yield(Key{kind, ns, name})
		})
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
	v, ok := s.tables[k.id].get(tableKey(namespace, name))
	if !ok {
		var none T
		return none, false
	}
	return v.(T), true
}

// All yields every object, ordered by namespace and name.
func (k Kind[T]) All(s *Snapshot) iter.Seq[T] { return walk[T](s.tables[k.id], "") }

// In yields the objects of one namespace, ordered by name.
func (k Kind[T]) In(s *Snapshot, namespace string) iter.Seq[T] {
	return walk[T](s.tables[k.id], tableKey(namespace, ""))
}

// Len returns how many objects there are.
func (k Kind[T]) Len(s *Snapshot) int { return s.tables[k.id].size }

func walk[T any](t tree, prefix string) iter.Seq[T] {
	return func(yield func(T) bool) {
		t.root.prefixed(prefix, func(e entry) bool { return yield(e.val.(T)) })
	}
}

// sep ends the parts of a key. No Kubernetes name holds it, and it sorts before
// every byte of one.
const sep = "\x00"

func tableKey(namespace, name string) string { return namespace + sep + name }
