package ingress

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

const progressManifests = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {namespace: default, name: web, generation: 1}
spec: {gatewayClassName: sluice, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: default, name: app}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: default, name: a}
spec: {parentRefs: [{name: web}], hostnames: [a.example], rules: [{backendRefs: [{name: app, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: default, name: b}
spec: {parentRefs: [{name: web}], hostnames: [b.example]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {namespace: default, name: in}
spec: {ingressClassName: sluice, rules: [{host: in.example}]}
`

// TestProgress follows what the proxies acknowledge and refuse into the status
// of the objects.
func TestProgress(t *testing.T) {
	objects := decodeText(t, progressManifests)
	store := storeOf(objects)
	p, got := NewPlanner(PlannerOptions{Standalone: true}), newState()
	got.apply(p.Update(everything(store)))

	gw := model.Key{Kind: model.KindGateway, Namespace: "default", Name: "web"}
	ra := model.Key{Kind: model.KindHTTPRoute, Namespace: "default", Name: "a"}
	rb := model.Key{Kind: model.KindHTTPRoute, Namespace: "default", Name: "b"}
	in := model.Key{Kind: model.KindIngress, Namespace: "default", Name: "in"}
	group, class := route.GatewayGroup("default", "web"), route.GatewayGroup("", "sluice")
	hostOfA := route.Ref{Group: group, Kind: route.KindHost, ID: "default/web/80/a.example"}

	// programmed is the condition as "status reason: message".
	programmed := func(key model.Key) string {
		r := got.reports[key]
		cs := r.Conditions
		if v, ok := r.Value.(gatewayv1.HTTPRouteStatus); ok {
			cs = v.Parents[0].Conditions
		}
		for _, c := range cs {
			if c.Type == "Programmed" {
				return string(c.Status) + " " + c.Reason + ": " + c.Message
			}
		}
		return ""
	}
	expect := func(what string, key model.Key, want string) {
		t.Helper()
		if s := programmed(key); s != want {
			t.Errorf("%s: Programmed of %s is %q, want %q", what, key, s, want)
		}
	}
	listener := func() metav1.Condition {
		cs := got.reports[gw].Value.(gatewayv1.GatewayStatus).Listeners[0].Conditions
		return cs[len(cs)-1]
	}

	expect("at first", gw, "False Pending: no proxy is connected")
	expect("at first", in, "False Pending: no proxy is connected")
	expect("at first", ra, "")
	got.apply(p.Progress(route.Progress{Group: group, Proxies: 2, Current: 1}))
	expect("one of two", gw, "False Pending: not all proxies have acknowledged the configuration")
	got.apply(p.Progress(route.Progress{Group: group, Proxies: 2, Current: 2}))
	expect("all", gw, "True Programmed: acknowledged by 2 of 2 proxies")
	if c := listener(); c.Type != "Programmed" || c.Status != metav1.ConditionTrue {
		t.Errorf("the listener's condition is %v", c)
	}
	expect("another group's", in, "False Pending: no proxy is connected")

	if r := p.Progress(route.Progress{Group: group, Proxies: 2, Current: 1}); len(r.Reports) != 0 {
		t.Errorf("a change on its way to the proxies is reported: %v", r.Reports)
	}
	if r := p.Progress(route.Progress{Group: route.GatewayGroup("default", "gone"), Proxies: 1, Current: 1}); len(r.Reports) != 0 {
		t.Errorf("the progress of a group that is not there is reported: %v", r.Reports)
	}

	// A refused host is its route's affair, and nobody else's.
	refused := route.Progress{Group: group, Proxies: 2, Rejected: []route.Rejection{
		{Ref: hostOfA, Origins: []model.Key{ra}, Reason: "regex too large"},
	}}
	got.apply(p.Progress(refused))
	expect("refused", ra, "False Rejected: Host default/web/80/a.example: regex too large")
	expect("refused", rb, "")
	expect("refused", gw, "True Programmed: acknowledged by 2 of 2 proxies")
	if r := p.Progress(refused); len(r.Reports) != 0 {
		t.Errorf("the same is reported twice: %v", r.Reports)
	}
	// A refused cluster comes of a Service, which has no conditions: it is
	// reported on the routes to it.
	got.apply(p.Progress(route.Progress{Group: group, Proxies: 2, Current: 1, Rejected: []route.Rejection{
		{Ref: route.Ref{Group: group, Kind: route.KindCluster, ID: "default/app/80"}, Origins: []model.Key{{Kind: model.KindService, Namespace: "default", Name: "app"}}, Reason: "no"},
	}}))
	expect("cluster refused", ra, "False Rejected: Cluster default/app/80: no")
	expect("cluster refused", rb, "")
	got.apply(p.Progress(route.Progress{Group: group, Proxies: 2, Current: 1, Rejected: []route.Rejection{
		{Ref: route.Ref{Group: group, Kind: route.KindListener, ID: "default/web/80"}, Origins: []model.Key{gw}, Reason: "port in use"},
	}}))
	expect("listener refused", ra, "")
	expect("listener refused", gw, "False Rejected: Listener default/web/80: port in use")
	got.apply(p.Progress(route.Progress{Group: group, Proxies: 2, Current: 2}))
	expect("well again", gw, "True Programmed: acknowledged by 2 of 2 proxies")

	// A new generation of the Gateway has to be acknowledged anew.
	old := store.Snapshot()
	next := *objects[0].Value.(*gatewayv1.Gateway)
	next.Generation = 2
	store.Update(func(tx *model.Txn) { model.Gateways.Put(tx, &next) })
	got.apply(p.Update(model.Update{Old: old, New: store.Snapshot(), Changed: []model.Key{gw}}))
	expect("edited", gw, "False Pending: not all proxies have acknowledged the configuration")
	got.apply(p.Progress(route.Progress{Group: group, Proxies: 1, Current: 1}))
	expect("edited and acknowledged", gw, "True Programmed: acknowledged by 1 of 1 proxies")
	got.apply(p.Progress(route.Progress{Group: group}))
	expect("without proxies", gw, "False Pending: no proxy is connected")

	got.apply(p.Progress(route.Progress{Group: class, Proxies: 1, Current: 1}))
	expect("of the class", in, "True Programmed: acknowledged by 1 of 1 proxies")
	got.apply(p.Progress(route.Progress{Group: class, Proxies: 1, Rejected: []route.Rejection{
		{Ref: route.Ref{Group: class, Kind: route.KindHost, ID: "x"}, Origins: []model.Key{in}, Reason: "no"},
	}}))
	expect("of the class, refused", in, "False Rejected: Host x: no")

	// What is gone leaves nothing behind.
	old = store.Snapshot()
	var keys []model.Key
	store.Update(func(tx *model.Txn) {
		for _, o := range objects {
			keys = append(keys, o.Key)
			tx.Delete(o.Key)
		}
	})
	got.apply(p.Update(model.Update{Old: old, New: store.Snapshot(), Changed: keys}))
	if s := got.String(); s != "" {
		t.Errorf("left over:\n%s", s)
	}
	empty(t, p)
}

// TestPlace plans with addresses that depend on a Service.
func TestPlace(t *testing.T) {
	store := storeOf(decodeText(t, strings.Split(progressManifests, "---")[0]))
	group := route.GatewayGroup("default", "web")
	svc := model.Key{Kind: model.KindService, Namespace: "default", Name: "web-sluice"}
	p, got := NewPlanner(PlannerOptions{
		Standalone: true,
		Place: func(snap *model.Snapshot, _ route.Group, _ *gatewayv1.Gateway) Placement {
			if !snap.Has(svc) {
				return Placement{Pending: "no Service yet"}
			}
			return Placement{Addresses: []gatewayv1.GatewayStatusAddress{{Type: new(gatewayv1.IPAddressType), Value: "192.0.2.1"}}}
		},
		PlacedBy: func(key model.Key) (route.Group, bool) { return group, key == svc },
	}), newState()
	got.apply(p.Update(everything(store)))
	got.apply(p.Progress(route.Progress{Group: group, Proxies: 1, Current: 1}))
	if s := got.String(); !strings.Contains(s, "Programmed=False AddressNotAssigned (generation 1): no Service yet") {
		t.Errorf("without an address:\n%s", s)
	}
	old := store.Snapshot()
	store.Update(func(tx *model.Txn) {
		model.Services.Put(tx, &model.Service{Meta: model.Meta{Namespace: "default", Name: "web-sluice"}})
	})
	got.apply(p.Update(model.Update{Old: old, New: store.Snapshot(), Changed: []model.Key{svc}}))
	if s := got.String(); !strings.Contains(s, "address 192.0.2.1") || !strings.Contains(s, "Programmed=True") {
		t.Errorf("with an address:\n%s", s)
	}
}
