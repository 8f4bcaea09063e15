package nftables

import (
	"context"
	"testing"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
	"github.com/sluicenet/sluice/proxy/internal/proxytest"
)

// mute is a kernel that takes everything and says nothing.
type mute struct{}

func (mute) Commit(*nfnl.Messages) error                                   { return nil }
func (mute) Try(*nfnl.Messages) error                                      { return nil }
func (mute) Limit() int                                                    { return 4 << 20 }
func (mute) Close()                                                        {}
func (mute) Ask(context.Context, *nfnl.Messages, func(nfnl.Message)) error { return nil }

// TestApplyAllocations bounds what one changed endpoint costs, whatever the
// number of Services.
func TestApplyAllocations(t *testing.T) {
	const most = 150
	for _, services := range []int{10, 1000} {
		store := model.NewStore()
		watch := store.Watch()
		planner := proxy.NewPlanner(proxy.Config{Node: "node1"})
		e := newEngine(mute{}, mute{}, Options{})
		e.families = []proxy.Family{proxy.IPv4, proxy.IPv6}
		next := func() proxy.Changes {
			up, err := watch.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return planner.Update(up)
		}
		store.Update(func(tx *model.Txn) { proxytest.Cluster(tx, services, 10) })
		first := next()
		if err := e.Sync(t.Context(), first.New); err != nil {
			t.Fatal(err)
		}
		var steps [2]proxy.Changes
		for i := range steps {
			store.Update(func(tx *model.Txn) { model.EndpointSlices.Put(tx, proxytest.Slice(services/2, 10, 1+i)) })
			steps[i] = next()
		}
		i := 0
		got := testing.AllocsPerRun(200, func() {
			if err := e.Apply(t.Context(), steps[i%2]); err != nil {
				t.Fatal(err)
			}
			i++
		})
		t.Logf("%d Services: %.0f allocations", services, got)
		if got > most {
			t.Errorf("one endpoint of %d Services takes %.0f allocations, expected at most %d", services, got, most)
		}
	}
}
