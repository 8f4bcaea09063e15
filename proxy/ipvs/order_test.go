package ipvs

import (
	"net/netip"
	"testing"

	"github.com/sluicenet/sluice/proxy"
)

// backends returns the addresses of a plan's backends, and whether each is this
// node's.
func backends(plan *proxy.Plan) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for s := range plan.Services() {
		for _, p := range s.Ports {
			for _, list := range [][]proxy.Backend{p.Cluster, p.Local} {
				for _, b := range list {
					out[b.Addr()] = out[b.Addr()] || b.Place != proxy.Elsewhere
				}
			}
		}
	}
	return out
}

// TestOrder looks at the fake kernel between any two things that a step does: a
// backend of this node that gets connections is known as one, because those to
// itself must be masqueraded, and no address is bound before its elements are there.
func TestOrder(t *testing.T) {
	w, f := newWalker(23), newFakes()
	e := f.engine(t, Options{})
	old, checked := map[netip.Addr]bool{}, 0
	for step := range 300 {
		changes := w.step(t)
		now := backends(changes.New)
		f.fail = func() (bool, bool) {
			for id, s := range f.kernel.list {
				for d, state := range s.destinations {
					was, before := old[d.Addr()]
					is, after := now[d.Addr()]
					moves := before && after && was != is
					if state.weight == 0 || !f.filter.tables[id.family] || moves || !was && !is {
						continue
					}
					checked++
					a := string(d.Addr().AsSlice())
					if _, ok := f.filter.sets[place{id.family, setHairpin}][a+a]; !ok {
						t.Fatalf("step %d: %s has %s, which may connect to itself", step, id, d)
					}
				}
			}
			for a := range f.kernel.ours {
				if _, ok := f.filter.sets[place{proxy.FamilyOf(a), setAddresses}][string(a.AsSlice())]; !ok && e.addressElements(a) != nil {
					t.Fatalf("step %d: %s is bound, and nothing refuses its other ports", step, a)
				}
			}
			return false, false
		}
		var err error
		switch {
		case step == 0:
			err = e.Sync(t.Context(), changes.New)
		case step%10 == 0: // another process
			e = f.engine(t, Options{})
			err = e.Sync(t.Context(), changes.New)
		default:
			err = e.Apply(t.Context(), changes)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.fail()
		old = now
	}
	if checked == 0 {
		t.Error("no backend of this node was ever there")
	}
	t.Logf("%d destinations were looked at", checked)
}
