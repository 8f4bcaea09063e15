package ipvs

import (
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/proxytest"
)

var (
	nodeAddr  = netip.MustParseAddr("10.240.0.11")
	nodeAddr6 = netip.MustParseAddr("fd00:10:240::b")
)

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
		model.Nodes.Put(tx, &model.Node{Meta: model.Meta{Name: "node1"}, InternalIPs: []netip.Addr{nodeAddr, nodeAddr6},
			PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:10:244:1::/64")}})
	})
	return w
}

func (w *walker) step(t *testing.T) proxy.Changes {
	t.Helper()
	w.store.Update(w.walk.Step)
	for w.store.Snapshot().Revision() == w.planner.Plan().Revision {
		w.store.Update(w.walk.Step) // one that changes nothing is not delivered
	}
	up, err := w.watch.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return w.planner.Update(up)
}

// fakes are an engine and all that it can program.
type fakes struct {
	kernel *fakeKernel
	filter *fakeFilter
	fail   func() (before, after bool)
}

func newFakes() *fakes { return &fakes{kernel: newFakeKernel(), filter: newFakeFilter()} }

var errInjected = errors.New("injected")

func (f *fakes) engine(t *testing.T, o Options) *Engine {
	t.Helper()
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	o.Intercept = func(do func() error) error {
		before, after := false, false
		if f.fail != nil {
			before, after = f.fail()
		}
		if before {
			return errInjected
		}
		if err := do(); err != nil || !after {
			return err
		}
		return errInjected
	}
	if err := o.defaults(); err != nil {
		t.Fatal(err)
	}
	return newEngine(f.kernel, f.filter, o)
}

// look lists all that the fakes have, for a tracer.
func (f *fakes) look(t *testing.T) tracer {
	t.Helper()
	tables, err := listTables(t.Context(), f.filter, []proxy.Family{proxy.IPv4, proxy.IPv6})
	if err != nil {
		t.Fatal(err)
	}
	servers, _ := f.kernel.servers()
	bound, _ := f.kernel.addresses()
	return tracer{tables: tables, bound: bound, servers: servers, list: f.kernel.destinations}
}

var clients = map[proxy.Family][]netip.Addr{
	proxy.IPv4: {netip.MustParseAddr("10.244.1.10"), netip.MustParseAddr("198.51.100.200"), netip.MustParseAddr("10.250.0.11"), {}},
	proxy.IPv6: {netip.MustParseAddr("fd00:10:244:1::a"), netip.MustParseAddr("fd00:10:250::b"), {}},
}

// matches compares the fake kernel with a plan, from everywhere to everything.
func (f *fakes) matches(t *testing.T, plan *proxy.Plan) {
	t.Helper()
	seen := f.look(t)
	frontends := 0
	addrs := map[netip.Addr]bool{}
	for s := range plan.Services() {
		for _, p := range s.Ports {
			for i := range p.Frontends {
				frontends++
				fe := &p.Frontends[i]
				to := netip.AddrPortFrom(fe.Addr, fe.Port)
				if fe.Kind == proxy.NodePort {
					if to = netip.AddrPortFrom(nodeAddr, fe.Port); p.Family == proxy.IPv6 {
						to = netip.AddrPortFrom(nodeAddr6, fe.Port)
					}
				} else {
					addrs[fe.Addr] = true
				}
				for _, source := range clients[p.Family] {
					d := proxy.Trace(plan, source, to, p.Protocol)
					tr := seen
					tr.d, tr.family = d, p.Family
					if err := tr.follow(); err != nil {
						t.Fatal(err)
					}
					if said := d.Compare(tr.out); len(said) > 0 {
						t.Fatalf("%s -> %s: %s\n%s\n%s", source, fe.Key(p), strings.Join(said, "; "), d, strings.Join(tr.out.Rules, "\n"))
					}
				}
			}
		}
	}
	found := 0
	for at, list := range f.filter.sets {
		if at.set == setServices || at.set == setNodePorts {
			found += len(list)
		}
	}
	if found != frontends {
		t.Fatalf("%d frontends are there, want %d", found, frontends)
	}
	if !maps.Equal(f.kernel.ours, addrs) {
		t.Fatalf("bound are %v, want %v", f.kernel.ours, addrs)
	}
}

// TestWalk checks along a random walk that the kernel does what the plan says,
// that nothing has to be repaired, that another process takes everything over
// without changing anything, and that nothing is left behind by a cleanup.
func TestWalk(t *testing.T) {
	w, f := newWalker(7), newFakes()
	f.kernel.list[serverID{family: proxy.IPv4, protocol: proxy.TCP, addr: netip.MustParseAddrPort("172.16.0.1:80")}] = &fakeServer{settings{"rr", 0, 0}, nil}
	e := f.engine(t, Options{})
	for step := range 500 {
		changes := w.step(t)
		var err error
		if step == 0 {
			err = e.Sync(t.Context(), changes.New)
		} else {
			err = e.Apply(t.Context(), changes)
		}
		if err != nil {
			t.Fatalf("step %d: %v\n%s", step, err, changes.New)
		}
		f.matches(t, changes.New)
		switch step % 20 {
		case 5:
			if repaired, err := e.Verify(t.Context()); err != nil || repaired {
				t.Fatalf("step %d: verify: %v, %v", step, repaired, err)
			}
		case 10:
			if _, err := e.Verify(t.Context()); err != nil { // ends what drains
				t.Fatal(err)
			}
			sets, marks := maps.Clone(f.filter.sets), maps.Clone(e.compiler.marks.byKey)
			e = f.engine(t, Options{})
			asked := f.kernel.asked
			if err := e.Sync(t.Context(), changes.New); err != nil {
				t.Fatal(err)
			}
			for at, list := range sets {
				if !maps.Equal(list, f.filter.sets[at]) {
					t.Fatalf("step %d: taking over changed %s", step, specs[at.set].name)
				}
			}
			if !maps.Equal(marks, e.compiler.marks.byKey) {
				t.Fatalf("step %d: marks are %v, were %v", step, e.compiler.marks.byKey, marks)
			}
			if did := f.kernel.asked - asked; did > len(f.kernel.list)+8 {
				t.Fatalf("step %d: taking over took %d requests for %d servers", step, did, len(f.kernel.list))
			}
		}
	}
	if err := e.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(f.kernel.list) != 1 || len(f.kernel.ours) != 0 || len(f.filter.tables) != 0 {
		t.Errorf("after a cleanup there are servers %v, addresses %v, tables %v", f.kernel.list, f.kernel.ours, f.filter.tables)
	}
}

// TestFaults fails every third request before or after it is done, and repairs
// by Sync.
func TestFaults(t *testing.T) {
	w, f := newWalker(11), newFakes()
	e := f.engine(t, Options{})
	random := rand.New(rand.NewPCG(5, 5))
	ready, failures := false, 0
	for range 500 {
		changes := w.step(t)
		f.fail = func() (bool, bool) {
			n := random.IntN(30)
			return n == 0, n == 1
		}
		var err error
		if ready {
			err = e.Apply(t.Context(), changes)
		} else {
			err = e.Sync(t.Context(), changes.New)
		}
		for ; err != nil; err = e.Sync(t.Context(), changes.New) {
			if failures++; !errors.Is(err, errInjected) {
				t.Fatal(err)
			}
			if failures%3 == 0 {
				f.fail = nil
			}
		}
		ready = true
		f.fail = nil
		f.matches(t, changes.New)
		if repaired, err := e.Verify(t.Context()); err != nil || repaired {
			t.Fatalf("verify: %v, %v", repaired, err)
		}
	}
	if failures < 100 {
		t.Errorf("only %d failures were injected", failures)
	}
}

// TestDrift damages what the engine made.
func TestDrift(t *testing.T) {
	w, f := newWalker(3), newFakes()
	e := f.engine(t, Options{})
	var plan *proxy.Plan
	for range 40 {
		plan = w.step(t).New
	}
	if err := e.Sync(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	if repaired, err := e.Verify(t.Context()); err != nil || repaired {
		t.Fatalf("verify: %v, %v", repaired, err)
	}
	anyServer := func() serverID {
		for id, s := range f.kernel.list {
			if len(s.destinations) > 0 {
				return id
			}
		}
		t.Fatal("no server has destinations")
		return serverID{}
	}
	for name, damage := range map[string]func(){
		"flush":       func() { clear(f.kernel.list) },
		"server":      func() { delete(f.kernel.list, anyServer()) },
		"scheduler":   func() { f.kernel.list[anyServer()].scheduler = "sed" },
		"destination": func() { clear(f.kernel.list[anyServer()].destinations) },
		"stranger": func() {
			f.kernel.list[anyServer()].destinations[netip.MustParseAddrPort("10.9.9.9:1")] = destination{weight: 1}
		},
		"weight": func() {
			for d := range f.kernel.list[anyServer()].destinations {
				f.kernel.list[anyServer()].destinations[d] = destination{weight: 77}
			}
		},
		"link": func() { _ = f.kernel.deleteLink() },
		"table": func() {
			f.filter.sets, f.filter.chains, f.filter.tables = newFakeFilter().sets, newFakeFilter().chains, map[proxy.Family]bool{}
			f.filter.generation++
		},
		"element": func() { clear(f.filter.sets[place{proxy.IPv4, setServices}]); f.filter.generation++ },
		"rule":    func() { f.filter.chains[chainKey{proxy.IPv4, chainServices}] = nil; f.filter.generation++ },
	} {
		damage()
		e.drift.took = 0
		if repaired, err := e.Verify(t.Context()); err != nil || !repaired {
			t.Errorf("%s: verify: repaired %v, %v", name, repaired, err)
		}
		for range 2 { // a stranger among the destinations is drained first
			if _, err := e.Verify(t.Context()); err != nil {
				t.Errorf("%s: verify: %v", name, err)
			}
		}
		f.matches(t, plan)
		if repaired, err := e.Verify(t.Context()); err != nil || repaired {
			t.Errorf("%s: verify after the repair: repaired %v, %v", name, repaired, err)
		}
	}
}

// TestUncertain has somebody else change tables of their own before our rules were
// listed: that is no repair. What is damaged then is.
func TestUncertain(t *testing.T) {
	f := newFakes()
	e := f.engine(t, Options{})
	w, plan := newWalker(3), (*proxy.Plan)(nil)
	for range 40 {
		plan = w.step(t).New
	}
	for _, damaged := range []bool{false, true} {
		if err := e.Sync(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		if damaged {
			clear(f.filter.sets[place{proxy.IPv4, setAddresses}])
		}
		f.filter.generation++
		e.drift.took = 0
		if repaired, err := e.Verify(t.Context()); err != nil || repaired != damaged {
			t.Errorf("damaged %v: verify: repaired %v, %v", damaged, repaired, err)
		}
		f.matches(t, plan)
	}
}

// TestDrain takes destinations away that have connections.
func TestDrain(t *testing.T) {
	w, f := newWalker(3), newFakes()
	busy := 1
	f.kernel.busy = func(serverID, netip.AddrPort) int { return busy }
	e := f.engine(t, Options{DrainTimeout: time.Minute})
	var plan *proxy.Plan
	for step := range 200 {
		changes := w.step(t)
		plan = changes.New
		var err error
		if step == 0 {
			err = e.Sync(t.Context(), plan)
		} else {
			err = e.Apply(t.Context(), changes)
		}
		if err != nil {
			t.Fatal(err)
		}
		if step%30 == 10 {
			if repaired, err := e.Verify(t.Context()); err != nil || repaired {
				t.Fatalf("verify: %v, %v", repaired, err)
			}
		}
	}
	if len(e.draining) == 0 || len(e.retired) == 0 {
		t.Fatalf("%d servers drain, and %d are retired", len(e.draining), len(e.retired))
	}
	for id := range e.draining {
		if id.protocol == proxy.UDP {
			for d := range e.draining[id] {
				if !e.servers[id].serves(d) {
					t.Errorf("the UDP destination %s of %s drains, and does not serve", d, id)
				}
			}
		}
	}
	if err := e.finishDrains(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	for id := range e.draining {
		for d := range e.draining[id] {
			if !e.servers[id].serves(d) {
				t.Errorf("after its time, the destination %s of %s still drains", d, id)
			}
		}
	}
	busy = 0
	if err := e.finishDrains(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if len(e.draining) > 0 || len(e.retired) > 0 {
		t.Errorf("without connections, %v drain and %v are retired", e.draining, e.retired)
	}
	f.matches(t, plan)
	if repaired, err := e.Verify(t.Context()); err != nil || repaired {
		t.Fatalf("verify: %v, %v", repaired, err)
	}
}

// TestUnsupported checks that what a kernel lacks is told.
func TestUnsupported(t *testing.T) {
	f := newFakes()
	f.kernel.lacks["wlc"], f.kernel.lacks["sed"] = true, true
	plan := newWalker(1).step(t).New
	var u *proxy.UnsupportedError
	if err := f.engine(t, Options{Scheduler: "wlc"}).Sync(t.Context(), plan); !errors.As(err, &u) || !strings.Contains(u.Remedy, "modprobe ip_vs_wlc") {
		t.Errorf("without the default scheduler: %v", err)
	}
	if _, err := New(Options{Scheduler: "best"}); err == nil || !strings.Contains(err.Error(), "found best") {
		t.Errorf("a scheduler that is not known: %v", err)
	}
	f.kernel.preparing = denied(unix.EPERM)
	if err := f.engine(t, Options{}).Sync(t.Context(), plan); !errors.As(err, &u) || !strings.Contains(u.Remedy, "CAP_NET_ADMIN") {
		t.Errorf("without privilege: %v", err)
	}
}
