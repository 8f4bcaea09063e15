package btree

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// entry is a value of the trees of tests.
type entry struct {
	key string
	val int
}

var byKey = &Order[string, entry]{Key: func(e entry) string { return e.key }, Compare: strings.Compare}

// checkTree checks the rules of a B-tree and compares it with a map.
func checkTree(t *testing.T, what string, tr Tree[string, entry], want map[string]int) {
	t.Helper()
	depth := -1
	var visit func(nd *node[string, entry], level int)
	visit = func(nd *node[string, entry], level int) {
		if nd.n > maxItems || nd.n == 0 {
			t.Fatalf("%s: a node of %d entries on level %d", what, nd.n, level)
		}
		for i := nd.n; i < maxItems; i++ {
			if nd.items[i] != (entry{}) {
				t.Fatalf("%s: a node keeps hold of a removed entry", what)
			}
		}
		if nd.kids == nil {
			if depth < 0 {
				depth = level
			}
			if level != depth {
				t.Fatalf("%s: leaves on levels %d and %d", what, depth, level)
			}
			return
		}
		for i, kid := range nd.kids {
			if (kid == nil) != (i > nd.n) {
				t.Fatalf("%s: child %d of %d is %v", what, i, nd.n, kid)
			}
			if kid != nil {
				visit(kid, level+1)
			}
		}
	}
	if tr.root != nil {
		visit(tr.root, 0)
	}
	var keys []string
	for e := range tr.All() {
		keys = append(keys, e.key)
		if e.val != want[e.key] {
			t.Fatalf("%s: %q is %v, want %v", what, e.key, e.val, want[e.key])
		}
	}
	if sorted := slices.Sorted(maps.Keys(want)); !slices.Equal(keys, sorted) || tr.size != len(want) {
		t.Fatalf("%s: %d keys and size %d, want %d", what, len(keys), tr.size, len(want))
	}
}

// TestTree walks a tree up to thousands of entries and back to none, in
// transactions of all sizes, and proves that no earlier tree changes.
func TestTree(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 2))
	tr := New(byKey)
	now := map[string]int{}
	type taken struct {
		tree Tree[string, entry]
		want map[string]int
	}
	var history []taken
	for step := range 400 {
		growing := step < 150 || step >= 200 && step < 250
		tx := tr.Txn()
		if growing && step%7 == 0 { // a list, in order
			for i, from := 0, r.IntN(3000); i < 100; i++ {
				key := fmt.Sprintf("%04d", from+i)
				tx.Set(entry{key, step})
				now[key] = step
			}
		}
		for range 1 + r.IntN(60) {
			key := fmt.Sprintf("%04d", r.IntN(3000))
			if add := r.IntN(10) < 8; add == growing {
				old, had := tx.Set(entry{key, step})
				if was, there := now[key]; had != there || had && old.val != was {
					t.Fatalf("step %d: set(%s) replaced %v, %v; want %v", step, key, old.val, had, was)
				}
				now[key] = step
				continue
			}
			if !growing && len(now) > 0 && r.IntN(4) > 0 { // one that is there
				for e := range tx.From(key) {
					key = e.key
					break
				}
			}
			old, had := tx.Remove(key)
			if was, there := now[key]; had != there || had && old.val != was {
				t.Fatalf("step %d: remove(%s) gave %v, %v; want %v", step, key, old.val, had, was)
			}
			delete(now, key)
		}
		tr = tx.Commit()
		checkTree(t, fmt.Sprint("step ", step), tr, now)
		if step%20 == 0 {
			history = append(history, taken{tr, maps.Clone(now)})
		}
		from := fmt.Sprintf("%02d", r.IntN(30))
		var got, want []string
		for e := range tr.From(from) {
			got = append(got, e.key)
			if got, ok := tr.Get(e.key); !ok || got != e {
				t.Fatalf("step %d: Get(%s) gives %v, %v", step, e.key, got, ok)
			}
		}
		for key := range now {
			if key >= from {
				want = append(want, key)
			}
		}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("step %d: from %s are %v, want %v", step, from, got, want)
		}
	}
	tx := tr.Txn()
	for _, key := range slices.Sorted(maps.Keys(now)) {
		tx.Remove(key)
	}
	if tr := tx.Commit(); tr.root != nil || tr.size != 0 {
		t.Errorf("%d entries are left", tr.size)
	}
	for i, h := range history {
		checkTree(t, fmt.Sprint("tree ", i), h.tree, h.want)
	}
}

// TestTreeOfList counts the nodes of a tree that was made from a sorted list:
// they are nearly full.
func TestTreeOfList(t *testing.T) {
	const size = 10000
	tx := New(byKey).Txn()
	for i := range size {
		tx.Set(entry{fmt.Sprintf("%05d", i), i})
	}
	nodes := 0
	var visit func(nd *node[string, entry])
	visit = func(nd *node[string, entry]) {
		nodes++
		if nd.kids != nil {
			for _, kid := range nd.kids[:nd.n+1] {
				visit(kid)
			}
		}
	}
	visit(tx.Commit().root)
	if full := size / maxItems; nodes > full*5/4 {
		t.Errorf("%d nodes for %d entries, which fill %d", nodes, size, full)
	}
}
