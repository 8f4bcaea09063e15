package translate_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/route"
)

// TestRules sends requests through rules of every sort, on an exact host and
// on a wildcard, which must be the same.
func TestRules(t *testing.T) {
	c := newControl(t)
	port := freePort(t)
	b := func(name string) []route.Backend { return []route.Backend{{Cluster: name, Weight: 1}} }
	path := func(kind route.PathKind, value string) route.Match {
		return route.Match{Path: route.PathMatch{Kind: kind, Value: value}}
	}
	header := func(kind route.ValueKind, name, value string, invert bool) route.Match {
		return route.Match{Path: route.PathMatch{Kind: route.PathExact, Value: "/h"},
			Headers: []route.ValueMatch{{Kind: kind, Name: name, Value: value, Invert: invert}}}
	}
	query := func(kind route.ValueKind, name, value string) route.Match {
		return route.Match{Query: []route.ValueMatch{{Kind: kind, Name: name, Value: value}},
			Path: route.PathMatch{Kind: route.PathExact, Value: "/q"}}
	}
	rules := []route.Rule{
		{Name: "exact", Match: path(route.PathExact, "/exact"), Backends: b("one")},
		{Name: "slash", Match: path(route.PathPrefix, "/slash/"), Backends: b("one")},
		{Name: "string", Match: path(route.PathString, "/str"), Backends: b("one")},
		{Name: "regex", Match: path(route.PathRegex, `/r/[0-9]+`), Backends: b("one")},
		{Name: "case", Match: route.Match{Path: route.PathMatch{Kind: route.PathPrefix, Value: "/CaSe", IgnoreCase: true}}, Backends: b("one")},
		{Name: "method", Match: route.Match{Method: "PUT"}, Backends: b("one")},

		{Name: "h-not", Match: header(route.ValueExact, "X-Not", "a", true), Backends: b("two")},
		{Name: "h-exact", Match: header(route.ValueExact, "X-A", "a", false), Backends: b("one")},
		{Name: "h-prefix", Match: header(route.ValuePrefix, "x-p", "pre", false), Backends: b("one")},
		{Name: "h-regex", Match: header(route.ValueRegex, "x-r", "r+", false), Backends: b("one")},
		{Name: "h-present", Match: header(route.ValuePresent, "x-here", "", false), Backends: b("one")},
		{Name: "q-exact", Match: query(route.ValueExact, "a", "1"), Backends: b("one")},
		{Name: "q-regex", Match: query(route.ValueRegex, "r", "[xy]"), Backends: b("one")},
		{Name: "q-present", Match: query(route.ValuePresent, "p", ""), Backends: b("one")},

		{Name: "rd-scheme", Match: path(route.PathPrefix, "/rd/scheme"), Redirect: &route.Redirect{Scheme: "https", Host: "other.example.com", Port: 8443, Code: 301}},
		{Name: "rd-path", Match: path(route.PathPrefix, "/rd/path"), Redirect: &route.Redirect{Path: "/new", Code: 307}},
		{Name: "rd-prefix", Match: path(route.PathPrefix, "/rd/prefix"), Redirect: &route.Redirect{PathPrefix: "/new", HasPrefix: true, Code: 302}},
		{Name: "rd-strip", Match: path(route.PathPrefix, "/rd/strip"), Redirect: &route.Redirect{HasPrefix: true, Code: 308}},

		{Name: "rw-path", Match: path(route.PathPrefix, "/rw/path"), Backends: b("one"), Rewrite: &route.Rewrite{Path: `/all\new`, Host: "rewritten.example.com"}},
		{Name: "rw-prefix", Match: path(route.PathPrefix, "/rw/prefix"), Backends: b("one"), Rewrite: &route.Rewrite{PathPrefix: "/x", HasPrefix: true}},
		{Name: "rw-slash", Match: path(route.PathPrefix, "/rw/slash"), Backends: b("one"), Rewrite: &route.Rewrite{PathPrefix: "/x/", HasPrefix: true}},
		{Name: "rw-strip", Match: path(route.PathPrefix, "/rw/strip"), Backends: b("one"), Rewrite: &route.Rewrite{HasPrefix: true}},
		{Name: "rw-string", Match: path(route.PathString, "/rw/string"), Backends: b("one"), Rewrite: &route.Rewrite{PathPrefix: "/x", HasPrefix: true}},

		{Name: "edit", Match: path(route.PathPrefix, "/edit"), Backends: []route.Backend{{Cluster: "one", Weight: 1,
			Request: route.HeaderEdits{Set: []route.Header{{Name: "X-Backend-Only", Value: "100%"}}},
		}},
			Request: route.HeaderEdits{
				Set:    []route.Header{{Name: "X-Set", Value: "%REQ(:path)%"}, {Name: "Host", Value: "set.example.com"}},
				Add:    []route.Header{{Name: "X-Add", Value: "two"}},
				Remove: []string{"X-Remove"},
			},
			Response: route.HeaderEdits{
				Set:    []route.Header{{Name: "X-Backend", Value: "one"}, {Name: "X-New", Value: "new"}},
				Remove: []string{"Content-Type"},
			},
		},
		{Name: "respond", Match: path(route.PathExact, "/respond"), Respond: &route.Response{Code: 418, Body: "short and stout"}},
		{Name: "none", Match: path(route.PathExact, "/none"), Backends: b("")},
		{Name: "zero", Match: path(route.PathExact, "/zero"), Backends: []route.Backend{{Cluster: "one"}}},
		{Name: "empty", Match: path(route.PathExact, "/empty"), Backends: b("without-endpoints")},
		{Name: "rest", Match: path(route.PathPrefix, "/rest"), Rewrite: &route.Rewrite{PathPrefix: "/"}, Backends: b("two")},
	}
	changes := append(c.backend(gateways, "one"), c.backend(gateways, "two")...)
	changes = append(changes, clusterOf(gateways, "without-endpoints", route.HTTP)...)
	changes = append(changes,
		route.Set(gateways, &route.Listener{Name: "web", Gateway: &route.GatewayListener{
			Addresses: loopback, Port: port, Protocol: route.HTTP, Space: "web",
		}}),
		route.Set(gateways, &route.Host{Space: "web", Name: "a.example.com", Rules: rules}),
		route.Set(gateways, &route.Host{Space: "web", Name: "*.wild.example.com", Rules: rules}),
	)
	c.publish(changes...)
	c.gateway()
	c.acked(gateways)

	type want struct {
		code           int
		backend, path  string
		location, host string
	}
	one := want{backend: "one"}
	for _, tc := range []struct {
		method, path string
		header       http.Header
		want
	}{
		{path: "/exact", want: one},
		{path: "/exact?q=1", want: one},
		{path: "/exact/", want: want{code: 404}},
		{path: "/slash", want: one},
		{path: "/slash/x", want: one},
		{path: "/slashx", want: want{code: 404}},
		{path: "/strict", want: one},
		{path: "/r/42", want: one},
		{path: "/r/42/x", want: want{code: 404}},
		{path: "/cAsE/x", want: one},
		{path: "/EXACT", want: want{code: 404}},
		{path: "/anything", method: "PUT", want: one},

		{path: "/h", want: want{backend: "two"}},
		{path: "/h", header: http.Header{"X-Not": {"b"}}, want: want{backend: "two"}},
		{path: "/h", header: http.Header{"X-Not": {"a"}}, want: want{code: 404}},
		{path: "/h", header: http.Header{"X-Not": {"a"}, "X-A": {"a"}}, want: one},
		{path: "/h", header: http.Header{"X-Not": {"a"}, "X-A": {"ab"}}, want: want{code: 404}},
		{path: "/h", header: http.Header{"X-Not": {"a"}, "X-P": {"prefix"}}, want: one},
		{path: "/h", header: http.Header{"X-Not": {"a"}, "X-R": {"rrr"}}, want: one},
		{path: "/h", header: http.Header{"X-Not": {"a"}, "X-R": {"rrrs"}}, want: want{code: 404}},
		{path: "/h", header: http.Header{"X-Not": {"a"}, "X-Here": {""}}, want: one},
		{path: "/q?a=1", want: one},
		{path: "/q?a=12", want: want{code: 404}},
		{path: "/q?r=y", want: one},
		{path: "/q?p=", want: one},
		{path: "/q", want: want{code: 404}},

		{path: "/rd/scheme/x?q=1", want: want{code: 301, location: "https://other.example.com:8443/rd/scheme/x?q=1"}},
		{path: "/rd/path/x", want: want{code: 307, location: "http://HOST/new"}},
		{path: "/rd/prefix/x", want: want{code: 302, location: "http://HOST/new/x"}},
		{path: "/rd/prefix", want: want{code: 302, location: "http://HOST/new"}},
		{path: "/rd/strip/x?q", want: want{code: 308, location: "http://HOST/x?q"}},
		{path: "/rd/strip", want: want{code: 308, location: "http://HOST/"}},

		{path: "/rw/path/x?q=1", want: want{backend: "one", path: "/all%5Cnew?q=1", host: "rewritten.example.com"}},
		{path: "/rw/prefix", want: want{backend: "one", path: "/x"}},
		{path: "/rw/prefix/y?q=1", want: want{backend: "one", path: "/x/y?q=1"}},
		{path: "/rw/slash", want: want{backend: "one", path: "/x/"}},
		{path: "/rw/slash/y", want: want{backend: "one", path: "/x/y"}},
		{path: "/rw/strip", want: want{backend: "one", path: "/"}},
		{path: "/rw/strip/y/z", want: want{backend: "one", path: "/y/z"}},
		{path: "/rw/stringy/z", want: want{backend: "one", path: "/xy/z"}},

		{path: "/respond", want: want{code: 418}},
		{path: "/none", want: want{code: 500}},
		{path: "/zero", want: want{code: 500}},
		{path: "/empty", want: want{code: 503}},
	} {
		for _, host := range []string{"a.example.com", "x.wild.example.com:8080"} {
			got := mustAsk(t, http.DefaultClient, request{
				method: tc.method, host: host, header: tc.header, url: fmt.Sprintf("http://127.0.0.1:%d%s", port, tc.path),
			})
			w := tc.want
			if w.code == 0 {
				w.code = 200
			}
			w.location = replaceHost(w.location, host)
			if got.code != w.code || got.heard.Backend != w.backend || got.location != w.location ||
				w.path != "" && got.heard.Path != w.path || w.host != "" && got.heard.Host != w.host {
				t.Errorf("%s %s%s %v: got %d by %q, path %q, host %q, location %q; want %+v", tc.method, host, tc.path, tc.header,
					got.code, got.heard.Backend, got.heard.Path, got.heard.Host, got.location, w)
			}
		}
	}

	got := mustAsk(t, http.DefaultClient, request{url: fmt.Sprintf("http://127.0.0.1:%d/edit", port), host: "a.example.com",
		header: http.Header{"X-Set": {"old"}, "X-Add": {"one"}, "X-Remove": {"it"}}})
	for name, want := range map[string]string{
		"X-Set": "[%REQ(:path)%]", "X-Add": "[one two]", "X-Remove": "[]", "X-Backend-Only": "[100%]", "X-Envoy-Internal": "[]",
		"X-Envoy-Expected-Rq-Timeout-Ms": "[]", "X-Forwarded-Proto": "[http]",
	} {
		if v := fmt.Sprint(got.heard.Header[name]); v != want && v != replaceComma(want) {
			t.Errorf("the backend got %s: %s, want %s", name, v, want)
		}
	}
	if got.heard.Host != "set.example.com" {
		t.Errorf("the backend got the host %q, want the one that was set", got.heard.Host)
	}
	for name, want := range map[string]string{"X-New": "[new]", "Content-Type": "[]", "Server": "[]", "X-Envoy-Upstream-Service-Time": "[]"} {
		if v := fmt.Sprint(got.header[name]); v != want {
			t.Errorf("the client got %s: %s, want %s", name, v, want)
		}
	}
}

// TestWeights counts where requests go. With 4,000 requests the share of 10 %
// is off by more than six standard deviations once in 10^9 runs.
func TestWeights(t *testing.T) {
	c := newControl(t)
	port := freePort(t)
	changes := append(c.backend(gateways, "one"), c.backend(gateways, "two")...)
	split := route.Rule{Name: "split", Backends: []route.Backend{
		{Cluster: "one", Weight: 85}, {Cluster: "two", Weight: 10, Response: route.HeaderEdits{
			Set: []route.Header{{Name: "X-Canary", Value: "yes"}},
		}}, {Weight: 5}, {Cluster: "nowhere"},
	}}
	changes = append(changes,
		route.Set(gateways, &route.Listener{Name: "web", Gateway: &route.GatewayListener{
			Addresses: loopback, Port: port, Protocol: route.HTTP, Space: "web",
		}}),
		route.Set(gateways, &route.Host{Space: "web", Name: "a.example.com", Rules: []route.Rule{split}}),
	)
	c.publish(changes...)
	c.gateway()
	c.acked(gateways)
	const n = 4000
	counts := map[string]int{}
	for range n {
		got := mustAsk(t, http.DefaultClient, request{url: fmt.Sprintf("http://127.0.0.1:%d/", port), host: "a.example.com"})
		key := got.heard.Backend
		if got.code != 200 {
			key = fmt.Sprint(got.code)
		}
		if canary := got.header.Get("X-Canary") == "yes"; canary != (key == "two") {
			t.Fatalf("answer of %q: the canary's header is there: %v", key, canary)
		}
		counts[key]++
	}
	for key, want := range map[string]int{"one": 3400, "two": 400, "500": 200} {
		if got := counts[key]; got < want-140 || got > want+140 {
			t.Errorf("%q got %d of %d, want about %d: %v", key, got, n, want, counts)
		}
	}
}

// TestRegexSizes has the real Envoy take regular expressions that are about as
// large as is let through.
func TestRegexSizes(t *testing.T) {
	c := newControl(t)
	var rules []route.Rule
	for i, re := range []string{
		"/" + strings.Repeat("(?:ab|cd)?", 2500),
		"/" + strings.Repeat("x?", 1000),
		`/\pL{24}`,
		`/(?i)[\pL\pN]{18}`,
		`/[^\x{00}-\x{0FF}]{1000}`,
		"/日本[日-本]é",
		`/\\x{100}`,
		"/(?:(?:a{10}){10}){9}",
	} {
		r := to(fmt.Sprint("r", i), "one")
		r.Match.Path = route.PathMatch{Kind: route.PathRegex, Value: re}
		rules = append(rules, r)
	}
	c.publish(append(c.backend(gateways, "one"),
		route.Set(gateways, &route.Listener{Name: "web", Gateway: &route.GatewayListener{
			Addresses: loopback, Port: freePort(t), Protocol: route.HTTP, Space: "web",
		}}),
		route.Set(gateways, &route.Host{Space: "web", Name: "a.example.com", Rules: rules}))...)
	c.gateway()
	c.acked(gateways)
}
