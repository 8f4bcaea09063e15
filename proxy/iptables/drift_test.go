package iptables

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// lists counts how often tables are listed.
type lists struct {
	kernel
	n atomic.Int64
}

func (l *lists) save(ctx context.Context, f proxy.Family, t table, counts bool) ([]byte, error) {
	l.n.Add(1)
	return l.kernel.save(ctx, f, t, counts)
}

// rested makes it time for a look where something has changed, and not where
// nothing seems to have.
func rested(e *Engine) {
	e.looks = share{ended: time.Now().Add(-10 * time.Second), took: time.Second}
}

func run(t *testing.T, node *lab.Node, command string) {
	t.Helper()
	args := strings.Fields(command)
	if args[0] == "nft" {
		if _, err := exec.LookPath("nft"); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := node.Command(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// TestDrift checks that the first look after a change of somebody else repairs
// it, and that what others do beside our rules makes nobody list them.
func TestDrift(t *testing.T) {
	variants(t, func(t *testing.T, node *lab.Node, o Options) {
		e := newEngine(t, o)
		p := newPlanned(clusterConfig)
		plan := p.update(t, func(tx *model.Txn) {
			model.Nodes.Put(tx, node1())
			model.Services.Put(tx, web(nil))
			model.EndpointSlices.Put(tx, slice(1, 1, 2))
		}).New
		if err := e.Sync(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		counter := &lists{kernel: e.kernel}
		e.kernel = counter
		verify := func(want bool) (listed bool) {
			t.Helper()
			rested(e)
			before := counter.n.Load()
			repaired, err := e.Verify(t.Context())
			if err != nil || repaired != want {
				t.Errorf("repaired: %v, %v", repaired, err)
			}
			return counter.n.Load() > before
		}
		settle := func() {
			t.Helper()
			e.looks = share{}
			if repaired, err := e.Verify(t.Context()); repaired || err != nil {
				t.Fatalf("with all well, repaired: %v, %v", repaired, err)
			}
		}
		settle()
		want := dump(t, node)
		program := "iptables-" + string(o.Variant)
		damages := []string{
			program + " -t nat -F SLUICE-ADDRESSES",
			program + " -t nat -R SLUICE-SERVICES 1 -j SLUICE-NODEPORTS", // as long as what was there
			program + " -t nat -D OUTPUT -j SLUICE-SERVICES",
			program + " -t filter -I SLUICE-FORWARD -j ACCEPT",
			"ip6" + strings.TrimPrefix(program, "ip") + " -t filter -F",
		}
		if o.Variant == NFT {
			damages = append(damages, "nft flush table ip nat", "nft delete table ip6 nat")
		}
		for _, damage := range damages {
			run(t, node, damage)
			verify(true)
			if got := dump(t, node); got != want {
				t.Errorf("%s: after the repair there is\n%s\nthere was\n%s", damage, got, want)
			}
			settle()
			if verify(false) {
				t.Errorf("%s: listed once more, when all was well", damage)
			}
		}
		if o.Variant == NFT {
			for _, command := range []string{
				"nft add table ip other", "nft add chain ip other c", "nft add rule ip other c counter",
				program + " -t nat -N OTHERS", program + " -t nat -A OTHERS -j RETURN", program + " -t mangle -A PREROUTING -j RETURN",
			} {
				run(t, node, command)
				if verify(false) {
					t.Errorf("%s: our tables were listed", command)
				}
			}
		}
	})
}

// TestDriftBesideSteps checks that the change of somebody else is found that was
// made between two steps of ours.
func TestDriftBesideSteps(t *testing.T) {
	variants(t, func(t *testing.T, node *lab.Node, o Options) {
		e := newEngine(t, o)
		p := newPlanned(clusterConfig)
		if err := e.Sync(t.Context(), p.update(t, func(tx *model.Txn) {
			model.Services.Put(tx, web(nil))
			model.EndpointSlices.Put(tx, slice(1, 1, 2))
		}).New); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if i == 1 {
				run(t, node, "iptables-"+string(o.Variant)+" -t nat -F SLUICE-ADDRESSES")
			}
			if err := e.Apply(t.Context(), p.update(t, func(tx *model.Txn) { model.EndpointSlices.Put(tx, slice(1, 1+i%2)) })); err != nil {
				t.Fatal(err)
			}
		}
		rested(e)
		if repaired, err := e.Verify(t.Context()); !repaired || err != nil {
			t.Errorf("repaired: %v, %v", repaired, err)
		}
	})
}

// TestDormant checks that a table which somebody has made dormant is put in force
// again, by verification and by a start, and that a trace does not take it for
// one that is.
func TestDormant(t *testing.T) {
	variants(t, func(t *testing.T, node *lab.Node, o Options) {
		if o.Variant != NFT {
			return // its tables have no flags
		}
		e := newEngine(t, o)
		plan := newPlanned(clusterConfig).update(t, func(tx *model.Txn) {
			model.Services.Put(tx, web(nil))
			model.EndpointSlices.Put(tx, slice(1, 1, 2))
		}).New
		if err := e.Sync(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		dormant := func(family, table string) bool {
			t.Helper()
			out, err := node.Command(t.Context(), "nft", "list", "table", family, table).Output()
			if err != nil {
				t.Fatal(err)
			}
			return strings.Contains(string(out), "flags dormant")
		}
		for _, repair := range []func() (bool, error){
			func() (bool, error) { rested(e); return e.Verify(t.Context()) },
			func() (bool, error) { return true, newEngine(t, o).Sync(t.Context(), plan) },
		} {
			for _, at := range [][2]string{{"ip", "nat"}, {"ip6", "filter"}} {
				run(t, node, "nft add table "+at[0]+" "+at[1]+" { flags dormant; }")
				if !dormant(at[0], at[1]) {
					t.Fatalf("the table %s is not dormant", at)
				}
				if at[0] == "ip" {
					if found := traced(t, e, plan).Found; found {
						t.Error("a trace finds a Service in a table that is dormant")
					}
				}
				if repaired, err := repair(); err != nil || !repaired {
					t.Errorf("repaired: %v, %v", repaired, err)
				}
				if dormant(at[0], at[1]) {
					t.Errorf("the table %s stays dormant", at)
				}
			}
		}
		if !traced(t, e, plan).Found {
			t.Error("after the repair a trace finds no Service")
		}
	})
}

func traced(t *testing.T, e *Engine, plan *proxy.Plan) proxy.Observed {
	t.Helper()
	o, err := e.Trace(t.Context(), proxy.Trace(plan, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddrPort("10.96.0.10:80"), proxy.TCP))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestLookingIsNotWriting checks that the time of a look ends where writing, and
// waiting for the lock, begins.
func TestLookingIsNotWriting(t *testing.T) {
	variants(t, func(t *testing.T, _ *lab.Node, o Options) {
		var mu sync.Mutex
		var last time.Time
		o.Intercept = func(do func() error) error {
			mu.Lock()
			last = time.Now()
			mu.Unlock()
			return do()
		}
		e := newEngine(t, o)
		plan := newPlanned(clusterConfig).update(t, func(tx *model.Txn) { model.Services.Put(tx, web(nil)) }).New
		if err := e.probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, f := range e.families {
			f.found = nil
		}
		start := time.Now()
		if err := e.Sync(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		if begun := last.Sub(start); e.looks.took <= 0 || e.looks.took > begun {
			t.Errorf("a look took %v, and the last writing began after %v", e.looks.took, begun)
		}
	})
}
