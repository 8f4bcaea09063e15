package nftables

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/proxytest"
)

// walker drives an engine along a random walk.
type walker struct {
	walk    *proxytest.Walk
	store   *model.Store
	watch   *model.Watcher
	planner *proxy.Planner
}

func newWalker(seed uint64) *walker {
	w := &walker{walk: proxytest.NewWalk(seed), store: model.NewStore(), planner: proxy.NewPlanner(proxy.Config{Node: "node1"})}
	w.watch = w.store.Watch()
	w.store.Update(func(tx *model.Txn) {
		model.Nodes.Put(tx, &model.Node{Meta: model.Meta{Name: "node1"}, InternalIPs: []netip.Addr{netip.MustParseAddr("10.240.0.11")},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}})
	})
	return w
}

func (w *walker) step(t *testing.T) proxy.Changes {
	t.Helper()
	w.store.Update(w.walk.Step)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// A step that changes nothing is not delivered; the next one is.
	for w.store.Snapshot().Revision() == w.planner.Plan().Revision {
		w.store.Update(w.walk.Step)
	}
	up, err := w.watch.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return w.planner.Update(up)
}

// reached reads what the tables do with connections to a frontend: the share of
// each backend, or why there is none.
func reached(elements map[elementKey]string, e *Engine, p *proxy.Port, f *proxy.Frontend, inside bool) (string, error) {
	set, key := setServices, []byte(nil)
	if f.Kind == proxy.NodePort {
		set = setNodePorts
	} else {
		key = appendAddr(key, f.Addr)
	}
	key = appendPort(key, p.Protocol, f.Port)
	verdict, ok := elements[elementKey{place{p.Family, set}, string(key)}]
	if !ok {
		return "", fmt.Errorf("%s has no verdict", f.Key(p))
	}
	if verdict == chainRefuse || verdict == verdictDrop {
		return map[string]string{chainRefuse: "reject", verdictDrop: "drop"}[verdict], nil
	}
	c := e.chains[chainKey{p.Family, verdict}]
	if c == nil {
		return "", fmt.Errorf("%s goes to %s, which is not known", f.Key(p), verdict)
	}
	to := c.spec.outside
	if inside {
		to = c.spec.inside
	}
	if to.action != proxy.ToCluster && to.action != proxy.ToLocal {
		return to.action.String(), nil
	}
	state := portState{plan: &proxy.Port{Family: p.Family, Protocol: p.Protocol, Affinity: c.spec.affinity}}
	l := &listing{numbered: elements}
	backends, table := l.slots(&state, f, uint32(to.span().from), 0)
	if len(table) < to.slots {
		return "", fmt.Errorf("%s goes to %s, but only %d slots are there", f.Key(p), verdict, len(table))
	}
	share := map[string]int{}
	for _, i := range table[:to.slots] {
		b := backends[i]
		if !b.IsValid() {
			return "", fmt.Errorf("%s has a slot without a backend", f.Key(p))
		}
		share[b.String()]++
	}
	return fmt.Sprint(share), nil
}

// wants is what reached must say by the plan.
func wants(p *proxy.Port, a proxy.Action) string {
	if a == proxy.Reject || a == proxy.Drop {
		return a.String()
	}
	backends := p.Backends(a)
	share := map[string]int{}
	for i, n := range proxy.Slots(backends) {
		share[backends[i].String()] = n
	}
	return fmt.Sprint(share)
}

// matches compares the tables with a plan.
func matches(elements map[elementKey]string, e *Engine, plan *proxy.Plan) error {
	frontends := 0
	for s := range plan.Services() {
		for _, p := range s.Ports {
			for i := range p.Frontends {
				f := &p.Frontends[i]
				frontends++
				for inside, action := range map[bool]proxy.Action{true: f.Inside, false: f.Outside} {
					got, err := reached(elements, e, p, f, inside)
					if err != nil {
						return err
					}
					if want := wants(p, action); got != want {
						return fmt.Errorf("%s inside=%v: got %s, want %s", f.Key(p), inside, got, want)
					}
				}
			}
		}
	}
	found := 0
	for k := range elements {
		if k.set == setServices || k.set == setNodePorts {
			found++
		}
	}
	if found != frontends {
		return fmt.Errorf("%d frontends are there, want %d", found, frontends)
	}
	return nil
}

// TestWalk checks after every single transaction that no frontend misses a slot,
// and that those that a step does not concern go where they went before.
func TestWalk(t *testing.T) {
	for _, budget := range []int{1 << 20, 1 << 10} {
		t.Run(fmt.Sprint(budget), func(t *testing.T) {
			w, k := newWalker(7), newFakeKernel()
			e := newEngine(k, k, Options{MasqueradeMark: 1 << 14, Log: testLog(t)})
			e.budget = budget
			sync := true
			for step := range 600 {
				changes := w.step(t)
				k.after = func() {
					t.Helper()
					for _, c := range changes.Services {
						complete(t, step, k.elements, e, c.Old)
						complete(t, step, k.elements, e, c.New)
					}
					for s := range changes.Old.Services() {
						if touched := slices.ContainsFunc(changes.Services, func(c proxy.Change) bool { return c.Name == s.Name }); sync {
							return
						} else if !touched {
							untouched(t, step, k.elements, e, s)
						}
					}
				}
				var err error
				if sync {
					err = e.Sync(t.Context(), changes.New)
				} else {
					err = e.Apply(t.Context(), changes)
				}
				sync = false
				if err == nil {
					err = matches(k.elements, e, changes.New)
				}
				if err != nil {
					t.Fatalf("step %d: %v\n%s", step, err, changes.New)
				}
				switch step % 50 {
				case 10:
					for first := true; first || e.sweeping(); first = false {
						e.rested = time.Time{}
						if repaired, err := e.Verify(t.Context()); err != nil || repaired {
							t.Fatalf("step %d: verify: %v, %v", step, repaired, err)
						}
					}
					if !e.sameElements(comparable(k.elements)) {
						t.Fatalf("step %d: the engine does not know what the kernel has", step)
					}
				case 20:
					coldStart(t, changes.New, budget)
				case 30:
					// Another process takes over.
					before := maps.Clone(k.elements)
					e = newEngine(k, k, Options{MasqueradeMark: 1 << 14, Log: testLog(t)})
					k.after = nil
					if err := e.Sync(t.Context(), changes.New); err != nil {
						t.Fatalf("step %d: take over: %v", step, err)
					}
					if !maps.Equal(before, k.elements) {
						t.Fatalf("step %d: taking over changed elements", step)
					}
				}
			}
		})
	}
}

// coldStart checks that what is in force between the transactions of a start is
// complete.
func coldStart(t *testing.T, plan *proxy.Plan, budget int) {
	t.Helper()
	k := newFakeKernel()
	e := newEngine(k, k, Options{MasqueradeMark: 1 << 14})
	e.budget = budget
	k.after = func() {
		for s := range plan.Services() {
			for _, p := range s.Ports {
				for i := range p.Frontends {
					got, err := reached(k.elements, e, p, &p.Frontends[i], true)
					if want := wants(p, p.Frontends[i].Inside); err == nil && got != want {
						t.Fatalf("in transaction %d: %s, want %s", k.commits, got, want)
					} else if err != nil && !strings.Contains(err.Error(), "no verdict") {
						t.Fatalf("in transaction %d: %v", k.commits, err)
					}
				}
			}
		}
	}
	if err := e.Sync(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	if err := matches(k.elements, e, plan); err != nil {
		t.Fatal(err)
	}
}

// untouched checks the frontends of a Service that a step does not change.
func untouched(t *testing.T, step int, elements map[elementKey]string, e *Engine, s *proxy.Service) {
	t.Helper()
	for _, p := range s.Ports {
		for i := range p.Frontends {
			f := &p.Frontends[i]
			got, err := reached(elements, e, p, f, true)
			if err != nil || got != wants(p, f.Inside) {
				t.Fatalf("step %d: within a step that does not concern it, %s is %s, want %s (%v)", step, f.Key(p), got, wants(p, f.Inside), err)
			}
		}
	}
}

// complete checks that nothing points at a slot which is not there, not even in
// the middle of a change of the Service.
func complete(t *testing.T, step int, elements map[elementKey]string, e *Engine, s *proxy.Service) {
	t.Helper()
	if s == nil {
		return
	}
	for _, p := range s.Ports {
		for i := range p.Frontends {
			for _, inside := range []bool{true, false} {
				_, err := reached(elements, e, p, &p.Frontends[i], inside)
				if err != nil && !strings.Contains(err.Error(), "no verdict") {
					t.Fatalf("step %d: %v", step, err)
				}
			}
		}
	}
}

// comparable leaves out what listings leave out.
func comparable(elements map[elementKey]string) map[elementKey]string {
	out := maps.Clone(elements)
	maps.DeleteFunc(out, func(k elementKey, _ string) bool { return specs[k.set].node })
	return out
}

// TestKernelWalk compares what the kernel lists with the plan along a walk.
func TestKernelWalk(t *testing.T) {
	node := lab.ForTest(t, lab.Options{}).MustNode("node1")
	w := newWalker(11)
	e, err := New(Options{NetNS: node.FD(), Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	for step := range 200 {
		changes := w.step(t)
		if step == 0 {
			err = e.Sync(t.Context(), changes.New)
		} else {
			err = e.Apply(t.Context(), changes)
		}
		if err != nil {
			t.Fatalf("step %d: %v\n%s", step, err, changes.New)
		}
		if step%20 == 10 {
			e.rested = time.Time{}
			e.drift.looked = time.Time{}
			if repaired, err := e.Verify(t.Context()); err != nil || repaired {
				t.Fatalf("step %d: verify: repaired %v, %v", step, repaired, err)
			}
		}
		found, err := e.everything(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !e.sameElements(found) {
			t.Fatalf("step %d: the engine does not know what the kernel has", step)
		}
		if err := matches(found, e, changes.New); err != nil {
			t.Fatalf("step %d: %v\n%s", step, err, changes.New)
		}
	}
}

// everything lists all elements of the tables, other than the ranges.
func (e *Engine) everything(ctx context.Context) (map[elementKey]string, error) {
	out := map[elementKey]string{}
	for _, family := range e.families {
		for id := range setCount {
			if specs[id].dynamic || specs[id].node {
				continue
			}
			at := place{family, id}
			if err := e.listElements(ctx, at, func(el element) { out[elementKey{at, el.key}] = el.data }); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// sameElements reports whether these are the elements that the engine made.
func (e *Engine) sameElements(found map[elementKey]string) bool {
	same, count := true, len(e.shared)
	check := func(k elementKey, data string) {
		got, ok := found[k]
		same = same && ok && got == data
	}
	for _, s := range e.services {
		s.elements(func(el element) {
			if !specs[el.set].shared {
				count++
			}
			check(elementKey{el.place, el.key}, el.data)
		}, func(proxy.Family, chainSpec) {})
	}
	for k, data := range e.garbage {
		count++
		check(k, data)
	}
	return same && count == len(found)
}

func TestNumbersDiffer(t *testing.T) {
	a := netip.MustParseAddrPort("10.0.0.1:80")
	b := netip.MustParseAddrPort("10.0.0.2:80")
	plan := &proxy.Port{Cluster: []proxy.Backend{{AddrPort: a}, {AddrPort: b}}}
	n := (&portState{plan: plan, cluster: slotTable{0, 1, 0}}).numbers()
	if len(n) != 2 || n[a] == n[b] || n[a] == 0 {
		t.Errorf("numbers are %v", n)
	}
}
