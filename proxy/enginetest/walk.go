package enginetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/proxytest"
)

// slowTrace is how long reading the kernel's rules takes where a program does it.
const slowTrace = 20 * time.Millisecond

// errInjected is what fails in a walk.
var errInjected = errors.New("injected failure")

// faults fails some of what an engine does: before it is done, or after, as if
// the kernel's answer had been lost.
type faults struct {
	mu   sync.Mutex // engines may do several things at the same time
	rand *rand.Rand
	on   bool
	// one in so many operations fails.
	rate, done, failed int
}

func (f *faults) intercept(do func() error) error {
	f.mu.Lock()
	f.done++
	choice := 2
	if f.on {
		choice = f.rand.IntN(2 * f.rate)
	}
	if choice < 2 {
		f.failed++
	}
	f.mu.Unlock()
	switch choice {
	case 0:
		return errInjected
	case 1:
		if err := do(); err != nil {
			return err
		}
		return errInjected
	}
	return do()
}

// Walk takes an engine through random updates of Services, endpoints, policies
// and weights, with failures in between and new processes that take over. After
// each step the kernel's own rules, and packets, do what the plan says. Meanwhile
// no connection to a Service that nothing touches fails.
func Walk(t *testing.T, engine Engine, steps int) {
	w := NewWorld(t)
	f := &faults{rand: rand.New(rand.NewPCG(5, 5)), rate: 8}
	options := w.Options()
	options.Intercept = f.intercept
	options.Log = nil // it tells of every failure
	d := &driver{w: w, about: engine, store: model.NewStore(), present: map[model.Key]any{}}
	d.start(t, options)
	d.configure(t, nil)
	d.update(t, nil, "")

	r := proxytest.NewWalk(11)
	r.Endpoints4, r.Endpoints6 = nil, nil
	for _, name := range []string{"a", "c", "b", "d"} {
		r.Endpoints4 = append(r.Endpoints4, w.hosts[name].addr(4))
		r.Endpoints6 = append(r.Endpoints6, w.hosts[name].addr(6))
	}
	watch := w.watch(t)
	defer stop(t, watch)
	var probed atomic.Int64
	random := rand.New(rand.NewPCG(7, 7))
	for step := range steps {
		if t.Failed() {
			return
		}
		watch.phase.Store(fmt.Sprintf("step %d", step))
		for d.store.Snapshot().Revision() == d.planner.Plan().Revision {
			d.store.Update(r.Step) // a step may change nothing
		}
		f.on = true
		if step%25 == 24 {
			d.start(t, options) // the process was replaced
		}
		err := d.follow(t.Context())
		for try := 0; err != nil; try++ {
			if f.on = try < 10; try > 12 {
				t.Fatalf("step %d: %v", step, err)
			}
			err = d.engine.Sync(t.Context(), d.plan)
			d.full = err != nil
		}
		f.on = false
		if step%20 == 10 {
			if repaired, err := d.engine.Verify(t.Context()); err != nil || repaired {
				t.Fatalf("step %d: verify: repaired %v, %v", step, repaired, err)
			}
		}
		if step%50 == 49 {
			d.takeOver(t, step)
		}
		for range 3 {
			d.compare(t, step, random, &probed)
		}
	}
	t.Logf("%d of %d operations failed, %d connections compared with the plan", f.failed, f.done, probed.Load())
	if f.failed == 0 {
		t.Error("no failure was injected")
	}
}

// takeOver has a new process find nothing to change.
func (d *driver) takeOver(t *testing.T, step int) {
	t.Helper()
	if d.about.Dump == nil {
		return
	}
	before, err := d.about.Dump(t.Context(), d.w)
	must(t, err)
	e, err := d.about.New(d.w.Options())
	must(t, err)
	defer func() { _ = e.Close() }()
	must(t, e.Sync(t.Context(), d.plan))
	after, err := d.about.Dump(t.Context(), d.w)
	must(t, err)
	if before != after {
		t.Errorf("step %d: taking over changed\n%s\nto\n%s", step, before, after)
	}
	// The engine that goes on did not see that somebody else wrote the same.
	must(t, d.engine.Sync(t.Context(), d.plan))
}

// compare takes a connection to a random frontend and asks the plan, the kernel's
// rules, and the network what becomes of it.
func (d *driver) compare(t *testing.T, step int, random *rand.Rand, probed *atomic.Int64) {
	t.Helper()
	type at struct {
		port     *proxy.Port
		frontend *proxy.Frontend
	}
	var all []at
	for s := range d.plan.Services() {
		for _, p := range s.Ports {
			for i := range p.Frontends {
				all = append(all, at{p, &p.Frontends[i]})
			}
		}
	}
	f := all[random.IntN(len(all))]
	client := d.w.hosts[[]string{"a", "client", "d"}[random.IntN(3)]]
	family := int(f.port.Family)
	to := netip.AddrPortFrom(f.frontend.Addr, f.frontend.Port)
	if f.frontend.Kind == proxy.NodePort {
		to = netip.AddrPortFrom(d.w.hosts["node"].addr(family), f.frontend.Port)
	}
	decision := proxy.Trace(d.plan, client.addr(family), to, f.port.Protocol)
	// Reading all rules by a program takes long: then every tenth must do.
	if tracer, ok := d.engine.(proxy.Tracer); ok && (d.traceTook < slowTrace || random.IntN(10) == 0) {
		start := time.Now()
		observed, err := tracer.Trace(t.Context(), decision)
		if err != nil {
			t.Errorf("step %d: trace: %v", step, err)
		} else if different := decision.Compare(observed); different != nil {
			t.Errorf("step %d: %s%s", step, decision, strings.Join(different, "\n"))
		}
		d.traceTook = time.Since(start)
	}
	if reason := d.w.unroutable(client, to.Addr()); reason {
		return
	}
	probed.Add(1)
	if err := d.meets(client, to, decision); err != nil {
		t.Errorf("step %d: %v\n%s", step, err, decision)
	}
}

// unroutable tells that packets of a client to an address do not pass the node
// under test: the router knows no external addresses of walks, and what another
// node's pod sends to itself by way of this node does not come back.
func (w *World) unroutable(client *host, to netip.Addr) bool {
	walked := !w.hosts["node"].owns(to)
	for _, p := range prefixes("10.96.0.0/15", "fd00:10:96::/64") {
		walked = walked && !p.Contains(to)
	}
	return client.node == "node2" || client.node == "" && walked
}

func (h *host) owns(a netip.Addr) bool { return a == h.addrs[0] || a == h.addrs[1] }

// meets makes the connection of a decision.
func (d *driver) meets(client *host, to netip.AddrPort, decision proxy.Decision) error {
	timeout := patience
	if decision.Action == proxy.Drop {
		timeout = quiet / 4
	}
	got := client.ask(decision.Protocol.String(), to, timeout)
	want := ""
	switch decision.Action {
	case proxy.Drop:
		want = Silence
	case proxy.Reject:
		want = Refused
	default:
		for _, c := range decision.Choices {
			name := d.w.at(c.Addr())
			if got.by == fmt.Sprintf("%s:%d", name, c.Port()) {
				if source := d.w.at(netip.MustParseAddr(got.source)); (source == "node") != c.Masquerade {
					return fmt.Errorf("%s saw the source %s", got.by, got.source)
				}
				return nil
			}
		}
	}
	if got.by != want {
		return fmt.Errorf("%s %s to %s: got %s", decision.Protocol, client.name, to, got.by)
	}
	return nil
}

// at returns the host that has an address.
func (w *World) at(a netip.Addr) string {
	for name, h := range w.hosts {
		if h.owns(a) || name == "node" && (a == addresses["node2nd"].of(4) || a == addresses["node2nd"].of(6)) {
			return name
		}
	}
	return ""
}
