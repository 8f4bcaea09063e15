package ingress

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"regexp/syntax"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/route"
)

// parsedMatch is one match of a rule.
type parsedMatch struct {
	match route.Match
	key   string // the same for matches of the same requests
	short string // key, or what is readable of it and a hash
}

// parseMatches checks the matches of a rule. None means all requests.
func parseMatches(ms []gatewayv1.HTTPRouteMatch) ([]parsedMatch, *problem) {
	if len(ms) == 0 {
		ms = []gatewayv1.HTTPRouteMatch{{}}
	}
	out := make([]parsedMatch, 0, len(ms))
	for i := range ms {
		m, err := parseMatch(&ms[i])
		if err != nil {
			return nil, problemf(gatewayv1.RouteReasonUnsupportedValue, "matches[%d]: %v", i, err)
		}
		out = append(out, nameMatch(m))
	}
	return out, nil
}

func parseMatch(m *gatewayv1.HTTPRouteMatch) (route.Match, error) {
	var out route.Match
	var err error
	if out.Path, err = parsePath(m.Path); err != nil {
		return out, fmt.Errorf("path: %w", err)
	}
	if m.Method != nil {
		if out.Method = string(*m.Method); !slices.Contains(methods, out.Method) {
			return out, fmt.Errorf("method: %q is not known", out.Method)
		}
	}
	for i := range m.Headers {
		h := &m.Headers[i]
		if err := checkHeaderName(string(h.Name)); err != nil {
			return out, fmt.Errorf("headers: %w", err)
		}
		v, err := parseValue(strings.ToLower(string(h.Name)), string(deref(h.Type)), h.Value)
		if err != nil {
			return out, fmt.Errorf("header %s: %w", h.Name, err)
		}
		out.Headers = addValue(out.Headers, v)
	}
	for i := range m.QueryParams {
		q := &m.QueryParams[i]
		if q.Name == "" {
			return out, fmt.Errorf("queryParams[%d]: no name", i)
		}
		v, err := parseValue(string(q.Name), string(deref(q.Type)), q.Value)
		if err != nil {
			return out, fmt.Errorf("query parameter %s: %w", q.Name, err)
		}
		out.Query = addValue(out.Query, v)
	}
	return out, nil
}

var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete,
	http.MethodConnect, http.MethodOptions, http.MethodTrace, http.MethodPatch,
}

// addValue adds a match unless one of that name is there: the specification
// has the first one count. The result is sorted, so that equal sets are equal.
func addValue(vs []route.ValueMatch, v route.ValueMatch) []route.ValueMatch {
	i, found := slices.BinarySearchFunc(vs, v.Name, func(v route.ValueMatch, name string) int { return cmp.Compare(v.Name, name) })
	if found {
		return vs
	}
	return slices.Insert(vs, i, v)
}

func parsePath(m *gatewayv1.HTTPPathMatch) (route.PathMatch, error) {
	kind, value := gatewayv1.PathMatchPathPrefix, "/"
	if m != nil && m.Type != nil {
		kind = *m.Type
	}
	if m != nil && m.Value != nil {
		value = *m.Value
	}
	switch kind {
	case gatewayv1.PathMatchExact:
		return route.PathMatch{Kind: route.PathExact, Value: value}, checkPath(value)
	case gatewayv1.PathMatchPathPrefix:
		return route.PathMatch{Kind: route.PathPrefix, Value: trimPrefix(value)}, checkPath(value)
	case gatewayv1.PathMatchRegularExpression:
		return route.PathMatch{Kind: route.PathRegex, Value: value}, checkRegex(value)
	}
	return route.PathMatch{}, fmt.Errorf("type %q is not supported; Exact, PathPrefix and RegularExpression are", kind)
}

// trimPrefix drops the trailing slash of a prefix: it is of no meaning
// (PathMatchPathPrefix), and so the same prefix always reads the same.
func trimPrefix(p string) string {
	if len(p) > 1 {
		return strings.TrimSuffix(p, "/")
	}
	return p
}

func parseValue(name, kind, value string) (route.ValueMatch, error) {
	v := route.ValueMatch{Name: name, Value: value}
	switch kind {
	case "", "Exact":
		v.Kind = route.ValueExact
		return v, checkHeaderValue(value)
	case "RegularExpression":
		v.Kind = route.ValueRegex
		return v, checkRegex(value)
	}
	return v, fmt.Errorf("type %q is not supported; Exact and RegularExpression are", kind)
}

// checkPath checks a path as the API's own validation does (HTTPPathMatch):
// absolute, normal, without escapes of a slash and without a fragment.
func checkPath(p string) error {
	if !strings.HasPrefix(p, "/") {
		return fmt.Errorf("%q does not begin with a slash", p)
	}
	if len(p) > 1024 {
		return fmt.Errorf("of %d characters; 1024 are allowed", len(p))
	}
	for _, bad := range [...]string{"//", "/./", "/../", "%2f", "%2F", "#", "?"} {
		if strings.Contains(p, bad) {
			return fmt.Errorf("%q contains %q", p, bad)
		}
	}
	if strings.HasSuffix(p, "/..") || strings.HasSuffix(p, "/.") {
		return fmt.Errorf("%q ends in a dot segment", p)
	}
	for _, c := range []byte(p) {
		if c <= ' ' || c >= 0x7f {
			return fmt.Errorf("%q contains a character that a path cannot have", p)
		}
	}
	return nil
}

// checkRegex checks an expression with Go's parser, which takes the same syntax
// as the RE2 in Envoy.
func checkRegex(re string) error {
	if re == "" {
		return fmt.Errorf("the regular expression is empty")
	}
	if len(re) > 1024 {
		return fmt.Errorf("a regular expression of %d characters; 1024 are allowed", len(re))
	}
	parsed, err := syntax.Parse(re, syntax.Perl)
	if err != nil {
		return fmt.Errorf("not an RE2 regular expression: %w", err)
	}
	if _, err := syntax.Compile(parsed.Simplify()); err != nil {
		return fmt.Errorf("not an RE2 regular expression: %w", err)
	}
	return nil
}

// checkHeaderName checks a field name (RFC 9110 §5.1). Pseudo headers are not
// among them.
func checkHeaderName(name string) error {
	if name == "" || len(name) > 256 {
		return fmt.Errorf("%q is not a header name", name)
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("()<>@,;:\\\"/[]?={}", c) >= 0 {
			return fmt.Errorf("%q is not a header name", name)
		}
	}
	return nil
}

// checkHeaderValue refuses what would end the field (RFC 9110 §5.5).
func checkHeaderValue(v string) error {
	if len(v) > 4096 {
		return fmt.Errorf("a value of %d characters; 4096 are allowed", len(v))
	}
	for _, c := range []byte(v) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("%q contains a control character", v)
		}
	}
	return nil
}

// nameMatch derives the key of a match from its content alone, so that a rule
// keeps its name when others come and go.
func nameMatch(m route.Match) parsedMatch {
	var b strings.Builder
	b.WriteString(strings.ToLower(string(m.Path.Kind)))
	b.WriteByte(':')
	b.WriteString(m.Path.Value)
	if m.Method != "" {
		b.WriteByte(' ')
		b.WriteString(m.Method)
	}
	short := b.String()
	for _, list := range [...][]route.ValueMatch{m.Headers, m.Query} {
		for _, v := range list {
			fmt.Fprintf(&b, "\n%s %s %q", v.Kind, v.Name, v.Value)
		}
		b.WriteByte('\n')
	}
	key := b.String()
	if len(m.Headers)+len(m.Query) > 0 || len(short) > 80 {
		sum := sha256.Sum256([]byte(key))
		short = short[:min(len(short), 80)] + " #" + hex.EncodeToString(sum[:4])
	}
	return parsedMatch{match: m, key: key, short: short}
}
