package dns_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/model"
)

// TestNearEndpointsFirst proves that a Service which asks for it has the endpoints
// of this node or its zone first, by hints or without, and all of them.
func TestNearEndpointsFirst(t *testing.T) {
	endpoint := func(addr, node, zone string, rare *model.RareEndpoint) model.Endpoint {
		e := dnstest.Ready(addr, "")
		e.Node, e.Zone, e.Rare = node, zone, rare
		return e
	}
	plain := []model.Endpoint{
		endpoint("172.5.0.1", "other", "b", nil), endpoint("172.5.0.2", "other", "a", nil),
		endpoint("172.5.0.3", "here", "a", nil), endpoint("172.5.0.4", "far", "c", nil),
	}
	hinted := slices.Clone(plain)
	hinted[0].Rare = &model.RareEndpoint{ForZones: []string{"a"}}
	hinted[3].Rare = &model.RareEndpoint{ForZones: []string{"c"}, ForNodes: []string{"elsewhere"}}
	onNode := slices.Clone(hinted)
	onNode[3].Rare = &model.RareEndpoint{ForNodes: []string{"here"}}
	for _, c := range []struct {
		name      string
		asks      string
		endpoints []model.Endpoint
		zone      string
		first     []string
	}{
		{"nobody asks", "", plain, "a", []string{"172.5.0.1", "172.5.0.2", "172.5.0.3", "172.5.0.4"}},
		{"zone", corev1.ServiceTrafficDistributionPreferClose, plain, "a", []string{"172.5.0.2", "172.5.0.3"}},
		{"node", corev1.ServiceTrafficDistributionPreferSameNode, plain, "a", []string{"172.5.0.3"}},
		{"hints win", corev1.ServiceTrafficDistributionPreferSameZone, hinted, "a", []string{"172.5.0.1"}},
		{"hints for the node win", corev1.ServiceTrafficDistributionPreferSameNode, onNode, "a", []string{"172.5.0.4"}},
		{"nobody near", corev1.ServiceTrafficDistributionPreferClose, plain, "d", []string{"172.5.0.1", "172.5.0.2", "172.5.0.3", "172.5.0.4"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := dnstest.Cluster()
			store.Update(func(tx *model.Txn) {
				svc := dnstest.Headless("testns", "near")
				svc.TrafficDistribution = c.asks
				model.Services.Put(tx, svc)
				model.EndpointSlices.Put(tx, dnstest.Slice(svc, "x", c.endpoints...))
			})
			s := start(t, func(o *sluicedns.Options) { o.Store, o.Node = store, "here" })
			// The node comes later, as at a start, and has its zone later still.
			for _, zone := range []string{"", c.zone} {
				store.Update(func(tx *model.Txn) {
					node := &model.Node{Meta: model.Meta{Name: "here"}}
					if zone != "" {
						node.Labels = map[string]string{corev1.LabelTopologyZone: zone}
					}
					model.Nodes.Put(tx, node)
				})
			}
			if err := s.WaitRevision(t.Context(), store.Snapshot().Revision()); err != nil {
				t.Fatal(err)
			}
			first := map[string]bool{}
			for range 200 {
				all := map[string]bool{}
				r := ask(t, s.Addrs()[0], "udp", "near.testns.svc.cluster.local.", "A")
				for i, rr := range r.Answer {
					addr := rr.(*dns.A).A.String()
					all[addr] = true
					if i == 0 {
						first[addr] = true
					}
				}
				if len(r.Answer) != 4 || len(all) != 4 {
					t.Fatalf("answer %v", r.Answer)
				}
			}
			if got := slices.Sorted(maps.Keys(first)); !slices.Equal(got, c.first) {
				t.Errorf("first came %v, want each of %v", got, c.first)
			}
		})
	}
}
