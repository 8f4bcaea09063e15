package ingress_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/model"
)

const gatewayManifests = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {namespace: default, name: web}
spec:
  gatewayClassName: sluice
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: one, port: 80, protocol: HTTP, hostname: one.isolated.example}
  - {name: alt, port: 8080, protocol: HTTP}
  - {name: https-a, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: cert-a}]}}
  - {name: https-wild, port: 443, protocol: HTTPS, hostname: "*.example", tls: {certificateRefs: [{name: cert-wild}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: default, name: matching}
spec:
  parentRefs: [{name: web, sectionName: http}]
  hostnames: [match.example]
  rules:
  - {matches: [{path: {value: /}}], backendRefs: [{name: v1, port: 80}]}
  - {matches: [{path: {value: /v2/}}, {headers: [{name: Version, value: two}]}], backendRefs: [{name: v2, port: 80}]}
  - {matches: [{path: {type: Exact, value: /v2/exact}}, {path: {value: /}, method: PATCH}, {path: {value: /}, queryParams: [{name: q, value: "1"}]}], backendRefs: [{name: v3, port: 80}]}
  - {matches: [{path: {type: RegularExpression, value: "/re/[0-9]+"}}], backendRefs: [{name: v3, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: default, name: actions}
spec:
  parentRefs: [{name: web, sectionName: http}, {name: web, sectionName: alt}]
  hostnames: [act.example]
  rules:
  - {matches: [{path: {value: /split}}], backendRefs: [{name: v1, port: 80, weight: 1}, {name: v2, port: 80, weight: 1}, {name: v3, port: 80, weight: 0}]}
  - {matches: [{path: {value: /half}}], backendRefs: [{name: v1, port: 80}, {name: nowhere, port: 80}]}
  - {matches: [{path: {value: /missing}}], backendRefs: [{name: nowhere, port: 80}]}
  - {matches: [{path: {value: /none}}]}
  - {matches: [{path: {value: /https}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]}
  - {matches: [{path: {value: /host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example}}]}
  - {matches: [{path: {value: /old}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 308}}]}
  - {matches: [{path: {value: /strip}}], filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], backendRefs: [{name: v1, port: 80}]}
  - matches: [{path: {value: /headers}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: "50%"}], add: [{name: X-Add, value: b}], remove: [X-Gone]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Response, value: here}]}}
    backendRefs: [{name: v1, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Backend, value: v1}]}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: default, name: wild}
spec:
  parentRefs: [{name: web}]
  hostnames: ["*.isolated.example"]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: default, name: one}
spec:
  parentRefs: [{name: web, sectionName: one}]
  rules: [{matches: [{path: {value: /only}}], backendRefs: [{name: v2, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: default, name: secure}
spec:
  parentRefs: [{name: web, sectionName: https-a}, {name: web, sectionName: https-wild}]
  rules: [{backendRefs: [{name: v1, port: 80}]}]
`

// TestGateway sends requests through a real Envoy that a directory of manifests
// configures.
func TestGateway(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"v1", "v2", "v3"} {
		w.backend(name)
	}
	w.write("gateway.yaml", strings.Replace(gatewayManifests,
		// The wildcard route is for the HTTP listener without a hostname
		// and, where it is, for the one with.
		`parentRefs: [{name: web}]`, `parentRefs: [{name: web, sectionName: http}]`, 1))
	w.write("cert-a.yaml", certificate(t, "cert-a", "a.example", 1))
	w.write("cert-wild.yaml", certificate(t, "cert-wild", "*.example", 2))
	w.start()
	gw := model.Key{Kind: model.KindGateway, Namespace: "default", Name: "web"}
	if m := w.condition(gw, "Programmed", "False"); m != "no proxy is connected" {
		t.Errorf("Programmed is False: %s", m)
	}
	w.proxy("default", "web")
	w.condition(gw, "Programmed", "True")

	t.Run("requests", func(t *testing.T) { testRequests(t, w.in(t)) })
	t.Run("weights", func(t *testing.T) { testWeights(t, w.in(t)) })
	t.Run("tls", func(t *testing.T) { testTLS(t, w.in(t)) })
	t.Run("edits", func(t *testing.T) { testEdits(t, w.in(t), gw) })
}

func testRequests(t *testing.T, w *world) {
	two := http.Header{"Version": {"two"}}
	for _, c := range []struct {
		port         int
		method       string
		host, path   string
		header       http.Header
		code         int
		backend      string
		location     string
		backendPath  string
		backendHost  string
		headers      map[string]string // seen by the backend
		answerHeader string
	}{
		{host: "match.example", path: "/", backend: "v1"},
		{host: "MATCH.example", path: "/v2", backend: "v2"},
		{host: "match.example", path: "/v2/x", backend: "v2"},
		{host: "match.example", path: "/v2x", backend: "v1"},
		{host: "match.example", path: "/v2/exact", backend: "v3"},
		{host: "match.example", path: "/v2/exact/", backend: "v2"},
		{host: "match.example", path: "/", header: two, backend: "v2"},
		{host: "match.example", path: "/", header: two, method: "PATCH", backend: "v3"},
		{host: "match.example", path: "/?q=1", backend: "v3"},
		{host: "match.example", path: "/?q=1", header: two, backend: "v2"},
		{host: "match.example", path: "/?q=11", backend: "v1"},
		{host: "match.example", path: "/re/12", backend: "v3"},
		{host: "match.example", path: "/re/12/x", backend: "v1"},
		{host: "unknown.example", path: "/", code: 404},

		{host: "act.example", path: "/", code: 404},
		{host: "act.example", path: "/missing", code: 500},
		{host: "act.example", path: "/none", code: 500},
		{host: "act.example", path: "/https/x?y", code: 301, location: "https://act.example/https/x?y"},
		{host: "act.example", path: "/host", code: 302, location: "http://other.example/host"},
		{host: "act.example", path: "/old/x", code: 308, location: "http://act.example/new/x"},
		{port: 8080, host: "act.example", path: "/host", code: 302, location: "http://other.example:8080/host"},
		{port: 8080, host: "act.example", path: "/old/", code: 308, location: "http://act.example:8080/new/"},
		{port: 8080, host: "act.example", path: "/https", code: 301, location: "https://act.example/https"},
		{host: "act.example", path: "/strip/a?b", backend: "v1", backendPath: "/a?b", backendHost: "inner.example"},
		{host: "act.example", path: "/strip", backend: "v1", backendPath: "/"},
		{
			host: "act.example", path: "/headers", header: http.Header{"X-Set": {"a"}, "X-Add": {"a"}, "X-Gone": {"a"}}, backend: "v1",
			headers: map[string]string{"x-set": "50%", "x-gone": "", "x-backend": "v1"}, answerHeader: "here",
		},

		{host: "two.isolated.example", path: "/only", backend: "v1"},
		{host: "one.isolated.example", path: "/only", backend: "v2"},
		{host: "one.isolated.example", path: "/", code: 404},
	} {
		if c.port == 0 {
			c.port = 80
		}
		if c.method == "" {
			c.method = http.MethodGet
		}
		if c.code == 0 {
			c.code = 200
		}
		what := fmt.Sprintf("%s %s:%d%s %v", c.method, c.host, c.port, c.path, c.header)
		a, err := w.ask(c.port, "", c.method, c.host, c.path, c.header)
		switch {
		case err != nil:
			t.Errorf("%s: %v", what, err)
		case a.code != c.code || a.echo.Name != c.backend || a.location != c.location:
			t.Errorf("%s: %d by %q to %q, want %d by %q to %q", what, a.code, a.echo.Name, a.location, c.code, c.backend, c.location)
		case c.backendPath != "" && a.echo.Path != c.backendPath, c.backendHost != "" && a.echo.Host != c.backendHost:
			t.Errorf("%s: the backend saw %s%s, want %s%s", what, a.echo.Host, a.echo.Path, c.backendHost, c.backendPath)
		case a.header.Get("X-Response") != c.answerHeader:
			t.Errorf("%s: X-Response is %q", what, a.header.Get("X-Response"))
		}
		for name, want := range c.headers {
			if got := a.echo.Headers[name]; got != want {
				t.Errorf("%s: the backend saw %s: %q, want %q", what, name, got, want)
			}
		}
	}
}

func testWeights(t *testing.T, w *world) {
	for path, want := range map[string][]string{"/split": {"200 v1", "200 v2"}, "/half": {"200 v1", "500 "}} {
		got := map[string]int{}
		const n = 200
		for range n {
			a, err := w.ask(80, "", http.MethodGet, "act.example", path, nil)
			if err != nil {
				t.Fatal(err)
			}
			got[fmt.Sprintf("%d %s", a.code, a.echo.Name)]++
		}
		for _, k := range want {
			// Four standard deviations, and some.
			if got[k] < n/2-35 || got[k] > n/2+35 || len(got) != len(want) {
				t.Errorf("%s: %v, want halves of %v", path, got, want)
			}
		}
	}
}

func testTLS(t *testing.T, w *world) {
	for _, c := range []struct {
		sni, host string
		code      int
		cert      string
	}{
		{"a.example", "a.example", 200, "a.example"},
		{"b.example", "b.example", 200, "*.example"},
		{"b.example", "c.example", 200, "*.example"},
		// Another listener's host on this connection is misdirected.
		{"b.example", "a.example", 421, "*.example"},
		{"a.example", "b.example", 421, "a.example"},
	} {
		a, err := w.ask(443, c.sni, http.MethodGet, c.host, "/", nil)
		if err != nil {
			t.Errorf("SNI %s, Host %s: %v", c.sni, c.host, err)
			continue
		}
		if a.code != c.code || a.cert.Subject.CommonName != c.cert {
			t.Errorf("SNI %s, Host %s: %d with %s, want %d with %s", c.sni, c.host, a.code, a.cert.Subject.CommonName, c.code, c.cert)
		}
	}
	if a, err := w.ask(443, "elsewhere.test", http.MethodGet, "elsewhere.test", "/", nil); err == nil {
		t.Errorf("a name without a listener was served: %d", a.code)
	}

	// A renewed certificate is served; a malformed one is reported and the
	// last good one stays.
	serial := func(want int64) func() error {
		return func() error {
			a, err := w.ask(443, "a.example", http.MethodGet, "a.example", "/", nil)
			if err != nil {
				return err
			}
			if a.cert.SerialNumber.Int64() != want {
				return fmt.Errorf("certificate %v, want %d", a.cert.SerialNumber, want)
			}
			return nil
		}
	}
	gw := model.Key{Kind: model.KindGateway, Namespace: "default", Name: "web"}
	w.write("cert-a.yaml", certificate(t, "cert-a", "a.example", 7))
	w.eventually(serial(7))
	w.write("cert-a.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {namespace: default, name: cert-a}\ntype: kubernetes.io/tls\nstringData: {tls.crt: bad, tls.key: bad}\n")
	w.condition(gw, "ResolvedRefs", "False")
	if err := serial(7)(); err != nil {
		t.Errorf("with a malformed Secret: %v", err)
	}
	w.write("cert-a.yaml", certificate(t, "cert-a", "a.example", 8))
	w.eventually(serial(8))
	w.condition(gw, "ResolvedRefs", "True")
}

// testEdits edits manifests and waits until requests follow.
func testEdits(t *testing.T, w *world, gw model.Key) {
	served := func(by string) func() error {
		return func() error {
			a, err := w.ask(80, "", http.MethodGet, "edit.example", "/", nil)
			if got := fmt.Sprint(a.code, " ", a.echo.Name); err != nil || got != by {
				return fmt.Errorf("%q, %w; want %q", got, err, by)
			}
			return nil
		}
	}
	edit := func(backend string) {
		w.write("edit.yaml", fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {namespace: default, name: edit}\nspec: {parentRefs: [{name: web}], hostnames: [edit.example], rules: [%s]}\n", backend))
	}
	key := model.Key{Kind: model.KindHTTPRoute, Namespace: "default", Name: "edit"}
	edit("{backendRefs: [{name: v1, port: 80}]}")
	w.eventually(served("200 v1"))
	edit("{backendRefs: [{name: v2, port: 80}]}")
	w.eventually(served("200 v2"))
	// What the check before sending, or Envoy, refuses: the last good routes
	// stay, the reason is on the route, and nothing else is disturbed.
	huge := "/" + strings.Repeat("a{999}", 30)
	edit(fmt.Sprintf("{matches: [{path: {type: RegularExpression, value: %q}}], backendRefs: [{name: v3, port: 80}]}", huge))
	if m := w.condition(key, "Programmed", "False"); !strings.Contains(m, "edit.example") {
		t.Errorf("the reason is %q", m)
	}
	if err := served("200 v2")(); err != nil {
		t.Errorf("with a route that is refused: %v", err)
	}
	w.condition(gw, "Programmed", "True")
	edit("{backendRefs: [{name: gone, port: 80}]}")
	w.eventually(served("500 "))
	w.condition(key, "ResolvedRefs", "False")
	edit("{backendRefs: [{name: v3, port: 80}]}")
	w.eventually(served("200 v3"))
	w.condition(key, "ResolvedRefs", "True")
	w.write("edit.yaml", "")
	w.eventually(served("404 "))
}

// TestIngressClass sends requests through the Envoy of an IngressClass.
func TestIngressClass(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"v1", "v2"} {
		w.backend(name)
	}
	w.write("cert.yaml", certificate(t, "cert-a", "a.example", 1))
	w.write("ingress.yaml", `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {namespace: default, name: in}
spec:
  ingressClassName: sluice
  tls: [{hosts: [a.example], secretName: cert-a}]
  defaultBackend: {service: {name: v2, port: {number: 80}}}
  rules:
  - host: a.example
    http:
      paths:
      - {path: /foo, pathType: Prefix, backend: {service: {name: v1, port: {name: http}}}}
      - {path: /foo/exact, pathType: Exact, backend: {service: {name: v2, port: {number: 80}}}}
  - host: "*.wild.example"
    http:
      paths: [{path: /w, pathType: Prefix, backend: {service: {name: v1, port: {number: 80}}}}]
`)
	w.start()
	w.proxy("", "sluice")
	w.condition(model.Key{Kind: model.KindIngress, Namespace: "default", Name: "in"}, "Programmed", "True")
	for _, c := range []struct{ sni, host, path, want string }{
		{"", "a.example", "/foo/x", "200 v1"},
		{"", "a.example", "/foo/exact", "200 v2"},
		{"", "a.example", "/foox", "200 v2"},
		{"", "any.test", "/foo", "200 v2"},
		{"", "x.wild.example", "/w", "200 v1"},
		{"", "X.wild.example", "/w/", "200 v1"},
		{"", "x.wild.example", "/", "200 v2"},
		{"", "x.y.wild.example", "/w", "404 "},
		{"a.example", "a.example", "/foo", "200 v1"},
	} {
		port := 80
		if c.sni != "" {
			port = 443
		}
		a, err := w.ask(port, c.sni, http.MethodGet, c.host, c.path, nil)
		if got := fmt.Sprint(a.code, " ", a.echo.Name); err != nil || got != c.want {
			t.Errorf("%s %s%s: %q, %v; want %q", c.sni, c.host, c.path, got, err, c.want)
		}
	}
}
