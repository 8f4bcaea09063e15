package ingress

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/source"
)

// TestRandomWalk goes from state to state of a small cluster, in steps of a few
// objects, and after each step compares what the planner has handed out so far
// with a plan from nothing.
func TestRandomWalk(t *testing.T) {
	variants := walkObjects(t)
	keys := slices.SortedFunc(maps.Keys(variants), compareKeys)
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 1))
			store := model.NewStore()
			p, got := NewPlanner(PlannerOptions{Standalone: true}), newState()
			for step := range 400 {
				old := store.Snapshot()
				changed := map[model.Key]struct{}{}
				store.Update(func(tx *model.Txn) {
					for range 1 + rnd.IntN(3) {
						key := keys[rnd.IntN(len(keys))]
						changed[key] = struct{}{}
						vs := variants[key]
						if i := rnd.IntN(len(vs) + 1); i < len(vs) {
							tx.Put(key.Kind, vs[i])
						} else {
							tx.Delete(key)
						}
					}
				})
				got.apply(p.Update(model.Update{Old: old, New: store.Snapshot(), Changed: slices.Collect(maps.Keys(changed))}))

				fresh, want := NewPlanner(PlannerOptions{Standalone: true}), newState()
				// What a Secret was before it became malformed is the
				// one thing that is not in the snapshot.
				fresh.lastGood = maps.Clone(p.lastGood)
				want.apply(fresh.Update(everything(store)))
				if diff := cmp.Diff(want.String(), got.String()); diff != "" {
					t.Fatalf("step %d, after %v (-from nothing +incremental):\n%s", step, slices.Collect(maps.Keys(changed)), diff)
				}
			}
			old := store.Snapshot()
			store.Update(func(tx *model.Txn) {
				for _, key := range keys {
					tx.Delete(key)
				}
			})
			got.apply(p.Update(model.Update{Old: old, New: store.Snapshot(), Changed: keys}))
			if s := got.String(); s != "" {
				t.Errorf("left over when all objects are gone:\n%s", s)
			}
			empty(t, p)
		})
	}
}

// empty checks that a planner remembers nothing.
func empty(t *testing.T, p *Planner) {
	t.Helper()
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		switch v.Kind() {
		case reflect.Map:
			if v.Len() > 0 {
				t.Errorf("%s holds %d entries: %v", path, v.Len(), v)
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if name := v.Type().Field(i).Name; name != "opt" && name != "snap" {
					walk(path+"."+name, v.Field(i))
				}
			}
		}
	}
	walk("planner", reflect.ValueOf(p).Elem())
}

// walkObjects returns the objects of the walk, each in several versions.
func walkObjects(t testing.TB) map[model.Key][]source.Value {
	certs := decode(t, "testdata/certs.yaml")
	var docs []string
	doc := func(format string, args ...any) { docs = append(docs, fmt.Sprintf(format, args...)) }

	for _, controller := range []string{string(GatewayController), "example.com/other"} {
		doc("apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: ours}\nspec: {controllerName: %s}", controller)
		doc("apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: sluice}\nspec: {controllerName: %s}", controller)
	}
	listeners := []string{
		`{name: http, port: 80, protocol: HTTP}`,
		`{name: http, port: 80, protocol: HTTP, hostname: "*.example"}, {name: a, port: 80, protocol: HTTP, hostname: a.example}`,
		`{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}, {name: twice, port: 80, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: cert-a}]}}`,
		`{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: web}}}}}, {name: alt, port: 8080, protocol: HTTP}`,
		`{name: a, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: cert-a}]}}, {name: rest, port: 443, protocol: HTTPS, allowedRoutes: {namespaces: {from: All}}, tls: {certificateRefs: [{namespace: certs, name: cert-a}]}}`,
	}
	for _, gw := range []string{"web", "second"} {
		for i, l := range listeners {
			doc("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {namespace: default, name: %s, generation: %d}\nspec: {gatewayClassName: %s, listeners: [%s]}",
				gw, i, []string{"ours", "sluice"}[i%2], l)
		}
	}
	rules := []string{
		`{backendRefs: [{name: app, port: 80}]}`,
		`{matches: [{path: {type: Exact, value: /x}}], backendRefs: [{name: app, port: 80, weight: 9}, {namespace: other, name: app, port: 80}]}, {filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}`,
		`{matches: [{path: {value: /y}, method: GET}], backendRefs: [{name: app, port: 81}]}, {matches: [{path: {type: RegularExpression, value: "("}}]}`,
	}
	hosts := []string{`[a.example]`, `["*.example", b.example]`, `[]`}
	parents := []string{`{namespace: default, name: web}`, `{namespace: default, name: web, sectionName: a}, {namespace: default, name: second}`, `{namespace: default, name: second, port: 8080}`}
	for _, ns := range []string{"default", "other"} {
		for r := range 3 {
			for v := range 5 {
				doc("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {namespace: %s, name: r%d, creationTimestamp: \"2026-01-0%dT00:00:00Z\"}\nspec: {parentRefs: [%s], hostnames: %s, rules: [%s]}",
					ns, r, 1+(r+v)%3, parents[(r+v)%3], hosts[(r+2*v)%3], rules[(v+r*v)%3])
			}
		}
		for _, ports := range []string{`{name: http, port: 80}`, `{name: http, port: 80, appProtocol: kubernetes.io/h2c}, {name: alt, port: 81}`, `{name: other, port: 80}`} {
			doc("apiVersion: v1\nkind: Service\nmetadata: {namespace: %s, name: app}\nspec: {clusterIP: 10.96.0.%d, ports: [%s]}", ns, len(ns), ports)
		}
		doc("apiVersion: v1\nkind: Service\nmetadata: {namespace: %s, name: app}\nspec: {type: ExternalName, externalName: example.com, ports: [{name: http, port: 80}]}", ns)
		for s := range 2 {
			for v, ep := range []string{`{addresses: [10.0.0.1]}`, `{addresses: [10.0.0.2], conditions: {ready: false, serving: true, terminating: true}}`, `{addresses: [10.0.0.1]}, {addresses: [10.0.0.3]}`} {
				doc("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {namespace: %s, name: app-%d, labels: {kubernetes.io/service-name: %s}}\naddressType: IPv4\nports: [{name: http, port: 8080}]\nendpoints: [%s]",
					ns, s, []string{"app", "app", "elsewhere"}[(v+s)%3], ep)
			}
		}
		for _, labels := range []string{"{team: web}", "{team: other}"} {
			doc("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: %s}", ns, labels)
		}
	}
	for _, to := range []string{"app", "nothing"} {
		doc("apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {namespace: other, name: g}\nspec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}], to: [{group: \"\", kind: Service, name: %s}]}", to)
		doc("apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {namespace: certs, name: g}\nspec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}], to: [{group: \"\", kind: Secret, name: %s}]}", strings.ReplaceAll(to, "app", "cert-a"))
	}
	for _, annotations := range []string{`{}`, `{ingressclass.kubernetes.io/is-default-class: "true"}`} {
		doc("apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: public, annotations: %s}\nspec: {controller: %s}", annotations, IngressController)
		doc("apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: theirs, annotations: %s}\nspec: {controller: example.com/other}", annotations)
	}
	for i := range 3 {
		for v, spec := range []string{
			`ingressClassName: public, rules: [{host: a.example, http: {paths: [{path: /x, pathType: Exact, backend: {service: {name: app, port: {name: http}}}}]}}]`,
			`rules: [{host: "*.example", http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: app, port: {number: 81}}}}]}}], tls: [{hosts: ["*.example"], secretName: cert-a}]`,
			`ingressClassName: public, defaultBackend: {service: {name: app, port: {number: 80}}}, tls: [{secretName: cert-wild}, {hosts: ["*.example", a.example], secretName: cert-wild}], rules: [{host: a.example}]`,
			`ingressClassName: public, tls: [{hosts: [a.example], secretName: cert-wild}], rules: [{host: "*.example", http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: app, port: {number: 80}}}}]}}]`,
			`ingressClassName: theirs, defaultBackend: {service: {name: app, port: {number: 80}}}`,
		} {
			doc("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {namespace: default, name: i%d, creationTimestamp: \"2026-01-0%dT00:00:00Z\"}\nspec: {%s}", i, 1+(i+v)%3, spec)
		}
	}

	out := map[model.Key][]source.Value{}
	for _, d := range docs {
		os, problems := source.Decode([]byte(d))
		if len(os) == 0 {
			t.Fatalf("%v\n%s", problems, d)
		}
		for _, o := range os {
			out[o.Key] = append(out[o.Key], o.Value)
		}
	}
	for _, o := range certs {
		out[o.Key] = append(out[o.Key], o.Value)
		// A certificate that goes bad: the last good one stays.
		if s := *o.Value.(*model.Secret); o.Key.Name == "cert-a" {
			s.Data = map[string][]byte{"tls.crt": []byte("bad"), "tls.key": []byte("bad")}
			out[o.Key] = append(out[o.Key], &s)
		}
	}
	return out
}
