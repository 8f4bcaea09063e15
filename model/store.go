package model

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/sluicenet/sluice/internal/btree"
)

// Store holds the newest snapshot and tells its watchers what changed. Sources
// write to it, parts watch it.
type Store struct {
	snapshot atomic.Pointer[Snapshot]

	mu       sync.Mutex // serialises updates; guards watchers
	watchers map[*Watcher]struct{}
}

// NewStore returns a store that holds nothing.
func NewStore() *Store {
	s := &Store{watchers: map[*Watcher]struct{}{}}
	s.snapshot.Store(Empty())
	return s
}

// Snapshot returns the newest snapshot.
func (s *Store) Snapshot() *Snapshot { return s.snapshot.Load() }

// Update runs fn on a transaction and makes what it wrote the newest snapshot,
// all at once. fn must not keep the transaction.
func (s *Store) Update(fn func(*Txn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.snapshot.Load()
	tx := &Txn{old: old, synced: old.synced}
	fn(tx)
	if len(tx.changed) == 0 && tx.synced == old.synced {
		return
	}
	next := tx.commit()
	s.snapshot.Store(next)
	for w := range s.watchers {
		w.add(tx.changed)
	}
}

// Watch returns a watcher whose first [Watcher.Next] delivers everything there
// is. Stop it when it is no longer read.
func (s *Store) Watch() *Watcher {
	w := &Watcher{store: s, seen: Empty(), pending: map[Key]struct{}{}, spare: map[Key]struct{}{}, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[w] = struct{}{}
	w.wake <- struct{}{}
	snap := s.snapshot.Load()
	for kind := range kindCount {
		for key := range snap.Keys(kind) {
			w.pending[key] = struct{}{}
		}
	}
	return w
}

// Txn is one update of a [Store].
type Txn struct {
	old     *Snapshot
	synced  uint64
	tables  [kindCount]*btree.Txn[Name, named]
	indexes [indexCount]*btree.Txn[indexKey, indexed]
	changed []Key // some perhaps more than once
}

// Put adds or replaces an object. The object belongs to the store from then on
// and must not be written to. kind must be the object's own.
func (t *Txn) Put(kind KindID, obj interface {
	GetNamespace() string
	GetName() string
}) {
	old, had := t.table(kind).Set(obj)
	if had && old == obj {
		return
	}
	// In this order an entry that stays is replaced in place.
	t.index(kind, obj)
	if had {
		t.unindex(kind, old)
	}
	t.changed = append(t.changed, Key{kind, obj.GetNamespace(), obj.GetName()})
}

// Delete removes an object; one that is not there is not an error.
func (t *Txn) Delete(key Key) {
	old, had := t.table(key.Kind).Remove(Name{key.Namespace, key.Name})
	if !had {
		return
	}
	t.unindex(key.Kind, old)
	t.changed = append(t.changed, key)
}

// Any returns the object as this transaction has it so far, or nil.
func (t *Txn) Any(key Key) any {
	v, _ := t.table(key.Kind).Get(Name{key.Namespace, key.Name})
	return v
}

// Keys yields the key of every object of a kind as this transaction has them so
// far, in order. The transaction must not be written to meanwhile.
func (t *Txn) Keys(kind KindID) iter.Seq[Key] { return keysOf(t.table(kind).Tree, kind) }

// MarkSynced says that the source has delivered its first full state of kind.
func (t *Txn) MarkSynced(kind KindID) { t.synced |= 1 << kind }

// Put adds or replaces an object of the kind; see [Txn.Put].
func (k Kind[T]) Put(t *Txn, obj T) {
	t.Put(k.id, any(obj).(named))
}

func (t *Txn) table(kind KindID) *btree.Txn[Name, named] {
	if t.tables[kind] == nil {
		t.tables[kind] = t.old.tables[kind].Txn()
	}
	return t.tables[kind]
}

func (t *Txn) indexTxn(id indexID) *btree.Txn[indexKey, indexed] {
	if t.indexes[id] == nil {
		t.indexes[id] = t.old.indexes[id].Txn()
	}
	return t.indexes[id]
}

func (t *Txn) index(kind KindID, obj named) {
	for _, x := range indexesOf[kind] {
		x.each(obj, func(e indexed) { t.indexTxn(x.id).Set(e) })
	}
}

// unindex removes the entries that still lead to obj.
func (t *Txn) unindex(kind KindID, obj named) {
	for _, x := range indexesOf[kind] {
		x.each(obj, func(e indexed) {
			key := x.order.Key(e)
			if at, ok := t.indexTxn(x.id).Get(key); ok && at.obj == obj {
				t.indexTxn(x.id).Remove(key)
			}
		})
	}
}

func (t *Txn) commit() *Snapshot {
	next := *t.old
	next.revision++
	next.synced = t.synced
	for i, tx := range t.tables {
		if tx != nil {
			next.tables[i] = tx.Commit()
		}
	}
	for i, tx := range t.indexes {
		if tx != nil {
			next.indexes[i] = tx.Commit()
		}
	}
	return &next
}

// Watcher is one consumer of a [Store], at its own pace.
type Watcher struct {
	store *Store
	seen  *Snapshot        // only touched by Next
	spare map[Key]struct{} // empty, for the next pending; only touched by Next

	mu      sync.Mutex // guards pending
	pending map[Key]struct{}
	wake    chan struct{} // holds one token while there may be something to see
}

// Update is what a watcher has not seen yet: the step from Old, the New of the
// update before, to New.
type Update struct {
	Old, New *Snapshot
	// Changed names every object that differs between Old and New, once, in
	// no order. It is exact: what changed and changed back is not in it.
	Changed []Key
}

// Next waits until there is a snapshot that this watcher has not seen and
// returns the step to it; updates in between are merged. The first call
// returns at once, with everything that there is. Only one goroutine may call
// it. The error is the context's.
func (w *Watcher) Next(ctx context.Context) (Update, error) {
	for {
		select {
		case <-ctx.Done():
			return Update{}, ctx.Err()
		case <-w.wake:
		}
		w.store.mu.Lock()
		next := w.store.snapshot.Load()
		w.mu.Lock()
		pending := w.pending
		w.pending, w.spare = w.spare, nil
		w.mu.Unlock()
		w.store.mu.Unlock()

		up := Update{Old: w.seen, New: next}
		for key := range pending {
			if up.Old.get(key) != next.get(key) {
				up.Changed = append(up.Changed, key)
			}
		}
		w.reuse(pending)
		first := w.seen.revision == 0
		if len(up.Changed) == 0 && !first && up.Old.synced == next.synced {
			continue
		}
		w.seen = next
		return up, nil
	}
}

// reuse keeps a map for later, unless a big update has made it big.
func (w *Watcher) reuse(m map[Key]struct{}) {
	const most = 1024
	if len(m) > most {
		m = map[Key]struct{}{}
	}
	clear(m)
	w.spare = m
}

// Stop ends the watch.
func (w *Watcher) Stop() {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	delete(w.store.watchers, w)
}

func (w *Watcher) add(keys []Key) {
	w.mu.Lock()
	for _, k := range keys {
		w.pending[k] = struct{}{}
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
