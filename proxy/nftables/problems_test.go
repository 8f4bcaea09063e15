package nftables

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// TestManySticky checks that the owner of a Service is told when clients of some
// of its endpoints are not remembered, and not without need.
func TestManySticky(t *testing.T) {
	for _, c := range []struct {
		endpoints int
		affinity  time.Duration
		want      string
	}{
		{maxSticky, time.Hour, ""},
		{maxSticky + 1, time.Hour, "port TCP/80 (ipv4) has 1025 endpoints, counted by their weights; nftables remembers clients of the first 1024,"},
		{maxSticky + 1, 0, ""},
	} {
		store := model.NewStore()
		watch := store.Watch()
		store.Update(func(tx *model.Txn) {
			model.Services.Put(tx, &model.Service{
				Meta: model.Meta{Namespace: "default", Name: "web"}, ClusterIPs: []netip.Addr{vip4}, AffinityTimeout: c.affinity,
				Ports: []model.ServicePort{{Protocol: "TCP", Port: 80}},
			})
			slice := &model.EndpointSlice{Meta: model.Meta{Namespace: "default", Name: "web"}, Service: "web", Weight: 1,
				Ports: []model.EndpointPort{{Protocol: "TCP", Port: 8080}}}
			for i := range c.endpoints {
				addr := netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)})
				slice.Endpoints = append(slice.Endpoints, model.Endpoint{Addr: addr, Node: "node2", Ready: true, Serving: true})
			}
			model.EndpointSlices.Put(tx, slice)
		})
		up, err := watch.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		k := newFakeKernel()
		e := newEngine(k, k, Options{Log: testLog(t)})
		if err := e.Sync(t.Context(), proxy.NewPlanner(proxy.Config{Node: "node1"}).Update(up).New); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range e.Problems(model.Name{Namespace: "default", Name: "web"}) {
			got = append(got, p.Reason+": "+p.Message)
		}
		if text := strings.Join(got, "\n"); (text == "") != (c.want == "") || !strings.Contains(text, c.want) {
			t.Errorf("%d endpoints, affinity %v: told %q, want %q", c.endpoints, c.affinity, text, c.want)
		}
	}
}
