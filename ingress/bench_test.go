package ingress

import (
	"fmt"
	"net/netip"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
)

// benchCluster is a Gateway with n HTTPRoutes, each with a host and a Service
// of its own.
type benchCluster struct {
	store   *model.Store
	planner *Planner
	n, step int
}

func newBenchCluster(n int) *benchCluster {
	b := &benchCluster{store: model.NewStore(), n: n}
	b.store.Update(func(tx *model.Txn) {
		model.Gateways.Put(tx, &gatewayv1.Gateway{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
			Spec: gatewayv1.GatewaySpec{
				GatewayClassName: DefaultClass,
				Listeners:        []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}},
			},
		})
		for i := range n {
			name := fmt.Sprintf("app-%d", i)
			model.Services.Put(tx, &model.Service{
				Meta: model.Meta{Namespace: "default", Name: name}, Ports: []model.ServicePort{{Name: "http", Port: 80}},
			})
			model.EndpointSlices.Put(tx, benchSlice(i, 0))
			model.HTTPRoutes.Put(tx, benchRoute(i, 0))
		}
	})
	b.planner = NewPlanner(PlannerOptions{Standalone: true})
	b.planner.Update(everything(b.store))
	return b
}

func benchRoute(i, version int) *gatewayv1.HTTPRoute {
	port, path := gatewayv1.PortNumber(80), fmt.Sprintf("/v%d", version)
	return &gatewayv1.HTTPRoute{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("app-%d", i)},
		Spec: gatewayv1.HTTPRouteSpec{
			CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{Name: "web"}}},
			Hostnames:       []gatewayv1.Hostname{gatewayv1.Hostname(fmt.Sprintf("app-%d.example.com", i))},
			Rules: []gatewayv1.HTTPRouteRule{{
				Matches: []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Value: &path}}},
				BackendRefs: []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{BackendObjectReference: gatewayv1.BackendObjectReference{
					Name: gatewayv1.ObjectName(fmt.Sprintf("app-%d", i)), Port: &port,
				}}}},
			}},
		},
	}
}

func benchSlice(i, version int) *model.EndpointSlice {
	addr := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(version)})
	return &model.EndpointSlice{
		Meta: model.Meta{Namespace: "default", Name: fmt.Sprintf("app-%d", i)}, Service: fmt.Sprintf("app-%d", i), Weight: 1,
		Ports:     []model.EndpointPort{{Name: "http", Port: 8080}},
		Endpoints: []model.Endpoint{{Addr: addr, Ready: true, Serving: true}},
	}
}

// edit changes one route or one slice and returns the step to it.
func (b *benchCluster) edit(kind model.KindID) model.Update {
	b.step++
	i := b.n / 2
	key := model.Key{Kind: kind, Namespace: "default", Name: fmt.Sprintf("app-%d", i)}
	u := model.Update{Old: b.store.Snapshot(), Changed: []model.Key{key}}
	b.store.Update(func(tx *model.Txn) {
		if kind == model.KindHTTPRoute {
			model.HTTPRoutes.Put(tx, benchRoute(i, b.step%8))
		} else {
			model.EndpointSlices.Put(tx, benchSlice(i, b.step%8))
		}
	})
	u.New = b.store.Snapshot()
	return u
}

var benchKinds = []model.KindID{model.KindHTTPRoute, model.KindEndpointSlice}

// BenchmarkEdit plans one edited HTTPRoute, or one changed EndpointSlice, among
// n hosts. It must not grow with n.
func BenchmarkEdit(b *testing.B) {
	for _, kind := range benchKinds {
		for _, n := range []int{10, 1000, 10000} {
			b.Run(fmt.Sprintf("%s/hosts=%d", kind, n), func(b *testing.B) {
				c := newBenchCluster(n)
				b.ReportAllocs()
				b.ResetTimer()
				for range b.N {
					b.StopTimer()
					u := c.edit(kind)
					b.StartTimer()
					if r := c.planner.Update(u); len(r.Changes) != 1 {
						b.Fatal(r.Changes)
					}
				}
			})
		}
	}
}

// BenchmarkLoad plans n hosts from nothing.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("hosts=%d", n), func(b *testing.B) {
			u := everything(newBenchCluster(n).store)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				NewPlanner(PlannerOptions{Standalone: true}).Update(u)
			}
		})
	}
}

// TestEditDoesNotGrow guards that an edit allocates the same among 10 hosts and
// 3,000, and changes one resource.
func TestEditDoesNotGrow(t *testing.T) {
	limits := map[model.KindID]float64{model.KindHTTPRoute: 80, model.KindEndpointSlice: 25}
	for _, kind := range benchKinds {
		var allocs [2]float64
		for i, n := range []int{10, 3000} {
			c := newBenchCluster(n)
			const runs = 100
			var updates []model.Update
			for range runs + 1 {
				updates = append(updates, c.edit(kind))
			}
			allocs[i] = testing.AllocsPerRun(runs, func() {
				r := c.planner.Update(updates[0])
				updates = updates[1:]
				if len(r.Changes) != 1 {
					t.Fatalf("%s among %d hosts changed %d resources", kind, n, len(r.Changes))
				}
			})
		}
		t.Logf("%s: %v allocations among 10 hosts, %v among 3,000", kind, allocs[0], allocs[1])
		if allocs[1] > allocs[0]+5 || allocs[1] > limits[kind] {
			t.Errorf("%s: %v allocations among 10 hosts, %v among 3,000, limit %v", kind, allocs[0], allocs[1], limits[kind])
		}
	}
}
