package zone

import (
	"encoding/binary"
	"hash/maphash"
	"iter"
	"math/bits"
)

// entry is a name that exists: a key, its packed records, and how many reasons
// there are for it to exist without any. It never changes once it is in a tree.
//
// All is in one block of memory, since there are as many as there are endpoints:
// the name in wire form, then for each type its number, the count of records and
// their length, and the records as [wire.Reply] takes them.
type entry struct {
	block   []byte
	nameLen uint8
	refs    uint32 // direct children, and holds by what the name stands for
}

const setHeader = 8 // type 2, count 2, length 4

func (e *entry) name() []byte  { return e.block[:e.nameLen] }
func (e *entry) sets() []byte  { return e.block[e.nameLen:] }
func (e *entry) hasSets() bool { return len(e.block) > int(e.nameLen) }

// get returns the records of a type.
func (e *entry) get(typ uint16) (records []byte, count int) {
	for s := e.sets(); len(s) > 0; {
		n := setHeader + int(binary.BigEndian.Uint32(s[4:]))
		if binary.BigEndian.Uint16(s) == typ {
			return s[setHeader:n], int(binary.BigEndian.Uint16(s[2:]))
		}
		s = s[n:]
	}
	return nil, 0
}

func appendSetHeader(dst []byte, typ uint16, count, length int) []byte {
	dst = binary.BigEndian.AppendUint16(dst, typ)
	dst = binary.BigEndian.AppendUint16(dst, uint16(min(count, 1<<16-1)))
	return binary.BigEndian.AppendUint32(dst, uint32(length))
}

// tree is a persistent hash trie (Steindorfer and Vinju's CHAMP) of entries by
// name. An update copies the handful of branches on its way and shares the rest.
// Unlike a radix tree it takes one comparison of a name a look-up and some 12
// octets an entry, which counts with a million of names on every node.
type tree struct {
	root *branch
	seed maphash.Seed // kept from clients, so that none can pile up one bucket
	size int
}

const (
	fanBits = 5
	fanMask = 1<<fanBits - 1
	maxBits = 64 // below this depth the hashes are equal, and entries are a list
)

type branch struct {
	owner    *owner
	entryMap uint32
	nodeMap  uint32
	entries  []*entry
	nodes    []*branch
}

// owner marks the branches that a transaction made and may write to. It is not
// the transaction itself, which would keep old trees alive.
type owner struct{ _ byte }

func newTree() tree { return tree{root: &branch{}, seed: maphash.MakeSeed()} }

func (t tree) get(name []byte) *entry {
	h := maphash.Bytes(t.seed, name)
	b := t.root
	for shift := 0; shift < maxBits; shift += fanBits {
		bit := uint32(1) << (h >> shift & fanMask)
		if b.entryMap&bit != 0 {
			if e := b.entries[index(b.entryMap, bit)]; string(e.name()) == string(name) {
				return e
			}
			return nil
		}
		if b.nodeMap&bit == 0 {
			return nil
		}
		b = b.nodes[index(b.nodeMap, bit)]
	}
	for _, e := range b.entries {
		if string(e.name()) == string(name) {
			return e
		}
	}
	return nil
}

// all yields every entry, in no order.
func (t tree) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) { t.root.walk(yield) }
}

func (b *branch) walk(yield func(*entry) bool) bool {
	for _, e := range b.entries {
		if !yield(e) {
			return false
		}
	}
	for _, n := range b.nodes {
		if !n.walk(yield) {
			return false
		}
	}
	return true
}

func index(bitmap, bit uint32) int { return bits.OnesCount32(bitmap & (bit - 1)) }

// txn changes a tree; what it copied once it writes to in place.
type txn struct {
	tree
	owner   *owner
	changes int
}

func (t tree) edit() *txn { return &txn{tree: t, owner: &owner{}} }

// commit returns the changed tree and ends the transaction.
func (t *txn) commit() tree {
	if t.changes > t.size/2 && t.size > 1024 {
		t.root.compact(t.owner)
	}
	return t.tree
}

// compact gives back the room to grow of the branches that a transaction made, when
// it made most of the tree.
func (b *branch) compact(owner *owner) {
	if b.owner != owner {
		return
	}
	b.entries = append([]*entry(nil), b.entries...)
	b.nodes = append([]*branch(nil), b.nodes...)
	for _, n := range b.nodes {
		n.compact(owner)
	}
}

func (t *txn) own(b *branch) *branch {
	if b.owner == t.owner {
		return b
	}
	return &branch{
		owner: t.owner, entryMap: b.entryMap, nodeMap: b.nodeMap,
		entries: append(make([]*entry, 0, len(b.entries)+1), b.entries...),
		nodes:   append(make([]*branch, 0, len(b.nodes)+1), b.nodes...),
	}
}

// put adds e or replaces the entry of its name.
func (t *txn) put(e *entry) {
	t.changes++
	t.root = t.insert(t.root, e, maphash.Bytes(t.seed, e.name()), 0)
}

func (t *txn) insert(b *branch, e *entry, h uint64, shift int) *branch {
	b = t.own(b)
	if shift >= maxBits {
		for i, old := range b.entries {
			if string(old.name()) == string(e.name()) {
				b.entries[i] = e
				return b
			}
		}
		b.entries = append(b.entries, e)
		t.size++
		return b
	}
	bit := uint32(1) << (h >> shift & fanMask)
	i, j := index(b.entryMap, bit), index(b.nodeMap, bit)
	switch {
	case b.nodeMap&bit != 0:
		b.nodes[j] = t.insert(b.nodes[j], e, h, shift+fanBits)
	case b.entryMap&bit == 0:
		b.entries = insertAt(b.entries, i, e)
		b.entryMap |= bit
		t.size++
	case string(b.entries[i].name()) == string(e.name()):
		b.entries[i] = e
	default: // two names share the way so far: both move one branch down
		old := b.entries[i]
		b.entries = removeAt(b.entries, i)
		b.entryMap &^= bit
		t.size-- // insert counts it again
		down := t.insert(&branch{owner: t.owner}, old, maphash.Bytes(t.seed, old.name()), shift+fanBits)
		b.nodes = insertAt(b.nodes, j, t.insert(down, e, h, shift+fanBits))
		b.nodeMap |= bit
	}
	return b
}

// remove deletes the entry of a name that is in the tree.
func (t *txn) remove(name []byte) {
	t.changes++
	t.size--
	t.root = t.delete(t.root, name, maphash.Bytes(t.seed, name), 0)
}

func (t *txn) delete(b *branch, name []byte, h uint64, shift int) *branch {
	b = t.own(b)
	if shift >= maxBits {
		for i, e := range b.entries {
			if string(e.name()) == string(name) {
				b.entries = removeAt(b.entries, i)
				break
			}
		}
		return b
	}
	bit := uint32(1) << (h >> shift & fanMask)
	if b.entryMap&bit != 0 {
		b.entries = removeAt(b.entries, index(b.entryMap, bit))
		b.entryMap &^= bit
		return b
	}
	j := index(b.nodeMap, bit)
	down := t.delete(b.nodes[j], name, h, shift+fanBits)
	if len(down.nodes) > 0 || len(down.entries) > 1 {
		b.nodes[j] = down
		return b
	}
	// A branch of one entry moves up, so that equal trees have equal shapes
	// and a shrunk one gives its memory back.
	b.nodes = removeAt(b.nodes, j)
	b.nodeMap &^= bit
	if len(down.entries) == 1 {
		b.entries = insertAt(b.entries, index(b.entryMap, bit), down.entries[0])
		b.entryMap |= bit
	}
	return b
}

func insertAt[T any](s []T, i int, v T) []T {
	s = append(s, v)
	copy(s[i+1:], s[i:])
	s[i] = v
	return s
}

func removeAt[T any](s []T, i int) []T {
	copy(s[i:], s[i+1:])
	var none T
	s[len(s)-1] = none
	return s[:len(s)-1]
}
