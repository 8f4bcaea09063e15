package mesh

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1"

	"github.com/sluicenet/sluice/route"
)

// httpMatch reads one alternative of a VirtualService's match.
func (r *vsReader) httpMatch(at string, m *networking.HTTPMatchRequest) (httpMatch, *refusal) {
	var out httpMatch
	switch {
	case len(m.SourceLabels) > 0:
		return out, unsupported("%s.sourceLabels", at)
	case m.SourceNamespace != "":
		return out, unsupported("%s.sourceNamespace", at)
	case m.Port > 65535:
		return out, invalid("%s.port: expected at most 65535, found %d", at, m.Port)
	}
	if m.StatPrefix != "" {
		r.ignore("%s.statPrefix", at)
	}
	out.port = uint16(m.Port)
	var bad *refusal
	if out.m.Path, bad = pathMatch(at+".uri", m.Uri, m.IgnoreUriCase); bad != nil {
		return out, bad
	}
	add := func(field, name string, sm *networking.StringMatch, invert bool) {
		v, b := valueMatch(at+"."+field, name, sm)
		if bad == nil {
			bad = b
		}
		v.Invert = invert
		out.m.Headers = append(out.m.Headers, v)
	}
	if exact := m.Method.GetExact(); exact != "" {
		out.m.Method = exact
	} else if m.Method != nil {
		add("method", ":method", m.Method, false)
	}
	if m.Scheme != nil {
		add("scheme", ":scheme", m.Scheme, false)
	}
	if m.Authority != nil {
		add("authority", ":authority", m.Authority, false)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		add("headers", strings.ToLower(name), m.Headers[name], false)
	}
	for _, name := range slices.Sorted(maps.Keys(m.WithoutHeaders)) {
		add("withoutHeaders", strings.ToLower(name), m.WithoutHeaders[name], true)
	}
	for _, name := range slices.Sorted(maps.Keys(m.QueryParams)) {
		v, b := valueMatch(at+".queryParams", name, m.QueryParams[name])
		if bad == nil {
			bad = b
		}
		out.m.Query = append(out.m.Query, v)
	}
	return out, bad
}

func pathMatch(at string, m *networking.StringMatch, ignoreCase bool) (route.PathMatch, *refusal) {
	out := route.PathMatch{IgnoreCase: ignoreCase}
	switch v := m.GetMatchType().(type) {
	case nil:
		return route.PathMatch{}, nil
	case *networking.StringMatch_Exact:
		out.Kind, out.Value = route.PathExact, v.Exact
	case *networking.StringMatch_Prefix:
		out.Kind, out.Value = route.PathString, v.Prefix
	case *networking.StringMatch_Regex:
		if ignoreCase {
			// Istio, too, has ignoreUriCase for exact and prefix only.
			out.IgnoreCase = false
		}
		out.Kind, out.Value = route.PathRegex, v.Regex
		return out, checkRegex(at, v.Regex)
	}
	if !strings.HasPrefix(out.Value, "/") {
		return out, invalid("%s: expected a path that starts with /, found %q", at, out.Value)
	}
	return out, nil
}

// valueMatch reads how a header or parameter is compared; an empty match asks
// only that it is there.
func valueMatch(at, name string, m *networking.StringMatch) (route.ValueMatch, *refusal) {
	out := route.ValueMatch{Name: name, Kind: route.ValuePresent}
	if name == "" {
		return out, invalid("%s: expected a name", at)
	}
	switch v := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		out.Kind, out.Value = route.ValueExact, v.Exact
	case *networking.StringMatch_Prefix:
		out.Kind, out.Value = route.ValuePrefix, v.Prefix
	case *networking.StringMatch_Regex:
		out.Kind, out.Value = route.ValueRegex, v.Regex
		return out, checkRegex(at, v.Regex)
	}
	return out, nil
}

// checkRegex refuses here what Envoy would refuse; both are RE2.
func checkRegex(at, expr string) *refusal {
	if expr == "" {
		return invalid("%s.regex: expected an expression", at)
	}
	if _, err := regexp.Compile(expr); err != nil {
		return invalid("%s.regex: %v", at, err)
	}
	return nil
}
