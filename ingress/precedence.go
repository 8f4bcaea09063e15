package ingress

import (
	"cmp"
	"strings"

	"github.com/sluicenet/sluice/route"
)

// entry is one rule of a route and its place among the rules of a host.
type entry struct {
	rule     route.Rule
	matchKey string // the same for rules that match the same requests
	order    int    // position in the route
	fallback bool   // an Ingress' default backend: after everything else
}

// claim is what one object wants of one host.
type claim struct {
	origin  origin
	exact   int // specificity of the object's own hostname; see [specificity]
	entries []entry
}

// origin is what decides between objects when their rules match alike.
type origin struct {
	created int64  // seconds since 1970
	name    string // namespace/name
}

// candidate is an entry with the claim that it comes from.
type candidate struct {
	claim *claim
	entry *entry
}

// compareCandidates orders the rules of a host as the specification of
// HTTPRoute does (HTTPRouteSpec.Hostnames, HTTPRouteRule.Matches): the more
// specific hostname of the route, then exact paths, regular expressions, the
// longest prefix; then with a method; the most headers; the most query
// parameters; the oldest route; the first by name; the first in the route.
//
// Where regular expressions stand is up to the implementation. They come before
// prefixes, or a rule for "/" would hide all of them.
func compareCandidates(a, b candidate) int {
	x, y := a.entry, b.entry
	if x.fallback != y.fallback {
		if x.fallback {
			return 1
		}
		return -1
	}
	return cmp.Or(
		cmp.Compare(b.claim.exact, a.claim.exact),
		comparePaths(x.rule.Match.Path, y.rule.Match.Path),
		compareBools(y.rule.Match.Method != "", x.rule.Match.Method != ""),
		cmp.Compare(countHeaders(y.rule.Match.Headers), countHeaders(x.rule.Match.Headers)),
		cmp.Compare(len(y.rule.Match.Query), len(x.rule.Match.Query)),
		cmp.Compare(a.claim.origin.created, b.claim.origin.created),
		cmp.Compare(a.claim.origin.name, b.claim.origin.name),
		cmp.Compare(x.order, y.order),
	)
}

// comparePaths orders path matches, the more specific one first.
func comparePaths(a, b route.PathMatch) int {
	return cmp.Or(
		cmp.Compare(pathRank(b.Kind), pathRank(a.Kind)),
		cmp.Compare(pathLength(b), pathLength(a)),
	)
}

func pathRank(k route.PathKind) int {
	switch k {
	case route.PathExact:
		return 3
	case route.PathRegex:
		return 2
	case route.PathPrefix, route.PathString:
		return 1
	}
	return 0
}

// pathLength counts a prefix without its trailing slash, which means nothing.
func pathLength(p route.PathMatch) int {
	if p.Kind == route.PathPrefix {
		return len(strings.TrimSuffix(p.Value, "/"))
	}
	return len(p.Value)
}

// countHeaders leaves out the pseudo headers by which wildcard hosts of an
// Ingress are narrowed to one label: they do not make a rule more specific.
func countHeaders(headers []route.ValueMatch) int {
	n := 0
	for i := range headers {
		if !strings.HasPrefix(headers[i].Name, ":") {
			n++
		}
	}
	return n
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
