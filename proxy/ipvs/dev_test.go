package ipvs

import (
	"context"
	"net/netip"
	"testing"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/proxytest"
)

func TestDev(t *testing.T) {
	node := lab.ForTest(t, lab.Options{}).MustNode("node1")
	k := newFakeless(t)
	_ = k
	store := model.NewStore()
	w := store.Watch()
	p := proxy.NewPlanner(proxy.Config{Node: "node1", ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}})
	walk := proxytest.NewWalk(3)
	store.Update(func(tx *model.Txn) {
		for range 30 {
			walk.Step(tx)
		}
	})
	up, _ := w.Next(context.Background())
	plan := p.Update(up).New
	o := Options{NetNS: node.FD()}
	_ = o.defaults()
	f := dialFilter(t, o)
	e := newEngine(noKernel{}, f, o)
	if err := e.Sync(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	out, err := node.Command(t.Context(), "nft", "list", "ruleset").CombinedOutput()
	t.Logf("%v\n%s", err, out)
	out, err = node.Command(t.Context(), "sh", "-c", "nft list ruleset > /tmp/rs && nft -j list ruleset >/dev/null && nft flush ruleset && nft -f /tmp/rs && nft list ruleset | diff - /tmp/rs").CombinedOutput()
	t.Logf("%v\n%s", err, out)
}
