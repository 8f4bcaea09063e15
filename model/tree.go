package model

import "strings"

// tree is an immutable map from strings to objects, in the order of the keys:
// a B-tree of which a change copies the path from the root to what it changes.
// It is our own because the cluster's whole size is in these trees: an entry
// costs about 100 bytes here, against some 900 in a radix tree whose every
// node carries a channel to watch it by.
type tree struct {
	root *node
	size int
}

// Nodes but the root hold from minItems to maxItems entries, or at least one
// where keys came in ascending order, as those of a list do: then the node that
// they leave behind stays full. Small nodes make a change cheap; 40,000 entries
// are five levels.
const (
	minItems = 4
	maxItems = 2*minItems + 1
)

type entry struct {
	key string
	val any
}

type node struct {
	owner *owner // the transaction that may write to it
	n     int
	items [maxItems]entry
	kids  *[maxItems + 1]*node // nil in a leaf
}

// owner is an identity; it has a size, since pointers to values without one
// may be equal.
type owner struct{ _ byte }

// search returns where key is, or where the child is that has it.
func (nd *node) search(key string) (at int, found bool) {
	low, high := 0, nd.n
	for low < high {
		mid := int(uint(low+high) / 2)
		switch c := strings.Compare(nd.items[mid].key, key); {
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

func (t tree) get(key string) (any, bool) { return t.root.get(key) }

func (nd *node) get(key string) (any, bool) {
	for nd != nil {
		i, found := nd.search(key)
		if found {
			return nd.items[i].val, true
		}
		if nd.kids == nil {
			break
		}
		nd = nd.kids[i]
	}
	return nil, false
}

// ascend calls fn with the entries from a key on, in order, until it returns
// false.
func (nd *node) ascend(from string, fn func(entry) bool) bool {
	if nd == nil {
		return true
	}
	i, found := nd.search(from)
	if !found && nd.kids != nil && !nd.kids[i].ascend(from, fn) {
		return false
	}
	for ; i < nd.n; i++ {
		if !fn(nd.items[i]) {
			return false
		}
		// All of what follows is beyond from.
		if nd.kids != nil && !nd.kids[i+1].ascend("", fn) {
			return false
		}
	}
	return true
}

// prefixed calls fn with the entries whose keys begin with prefix.
func (nd *node) prefixed(prefix string, fn func(entry) bool) {
	nd.ascend(prefix, func(e entry) bool { return strings.HasPrefix(e.key, prefix) && fn(e) })
}

// treeTxn changes a tree; the tree stays as it is.
type treeTxn struct {
	tree
	owner *owner
}

func (t tree) txn() *treeTxn { return &treeTxn{t, &owner{}} }

// commit returns the tree as changed. The transaction may not be used after.
func (t *treeTxn) commit() tree {
	t.owner = nil
	return t.tree
}

// own returns a node that this transaction may write to.
func (t *treeTxn) own(nd *node) *node {
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
func (t *treeTxn) ownKid(nd *node, i int) *node {
	nd.kids[i] = t.own(nd.kids[i])
	return nd.kids[i]
}

// set puts a value and returns the one before.
func (t *treeTxn) set(key string, val any) (old any, had bool) {
	if t.root == nil {
		t.root = &node{owner: t.owner}
	}
	t.root = t.own(t.root)
	if t.root.n == maxItems {
		t.root = &node{owner: t.owner, kids: &[maxItems + 1]*node{t.root}}
		t.split(t.root, 0, key)
	}
	old, had = t.insert(t.root, entry{key, val})
	if !had {
		t.size++
	}
	return old, had
}

// insert puts an entry under an owned node that is not full.
func (t *treeTxn) insert(nd *node, e entry) (old any, had bool) {
	for {
		i, found := nd.search(e.key)
		if !found && nd.kids != nil && nd.kids[i].n == maxItems {
			t.ownKid(nd, i)
			t.split(nd, i, e.key)
			i, found = nd.search(e.key)
		}
		if found {
			old = nd.items[i].val
			nd.items[i].val = e.val
			return old, true
		}
		if nd.kids == nil {
			copy(nd.items[i+1:nd.n+1], nd.items[i:nd.n])
			nd.items[i] = e
			nd.n++
			return nil, false
		}
		nd = t.ownKid(nd, i)
	}
}

// split cuts the full and owned child i in two, to make room for a key: around
// its middle entry, or near its end if the key goes there.
func (t *treeTxn) split(nd *node, i int, key string) {
	left := nd.kids[i]
	at := minItems
	if key > left.items[maxItems-1].key {
		at = maxItems - 1 // the key is the first of the new node
		if left.kids != nil {
			at-- // the key goes further down, and a node has an entry
		}
	}
	right := &node{owner: t.owner, n: maxItems - at - 1}
	copy(right.items[:], left.items[at+1:])
	if left.kids != nil {
		right.kids = &[maxItems + 1]*node{}
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

// remove takes a value out and returns it.
func (t *treeTxn) remove(key string) (old any, had bool) {
	if old, had = t.get(key); !had {
		return nil, false
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
func (t *treeTxn) take(nd *node, key string) {
	i, found := nd.search(key)
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

func (t *treeTxn) takeLast(nd *node) entry {
	if nd.kids == nil {
		e := nd.items[nd.n-1]
		nd.cut(nd.n - 1)
		return e
	}
	return t.takeLast(nd.kids[t.fill(nd, nd.n)])
}

func (t *treeTxn) takeFirst(nd *node) entry {
	if nd.kids == nil {
		e := nd.items[0]
		nd.cut(0)
		return e
	}
	return t.takeFirst(nd.kids[t.fill(nd, 0)])
}

// cut removes an entry of a leaf.
func (nd *node) cut(i int) {
	copy(nd.items[i:], nd.items[i+1:nd.n])
	nd.n--
	nd.items[nd.n] = entry{}
}

// fill makes child i owned and gives it an entry to spare, from a neighbour or
// by merging it with one. It returns where the child is now.
func (t *treeTxn) fill(nd *node, i int) int {
	kid := t.ownKid(nd, i)
	switch {
	case kid.n > minItems:
	case i > 0 && nd.kids[i-1].n > minItems:
		from := t.ownKid(nd, i-1)
		copy(kid.items[1:kid.n+1], kid.items[:kid.n])
		kid.items[0] = nd.items[i-1]
		nd.items[i-1] = from.items[from.n-1]
		from.items[from.n-1] = entry{}
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
func (t *treeTxn) merge(nd *node, i int) {
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
	nd.items[nd.n] = entry{}
}
