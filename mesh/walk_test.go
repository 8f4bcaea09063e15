package mesh

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// pick returns one of several texts.
func pick(r *rand.Rand, texts ...string) string { return texts[r.IntN(len(texts))] }

// randomObject is a manifest that is right by itself, whatever else there is.
func randomObject(r *rand.Rand) string {
	ns, svc, n := pick(r, "a", "b"), pick(r, "x", "w", "z"), r.IntN(4)
	pod := fmt.Sprintf("p%d", n)
	created := fmt.Sprintf("2026-01-0%dT00:00:00Z", 1+r.IntN(3))
	weight := r.IntN(5) + 1
	dest := func() string {
		return fmt.Sprintf("{destination: {host: %s%s%s}, weight: %d}", pick(r, "x", "w", "z", "gone"), pick(r, "", ".a", ".b.svc.cluster.local"),
			pick(r, "", ", subset: v1", ", subset: v2", ", port: {number: 80}", ", port: {number: 9000}"), weight)
	}
	switch r.IntN(7) {
	case 0:
		return fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: %s, namespace: %s}, spec: {clusterIP: %s, ports: [{name: %s, port: 80}%s]}}`,
			svc, ns, pick(r, "10.96.0."+fmt.Sprint(int(svc[0])), `"fd00:96::1"`, "None"), pick(r, "http", "tcp", "what"),
			pick(r, "", ", {name: db, port: 9000}", ", {name: grpc, port: 9000}"))
	case 1:
		return fmt.Sprintf(`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s%d, namespace: %s, labels: {kubernetes.io/service-name: %s}, annotations: {sluice.io/weight: "%d"}},
addressType: IPv4, ports: [{name: %s, port: 8080, protocol: TCP}, {name: db, port: 9000, protocol: TCP}],
endpoints: [{addresses: [10.0.0.%d], conditions: {ready: %s, serving: true, terminating: %s}%s}, {addresses: [10.0.1.%d], conditions: {ready: true}, targetRef: {kind: Pod, name: %s}}]}`,
			n, ns, svc, r.IntN(3), pick(r, "http", "tcp", "what"), n, pick(r, "true", "false"), pick(r, "true", "false"),
			pick(r, "", ", targetRef: {kind: Pod, name: p1}"), r.IntN(4), pod)
	case 2:
		return fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: %s, labels: {v: %s}, annotations: {%s}}, spec: {serviceAccountName: %s, containers: [{name: c}]}, status: {podIPs: [{ip: 10.0.0.%d}]}}`,
			pod, ns, pick(r, "one", "two"), pick(r, "", "sluice.io/sidecar: injected", "sluice.io/sidecar: injected"), pick(r, `""`, "sa"), r.IntN(4))
	case 3:
		return fmt.Sprintf(`{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: vs%d, namespace: %s, creationTimestamp: %q}, spec: {hosts: [%s],
http: [{match: [{port: 80, uri: {prefix: /a}}], route: [%s, %s]}, {route: [%s]}], tcp: [{match: [{port: %s}], route: [%s, %s]}]}}`,
			n, ns, created, pick(r, "x", "w", "x, w", `"*"`, `"*.b.svc.cluster.local"`, "x.a", "example.com", "x.b.svc, z"),
			dest(), dest(), dest(), pick(r, "80", "9000"), dest(), dest())
	case 4:
		return fmt.Sprintf(`{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: vs%d, namespace: %s, creationTimestamp: %q}, spec: {hosts: [%s], http: [{match: [{port: 9000}], directResponse: {status: 200}}]}}`,
			n, ns, created, pick(r, "x", "w", "example.com"))
	case 5:
		return fmt.Sprintf(`{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: dr%d, namespace: %s, creationTimestamp: %q}, spec: {host: %s, subsets: [{name: v1, labels: {v: one}%s}%s]%s}}`,
			n, ns, created, pick(r, "x", "w.b", "z"), pick(r, "", ", trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}"), pick(r, "", ", {name: v2}"),
			pick(r, "", ", trafficPolicy: {tls: {mode: DISABLE}}"))
	}
	return fmt.Sprintf(`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: pa%d, namespace: %s, creationTimestamp: %q}, spec: {%s}}`,
		n, pick(r, "a", "b", "sluice-system"), created,
		pick(r, "mtls: {mode: STRICT}", "mtls: {mode: DISABLE}", "", "selector: {matchLabels: {v: one}}, mtls: {mode: DISABLE}, portLevelMtls: {8080: {mode: STRICT}}"))
}

// TestWalk changes the world at random. However it came to be, the plan is that
// of a planner that sees it for the first time.
func TestWalk(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 0))
			conf := testConfig
			conf.SplitsOnly = seed%5 == 4
			w := newWorld(t, conf)
			w.put(`{apiVersion: v1, kind: Namespace, metadata: {name: a}}`)
			w.plan()
			for step := range 100 {
				snap := w.store.Snapshot()
				for range 1 + r.IntN(3) {
					if r.IntN(4) > 0 {
						// In the root namespace a selector is refused, and what
						// was before stays: that depends on what was before.
						w.putUnlessRefused(randomObject(r))
						continue
					}
					var keys []model.Key
					for _, kind := range conf.Kinds() {
						for key := range snap.Keys(kind) {
							keys = append(keys, key)
						}
					}
					if len(keys) > 0 {
						key := keys[r.IntN(len(keys))]
						w.store.Update(func(tx *model.Txn) { tx.Delete(key) })
					}
				}
				if w.store.Snapshot() == snap {
					continue
				}
				w.plan()
				w.planner.check(t)
				if r.IntN(2) == 0 {
					continue // with changes still on their way
				}
				w.finish()
				if diff := cmp.Diff(strings.Split(w.fresh().String(), "\n"), strings.Split(w.String(), "\n")); diff != "" {
					t.Fatalf("step %d: from the plan made anew to the one that was brought here:\n%s", step, diff)
				}
			}
		})
	}
}

func (w *world) putUnlessRefused(manifest string) {
	probe := newWorld(w.t, testConfig)
	probe.put(manifest)
	probe.plan()
	if len(probe.planner.refused) == 0 {
		w.put(manifest)
	}
}

// fresh is a planner that has seen nothing but the newest snapshot.
func (w *world) fresh() *world {
	f := newWorld(w.t, w.planner.conf)
	f.store, f.watcher = w.store, w.store.Watch()
	defer f.watcher.Stop()
	return f.plan()
}

// check looks for what the planner should have forgotten.
func (p *Planner) check(t *testing.T) {
	t.Helper()
	for svc, units := range p.usedBy {
		for key := range units {
			if u := p.units[key]; u == nil || u.deps[svc] == 0 {
				t.Fatalf("%v is not used by %v", svc, key)
			}
		}
	}
	for name := range p.workloads {
		if pod, ok := model.Pods.Get(p.snap, name.Namespace, name.Name); !ok || !HasSidecar(pod) {
			t.Fatalf("%v has no sidecar any more", name)
		}
	}
	for key, u := range p.units {
		if key.host == "" && len(u.out)+len(u.splits) > 0 && !p.snap.Has(model.Key{Kind: model.KindService, Namespace: key.service.Namespace, Name: key.service.Name}) {
			t.Fatalf("%v is planned but gone", key)
		}
	}
}

// TestModeChanges follows a workload from each mode to each other, and looks
// after each step whether what clients do is what the server takes.
func TestModeChanges(t *testing.T) {
	modes := []string{"STRICT", "PERMISSIVE", "DISABLE"}
	set := func(w *world, mode string) {
		w.put(fmt.Sprintf(`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: a}, spec: {mtls: {mode: %s}}}`, mode))
	}
	for _, from := range modes {
		for _, to := range modes {
			t.Run(from+"-"+to, func(t *testing.T) {
				w := newWorld(t, testConfig)
				w.put(`{apiVersion: v1, kind: Service, metadata: {name: x, namespace: a}, spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, namespace: a, labels: {kubernetes.io/service-name: x}}, addressType: IPv4, ports: [{name: http, port: 8080, protocol: TCP}], endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: p}}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a, annotations: {sluice.io/sidecar: injected}}, spec: {containers: [{name: c}]}}
`)
				set(w, from)
				w.plan()
				server, client := w.modeOf("p", 8080), w.meshOf("a/x/80")
				check := func() {
					t.Helper()
					// Either side may be a step ahead: both the old and the new
					// of one must work with the old and the new of the other.
					s, c := w.modeOf("p", 8080), w.meshOf("a/x/80")
					for _, s := range []route.MTLSMode{server, s} {
						for _, c := range []bool{client, c} {
							if s == route.Strict && !c || s == route.Disable && c {
								t.Fatalf("server %v while clients' mutual TLS is %v", s, c)
							}
						}
					}
					server, client = s, c
				}
				check()
				set(w, to)
				w.plan()
				check()
				if from != to && (from == "DISABLE" || to == "DISABLE") {
					// Nobody acknowledges: nothing moves.
					before := w.String()
					w.apply(w.planner.Advance(time.Unix(1, 0), func(g route.Group) route.Progress { return route.Progress{Group: g, Proxies: 2, Current: 1} }))
					if w.String() != before {
						t.Fatal("a step was taken that nobody was ready for")
					}
				}
				for w.planner.Waiting() {
					w.apply(w.planner.Advance(time.Unix(1, 0), current))
					check()
				}
				if string(server) != to || client != (to != "DISABLE") {
					t.Errorf("it ended with %v, clients %v", server, client)
				}
			})
		}
	}
}

// TestPatience lets a change go on where proxies are not connected here.
func TestPatience(t *testing.T) {
	w := newWorld(t, testConfig)
	w.put(`{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a, annotations: {sluice.io/sidecar: injected}}, spec: {containers: [{name: c}]}}`)
	w.plan()
	w.put(`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: a}, spec: {mtls: {mode: DISABLE}}}`)
	w.plan()
	none := func(g route.Group) route.Progress { return route.Progress{Group: g} }
	now := time.Unix(1, 0)
	w.apply(w.planner.Advance(now, none))
	w.apply(w.planner.Advance(now.Add(9*time.Second), none))
	if got := w.modeOf("p", 1); got != route.Permissive {
		t.Errorf("after 9 s: %v", got)
	}
	for i := range 3 {
		w.apply(w.planner.Advance(now.Add(time.Duration(11*(i+1))*time.Second), none))
	}
	if got := w.modeOf("p", 1); got != route.Disable || w.planner.Waiting() {
		t.Errorf("after 33 s: %v, waiting %v", got, w.planner.Waiting())
	}
}

func (w *world) modeOf(pod string, port uint16) route.MTLSMode {
	l := w.resources[route.Ref{Group: route.WorkloadGroup("a", pod), Kind: route.KindListener, ID: InboundListener}]
	return modeOf(l.Resource.(*route.Listener).Inbound, port)
}

func (w *world) meshOf(cluster string) bool {
	e := w.resources[route.Ref{Group: route.MeshGroup, Kind: route.KindEndpoints, ID: cluster}]
	return e.Resource.(*route.Endpoints).Localities[0].Endpoints[0].Mesh
}

// TestLastGood keeps what was in force when an object becomes unusable.
func TestLastGood(t *testing.T) {
	w := newWorld(t, testConfig)
	vs := `{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v, namespace: a, generation: %d}, spec: {hosts: [x.example.com], http: [{%s}]}}`
	w.put(fmt.Sprintf(vs, 1, "directResponse: {status: 200}"))
	w.plan()
	before := len(w.resources)
	w.put(fmt.Sprintf(vs, 2, "delegate: {name: other}"))
	w.plan()
	if len(w.last.Changes) > 0 || len(w.resources) != before {
		t.Errorf("changes: %v", w.last.Changes)
	}
	c := w.reports[model.Key{Kind: model.KindVirtualService, Namespace: "a", Name: "v"}].Conditions[0]
	if c.Status != "False" || c.Reason != "Unsupported" || c.ObservedGeneration != 2 ||
		c.Message != "http[0].delegate is not supported; the version before stays in force" {
		t.Errorf("%+v", c)
	}
	w.delete(model.KindVirtualService, "a/v")
	w.plan()
	if len(w.resources) != 1 || len(w.reports) != 0 {
		t.Errorf("left: %v", w)
	}
}
