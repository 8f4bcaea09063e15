// Package btree is an immutable ordered map that finds values by keys which it
// reads from the values themselves: a B-tree of which a change copies the path from
// the root to what it changes. It is our own because the cluster's whole size is in
// these trees: an entry costs some 20 bytes here, against 900 in a radix tree whose
// every node carries a channel to watch it by.
package btree

import "iter"

// Order is how the values of trees are ordered. Two values of a tree never have
// the same key, and the key of a value never changes.
type Order[K, V any] struct {
	// Key reads the key of a value. It is called at every comparison.
	Key func(V) K
	// Compare is negative if a is before b, and 0 if they are the same key.
	Compare func(a, b K) int
}

// Tree is an immutable ordered map. Any number of goroutines may read it. The
// zero value is an empty tree that cannot be changed; [New] returns one that can.
type Tree[K, V any] struct {
	order *Order[K, V]
	root  *node[K, V]
	size  int
}

// New returns the tree of nothing.
func New[K, V any](order *Order[K, V]) Tree[K, V] { return Tree[K, V]{order: order} }

// Len returns the number of values.
func (t Tree[K, V]) Len() int { return t.size }

// Get returns the value of a key.
func (t Tree[K, V]) Get(key K) (value V, ok bool) {
	for nd := t.root; nd != nil; {
		i, found := nd.search(t.order, key)
		if found {
			return nd.items[i], true
		}
		if nd.kids == nil {
			break
		}
		nd = nd.kids[i]
	}
	return value, false
}

// All yields all values in order.
func (t Tree[K, V]) All() iter.Seq[V] {
	return func(yield func(V) bool) { t.root.all(yield) }
}

// From yields the values from a key on, in order.
func (t Tree[K, V]) From(key K) iter.Seq[V] {
	return func(yield func(V) bool) { t.root.from(t.order, key, yield) }
}

// Nodes but the root hold from minItems to maxItems entries, or at least one
// where keys came in ascending order, as those of a list do: then the node that
// they leave behind stays full. Small nodes make a change cheap; 40,000 entries
// are five levels.
const (
	minItems = 4
	maxItems = 2*minItems + 1
)

type node[K, V any] struct {
	owner *owner // the transaction that may write to it
	n     int
	items [maxItems]V
	kids  *[maxItems + 1]*node[K, V] // nil in a leaf
}

// owner is an identity; it has a size, since pointers to values without one
// may be equal.
type owner struct{ _ byte }

// search returns where key is, or where the child is that has it.
func (nd *node[K, V]) search(order *Order[K, V], key K) (at int, found bool) {
	low, high := 0, nd.n
	for low < high {
		mid := int(uint(low+high) / 2)
		switch c := order.Compare(order.Key(nd.items[mid]), key); {
		case c == 0:
			return mid, true
		case c < 0:
			low = mid + 1
		default:
			high = mid
		}
	}
	return low, false
}

func (nd *node[K, V]) all(yield func(V) bool) bool {
	if nd == nil {
		return true
	}
	if nd.kids != nil && !nd.kids[0].all(yield) {
		return false
	}
	for i := range nd.n {
		if !yield(nd.items[i]) || nd.kids != nil && !nd.kids[i+1].all(yield) {
			return false
		}
	}
	return true
}

func (nd *node[K, V]) from(order *Order[K, V], key K, yield func(V) bool) bool {
	if nd == nil {
		return true
	}
	i, found := nd.search(order, key)
	if !found && nd.kids != nil && !nd.kids[i].from(order, key, yield) {
		return false
	}
	for ; i < nd.n; i++ {
		if !yield(nd.items[i]) || nd.kids != nil && !nd.kids[i+1].all(yield) {
			return false
		}
	}
	return true
}

// Txn changes a tree; the tree stays as it is.
type Txn[K, V any] struct {
	Tree[K, V]
	owner *owner
}

// Txn begins a change.
func (t Tree[K, V]) Txn() *Txn[K, V] { return &Txn[K, V]{t, &owner{}} }

// Commit returns the tree as changed. The transaction may not be used after.
func (t *Txn[K, V]) Commit() Tree[K, V] {
	t.owner = nil
	return t.Tree
}

// own returns a node that this transaction may write to.
func (t *Txn[K, V]) own(nd *node[K, V]) *node[K, V] {
	if nd.owner == t.owner {
		return nd
	}
	c := *nd
	c.owner = t.owner
	if nd.kids != nil {
		kids := *nd.kids
		c.kids = &kids
	}
	return &c
}

// ownKid is own for a child of a node that is owned.
func (t *Txn[K, V]) ownKid(nd *node[K, V], i int) *node[K, V] {
	nd.kids[i] = t.own(nd.kids[i])
	return nd.kids[i]
}

// Set puts a value and returns the one of the same key before.
func (t *Txn[K, V]) Set(value V) (old V, had bool) {
	key := t.order.Key(value)
	if t.root == nil {
		t.root = &node[K, V]{owner: t.owner}
	}
	t.root = t.own(t.root)
	if t.root.n == maxItems {
		t.root = &node[K, V]{owner: t.owner, kids: &[maxItems + 1]*node[K, V]{t.root}}
		t.split(t.root, 0, key)
	}
	old, had = t.insert(t.root, key, value)
	if !had {
		t.size++
	}
	return old, had
}

// insert puts an entry under an owned node that is not full.
func (t *Txn[K, V]) insert(nd *node[K, V], key K, value V) (old V, had bool) {
	for {
		i, found := nd.search(t.order, key)
		if !found && nd.kids != nil && nd.kids[i].n == maxItems {
			t.ownKid(nd, i)
			t.split(nd, i, key)
			i, found = nd.search(t.order, key)
		}
		if found {
			old, nd.items[i] = nd.items[i], value
			return old, true
		}
		if nd.kids == nil {
			copy(nd.items[i+1:nd.n+1], nd.items[i:nd.n])
			nd.items[i] = value
			nd.n++
			return old, false
		}
		nd = t.ownKid(nd, i)
	}
}

// split cuts the full and owned child i in two, to make room for a key: around
// its middle entry, or near its end if the key goes there.
func (t *Txn[K, V]) split(nd *node[K, V], i int, key K) {
	left := nd.kids[i]
	at := minItems
	if t.order.Compare(key, t.order.Key(left.items[maxItems-1])) > 0 {
		at = maxItems - 1 // the key is the first of the new node
		if left.kids != nil {
			at-- // the key goes further down, and a node has an entry
		}
	}
	right := &node[K, V]{owner: t.owner, n: maxItems - at - 1}
	copy(right.items[:], left.items[at+1:])
	if left.kids != nil {
		right.kids = &[maxItems + 1]*node[K, V]{}
		copy(right.kids[:], left.kids[at+1:])
		clear(left.kids[at+1:])
	}
	middle := left.items[at]
	clear(left.items[at:])
	left.n = at
	copy(nd.items[i+1:nd.n+1], nd.items[i:nd.n])
	copy(nd.kids[i+2:nd.n+2], nd.kids[i+1:nd.n+1])
	nd.items[i], nd.kids[i+1] = middle, right
	nd.n++
}

// Remove takes a value out and returns it.
func (t *Txn[K, V]) Remove(key K) (old V, had bool) {
	if old, had = t.Get(key); !had {
		return old, false
	}
	t.root = t.own(t.root)
	t.take(t.root, key)
	t.size--
	if t.root.n == 0 {
		if t.root.kids == nil {
			t.root = nil
		} else {
			t.root = t.root.kids[0]
		}
	}
	return old, true
}

// take takes the entry of a key that is there out from under an owned node,
// which has an entry to spare or is the root.
func (t *Txn[K, V]) take(nd *node[K, V], key K) {
	i, found := nd.search(t.order, key)
	switch {
	case nd.kids == nil:
		nd.cut(i)
	case found && nd.kids[i].n > minItems:
		nd.items[i] = t.takeLast(t.ownKid(nd, i))
	case found && nd.kids[i+1].n > minItems:
		nd.items[i] = t.takeFirst(t.ownKid(nd, i+1))
	case found:
		t.merge(nd, i)
		t.take(nd.kids[i], key)
	default:
		t.take(nd.kids[t.fill(nd, i)], key)
	}
}

func (t *Txn[K, V]) takeLast(nd *node[K, V]) V {
	if nd.kids == nil {
		e := nd.items[nd.n-1]
		nd.cut(nd.n - 1)
		return e
	}
	return t.takeLast(nd.kids[t.fill(nd, nd.n)])
}

func (t *Txn[K, V]) takeFirst(nd *node[K, V]) V {
	if nd.kids == nil {
		e := nd.items[0]
		nd.cut(0)
		return e
	}
	return t.takeFirst(nd.kids[t.fill(nd, 0)])
}

// cut removes an entry of a leaf.
func (nd *node[K, V]) cut(i int) {
	var none V
	copy(nd.items[i:], nd.items[i+1:nd.n])
	nd.n--
	nd.items[nd.n] = none
}

// fill makes child i owned and gives it an entry to spare, from a neighbour or
// by merging it with one. It returns where the child is now.
func (t *Txn[K, V]) fill(nd *node[K, V], i int) int {
	var none V
	kid := t.ownKid(nd, i)
	switch {
	case kid.n > minItems:
	case i > 0 && nd.kids[i-1].n > minItems:
		from := t.ownKid(nd, i-1)
		copy(kid.items[1:kid.n+1], kid.items[:kid.n])
		kid.items[0] = nd.items[i-1]
		nd.items[i-1] = from.items[from.n-1]
		from.items[from.n-1] = none
		if kid.kids != nil {
			copy(kid.kids[1:kid.n+2], kid.kids[:kid.n+1])
			kid.kids[0] = from.kids[from.n]
			from.kids[from.n] = nil
		}
		kid.n++
		from.n--
	case i < nd.n && nd.kids[i+1].n > minItems:
		from := t.ownKid(nd, i+1)
		kid.items[kid.n] = nd.items[i]
		nd.items[i] = from.items[0]
		if kid.kids != nil {
			kid.kids[kid.n+1] = from.kids[0]
			copy(from.kids[:], from.kids[1:from.n+1])
			from.kids[from.n] = nil
		}
		kid.n++
		from.cut(0)
	case i < nd.n:
		t.merge(nd, i)
	default:
		t.merge(nd, i-1)
		return i - 1
	}
	return i
}

// merge joins the children i and i+1, which have no entry to spare, around the
// entry between them. The joined child is owned.
func (t *Txn[K, V]) merge(nd *node[K, V], i int) {
	var none V
	left, right := t.ownKid(nd, i), nd.kids[i+1]
	left.items[left.n] = nd.items[i]
	copy(left.items[left.n+1:], right.items[:right.n])
	if left.kids != nil {
		copy(left.kids[left.n+1:], right.kids[:right.n+1])
	}
	left.n += 1 + right.n
	copy(nd.items[i:], nd.items[i+1:nd.n])
	copy(nd.kids[i+1:], nd.kids[i+2:nd.n+1])
	nd.kids[nd.n] = nil
	nd.n--
	nd.items[nd.n] = none
}
