package ingress

import (
	"slices"
	"testing"

	"github.com/sluicenet/sluice/route"
)

// TestPrecedence orders pairs of rules by each criterion of HTTPRoute's
// specification in turn: the one that is to be tried first is on the left.
func TestPrecedence(t *testing.T) {
	type r struct {
		exact    int
		match    route.Match
		created  int64
		name     string
		order    int
		fallback bool
	}
	path := func(kind route.PathKind, value string) route.Match {
		return route.Match{Path: route.PathMatch{Kind: kind, Value: value}}
	}
	with := func(m route.Match, method string, headers, query int) route.Match {
		m.Method = method
		m.Headers = make([]route.ValueMatch, headers)
		m.Query = make([]route.ValueMatch, query)
		return m
	}
	a, ab := path(route.PathPrefix, "/a"), path(route.PathPrefix, "/a/b")
	for _, c := range []struct {
		name        string
		first, then r
	}{
		{"an exact hostname before a longer wildcard",
			r{exact: specificity("a.b"), match: a}, r{exact: specificity("*.aaaaaaaaaa.b"), match: path(route.PathExact, "/a")}},
		{"the longer of two wildcards", r{exact: specificity("*.a.b"), match: a}, r{exact: specificity("*.b"), match: a}},
		{"any hostname before none", r{exact: specificity("*.b"), match: a}, r{exact: specificity(anyHost), match: ab}},
		{"an exact path before a longer prefix", r{match: path(route.PathExact, "/a")}, r{match: ab}},
		{"an exact path before a regular expression", r{match: path(route.PathExact, "/a")}, r{match: path(route.PathRegex, "/a.*")}},
		{"a regular expression before a prefix", r{match: path(route.PathRegex, "/a")}, r{match: ab}},
		{"the longer prefix", r{match: ab}, r{match: with(a, "GET", 9, 9)}},
		{"a method before headers", r{match: with(a, "GET", 0, 0)}, r{match: with(a, "", 9, 9)}},
		{"more headers before more parameters", r{match: with(a, "", 2, 0)}, r{match: with(a, "", 1, 9)}},
		{"more parameters", r{match: with(a, "", 1, 2), created: 2}, r{match: with(a, "", 1, 1), created: 1}},
		{"the older route", r{match: a, created: 1, name: "z/z"}, r{match: a, created: 2, name: "a/a"}},
		{"the first by name", r{match: a, name: "a/b", order: 9}, r{match: a, name: "b/a", order: 1}},
		{"the first in the route", r{match: a, order: 1}, r{match: a, order: 2}},
		{"anything before a default backend", r{match: a, created: 2}, r{match: path(route.PathExact, "/a"), created: 1, fallback: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			make1 := func(x r) candidate {
				return candidate{
					&claim{origin: origin{x.created, x.name}, exact: x.exact},
					&entry{rule: route.Rule{Match: x.match}, order: x.order, fallback: x.fallback},
				}
			}
			x, y := make1(c.first), make1(c.then)
			if compareCandidates(x, y) >= 0 || compareCandidates(y, x) <= 0 {
				t.Errorf("compared as %d and %d", compareCandidates(x, y), compareCandidates(y, x))
			}
		})
	}
}

func TestHostnames(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"*", "*", "*"},
		{"*", "a.b", "a.b"},
		{"*.b", "*", "*.b"},
		{"a.b", "a.b", "a.b"},
		{"a.b", "c.b", ""},
		{"*.b", "a.b", "a.b"},
		{"*.b", "c.a.b", "c.a.b"},
		{"*.b", "b", ""},
		{"*.b", "ab", ""},
		{"*.b", "*.a.b", "*.a.b"},
		{"*.a.b", "*.c.b", ""},
		{"*.b", "*.b", "*.b"},
	} {
		for _, pair := range [][2]string{{c.a, c.b}, {c.b, c.a}} {
			got, ok := intersect(pair[0], pair[1])
			if ok != (c.want != "") || ok && got != c.want {
				t.Errorf("%s and %s: %q, %v; want %q", pair[0], pair[1], got, ok, c.want)
			}
		}
	}
	for in, want := range map[string]string{
		"": "*", "A.Example": "a.example", "*.x": "*.x", "*": "", "10.0.0.1": "", "::1": "",
		"a..b": "", "-a": "", "a-": "", "*.*.x": "", "a_b": "", "a:80": "", "a.b.": "", "a|b": "", "x.*": "",
	} {
		got, err := parseHostname(in)
		if (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("parseHostname(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

// TestOwner is the specification's example: requests belong to the most
// specific of the listeners of their port.
func TestOwner(t *testing.T) {
	var ls []*listener
	for _, h := range []string{"*", "*.example.com", "*.foo.example.com", "abc.foo.example.com"} {
		ls = append(ls, &listener{listenerView: listenerView{port: 80, hostname: h, accepted: true}})
	}
	slices.Reverse(ls)
	ls = append(ls, &listener{listenerView: listenerView{port: 81, hostname: "bar.com", accepted: true}},
		&listener{listenerView: listenerView{port: 80, hostname: "bar.com"}})
	for host, want := range map[string]string{
		"bar.com": "*", "example.com": "*", "bar.example.com": "*.example.com", "a.bar.example.com": "*.example.com",
		"foo.example.com": "*.example.com", "bar.foo.example.com": "*.foo.example.com",
		"abc.foo.example.com": "abc.foo.example.com", "*.abc.foo.example.com": "*.foo.example.com", "*": "*",
	} {
		if got := owner(ls, 80, host); got.hostname != want {
			t.Errorf("%s belongs to %s, want %s", host, got.hostname, want)
		}
	}
	if got := owner(ls, 82, "bar.com"); got != nil {
		t.Errorf("a port without listeners has %v", got)
	}
}
