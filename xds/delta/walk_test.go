package delta

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestWalk makes random changes while responses and answers are on their way
// in random interleavings, with refusals, reconnections, restarts of the
// server and of the proxy. The fake proxy checks every response against what
// it has at that moment; at rest, both sides must agree.
func TestWalk(t *testing.T) {
	seeds := 800
	if testing.Short() {
		seeds = 30
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { walk(t, uint64(seed)) })
	}
}

// world is the configuration that the walk changes.
type world struct {
	r        *rand.Rand
	n        int
	clusters map[string]bool
	scopes   map[string][]string
}

func (w *world) version(badness float64) string {
	w.n++
	if w.r.Float64() < badness {
		return fmt.Sprintf("bad%d", w.n)
	}
	if w.r.IntN(8) == 0 {
		return "same" // as some version before
	}
	return fmt.Sprint(w.n)
}

func (w *world) cluster() string { return fmt.Sprintf("c%d", w.r.IntN(8)) }

// change makes a consistent change set: a scope needs clusters that there
// are, and a cluster goes only when no scope of the new configuration needs it.
func (w *world) change(badness float64) []Change {
	var parts []any
	add := func(name string) {
		if !w.clusters[name] {
			w.clusters[name] = true
			parts = append(parts, cl(name, w.version(0)))
		}
	}
	for range 1 + w.r.IntN(5) {
		switch w.r.IntN(9) {
		case 0, 1, 2:
			name := fmt.Sprintf("h%d", w.r.IntN(6))
			var needs []string
			for range 1 + w.r.IntN(2) {
				needs = append(needs, w.cluster())
			}
			for _, c := range needs {
				add(c)
			}
			w.scopes[name] = needs
			parts = append(parts, sc(name, w.version(badness), needs...))
		case 3:
			name := fmt.Sprintf("h%d", w.r.IntN(6))
			delete(w.scopes, name)
			parts = append(parts, rm(scope(name)))
		case 4:
			if name := w.cluster(); w.clusters[name] {
				parts = append(parts, Set("g", res(endpoints(name), w.version(0))))
			}
		case 5:
			if name := w.cluster(); w.clusters[name] {
				parts = append(parts, Set("g", res(cluster(name), w.version(badness), endpoints(name))))
			}
		case 6:
			name := w.cluster()
			add(name)
			parts = append(parts, Set("g", res(listener("l"), w.version(badness), cluster(name), secret("s"))),
				Set("g", res(secret("s"), w.version(0))))
			w.scopes["listener"] = []string{name}
		default:
			for name := range w.clusters {
				used := false
				for _, needs := range w.scopes {
					for _, c := range needs {
						used = used || c == name
					}
				}
				if !used {
					delete(w.clusters, name)
					parts = append(parts, rm(cluster(name)), rm(endpoints(name)))
				}
			}
		}
	}
	var out []Change
	for _, p := range parts { // in order: a later change of the same counts
		switch p := p.(type) {
		case Change:
			out = append(out, p)
		case []Change:
			out = append(out, p...)
		}
	}
	return out
}

func walk(t *testing.T, seed uint64) {
	w := &world{r: rand.New(rand.NewPCG(seed, 1)), clusters: map[string]bool{}, scopes: map[string][]string{}}
	badness := []float64{0, 0, 0.15}[seed%3]
	single := []int{16, 1, 3}[seed/3%3]
	l := newLab(t, Options{Single: single}, "g")
	l.srv.Apply(w.change(0))
	l.connect()
	for range 200 {
		switch w.r.IntN(40) {
		case 0:
			l.connect()
		case 1:
			// The server restarts with the newest configuration.
			next := NewServer(l.srv.opts)
			var all []Change
			for _, byName := range l.srv.groupLocked("g").types {
				for _, e := range byName {
					all = append(all, Set("g", &Resource{Ref: e.ref, Version: e.version, Needs: e.needs, Body: e.message.Resource}))
				}
			}
			next.Apply(all)
			l.srv, l.c = next, nil
			l.connect()
		case 2:
			l.p = newFakeProxy(t)
			l.connect()
		case 3:
			l.rest()
			l.check()
		case 4, 5, 6, 7:
			l.srv.Apply(w.change(badness))
		case 8:
			l.now = l.now.Add(time.Duration(w.r.IntN(400)) * time.Millisecond)
		default:
			switch w.r.IntN(3) {
			case 0:
				l.server(true)
			case 1:
				l.server(false)
			case 2:
				l.proxy()
			}
		}
	}
	l.rest()
	l.check()
	if badness == 0 {
		if p := l.srv.Progress("g"); p.Current != 1 || len(p.Problems) != 0 {
			t.Fatalf("progress at rest: %+v", p)
		}
	}
	if n := len(l.c.flights); n != 0 {
		t.Fatalf("%d responses are never answered", n)
	}
	audit(t, l.c)
}

// rest runs until time brings nothing more.
func (l *lab) rest() {
	l.t.Helper()
	l.run()
	l.p.timeout()
	l.run()
	for i := 0; i < 20 && l.wait < time.Hour; i++ {
		l.sleep(l.wait)
	}
}

// audit checks a client's books at rest.
func audit(t *testing.T, c *client) {
	t.Helper()
	refs := map[Ref]int32{}
	for _, typ := range c.types {
		for _, it := range typ.items {
			if it.acked != nil {
				for _, n := range it.acked.needs {
					refs[n]++
				}
			}
			if w := it.work; w != nil && w.maybe != nil {
				for _, n := range w.maybe.needs {
					refs[n]++
				}
			}
			if w := it.work; w != nil && w.state != stuck {
				if _, waiting := c.removals[it]; !waiting {
					t.Errorf("%s is not at rest: %+v", short(it.ref()), w)
				}
			}
		}
		if typ.blocked != 0 {
			t.Errorf("%s: %d blocked", typ.url, typ.blocked)
		}
	}
	for _, typ := range c.types {
		for _, it := range typ.items {
			if it.refs != refs[it.ref()] {
				t.Errorf("%s is needed %d times, not %d", short(it.ref()), refs[it.ref()], it.refs)
			}
		}
	}
}
