package proxy

import (
	"fmt"
	"math"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
)

// TestUses proves what people are told of each endpoint.
func TestUses(t *testing.T) {
	gone := func(e *model.Endpoint) { e.Ready, e.Serving, e.Terminating = false, false, true }
	var out strings.Builder
	for _, test := range []struct {
		name    string
		objects []object
	}{
		{"conditions", []object{web("web"), slice("web", ep(1), ep(2, terminating), ep(3, notReady), ep(4, gone))}},
		{"only terminating", []object{web("web"), slice("web", ep(1, terminating), ep(3, notReady))}},
		{"weights", []object{web("web"), named(slice("web", ep(1)), "a", 3), named(slice("web", ep(2)), "b", 1), named(slice("web", ep(3)), "c", 0)}},
		{"local outside", []object{web("web", loadBalancer, externalPolicyLocal), slice("web", ep(1), ep(2), ep(3))}},
		{"local inside", []object{web("web", func(s *model.Service) {
			s.InternalTrafficPolicy = corev1.ServiceInternalTrafficPolicyLocal
		}), slice("web", ep(1), ep(2), ep(3, terminating))}},
		{"zones", []object{web("web"), slice("web", ep(1, forZone("a")), ep(2, forZone("b")))}},
		{"nodes", []object{web("web"), slice("web", ep(1, forNode("node1")), ep(2, forNode("node2")))}},
		{"split", []object{
			web("web"), web("canary", func(s *model.Service) { s.ClusterIPs = nil }),
			slice("web", ep(1), ep(2)), slice("canary", ep(4)), split("web", share("web", 100, ""), share("canary", 0, "")),
		}},
		{"headless", []object{web("web", func(s *model.Service) { s.Headless, s.Families = true, nil }), labelled(slice("web", ep(1)), "web")}},
		{"headless without ports", []object{web("web", func(s *model.Service) { s.Headless, s.Ports = true, nil }), labelled(slice("web", ep(1)), "web")}},
		{"another proxy's", []object{web("web", func(s *model.Service) { s.Labels = map[string]string{labelProxyName: ""} }), ofProxy(slice("web", ep(1)), "")}},
		{"no address", []object{web("old"), web("web", func(s *model.Service) { s.ClusterIPs = nil }), slice("web", ep(1))}},
	} {
		store := model.NewStore()
		objects := append(test.objects, node("node1", "a"))
		planner := NewPlanner(Config{Node: "node1"})
		plan := step(t, store, store.Watch(), planner, func(tx *model.Txn) { put(tx, objects...) }).New
		fmt.Fprintf(&out, "%s\n", test.name)
		var cluster, local float64
		for _, u := range Uses(plan, store.Snapshot(), model.Name{Namespace: "default", Name: "web"}) {
			fmt.Fprintf(&out, "  %s %d (%s) -> %s on %s, %s: weight %d, cluster %.3f, local %.3f %s\n",
				u.Protocol, u.Port, u.PortName, u.AddrPort, u.Node, u.Place, u.Weight, u.Cluster, u.Local, u.Why)
			cluster, local = cluster+u.Cluster, local+u.Local
			if (u.Why == "") != (u.Cluster+u.Local > 0) {
				t.Errorf("%s: %+v: used or not?", test.name, u)
			}
		}
		for _, sum := range []float64{cluster, local} {
			if sum != 0 && math.Abs(sum-1) > 1e-9 {
				t.Errorf("%s: the shares are %v together", test.name, sum)
			}
		}
	}
	golden(t, "uses", out.String())
	if got := Uses(&Plan{}, model.NewStore().Snapshot(), model.Name{Name: "none"}); got != nil {
		t.Errorf("uses of no Service: %v", got)
	}
}
