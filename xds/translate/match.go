package translate

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sluicenet/sluice/route"
)

// match makes a route's match.
func match(m *route.Match) (*routev3.RouteMatch, error) {
	out := &routev3.RouteMatch{}
	if err := matchPath(out, m.Path); err != nil {
		return nil, err
	}
	if m.Method != "" {
		out.Headers = append(out.Headers, &routev3.HeaderMatcher{
			Name:                 ":method",
			HeaderMatchSpecifier: stringMatch(exact(m.Method)),
		})
	}
	for _, want := range m.Headers {
		h, err := matchHeader(want)
		if err != nil {
			return nil, err
		}
		out.Headers = append(out.Headers, h)
	}
	for _, want := range m.Query {
		q, err := matchQuery(want)
		if err != nil {
			return nil, err
		}
		out.QueryParameters = append(out.QueryParameters, q)
	}
	return out, nil
}

// matchPath compares the path. A prefix by elements that ends in a slash is
// the same as without it (Gateway API, HTTPPathMatch).
func matchPath(out *routev3.RouteMatch, p route.PathMatch) error {
	if p.Kind != "" && p.Kind != route.PathRegex && !strings.HasPrefix(p.Value, "/") {
		return fmt.Errorf("the path %q does not begin with a slash", p.Value)
	}
	if p.IgnoreCase && p.Kind != route.PathRegex {
		out.CaseSensitive = wrapperspb.Bool(false)
	}
	switch p.Kind {
	case "":
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
	case route.PathExact:
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: p.Value}
	case route.PathPrefix:
		prefix := elements(p)
		if prefix == "" {
			out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
			break
		}
		out.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: prefix}
	case route.PathString:
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: p.Value}
	case route.PathRegex:
		value := p.Value
		if p.IgnoreCase {
			value = "(?i)" + value
		}
		re, err := regex(value)
		if err != nil {
			return err
		}
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: re}
	default:
		return fmt.Errorf("paths cannot be compared by %q", p.Kind)
	}
	return nil
}

// elements returns the path elements that a prefix by elements stands for:
// no slash at the end, empty for all paths.
func elements(p route.PathMatch) string { return strings.TrimRight(p.Value, "/") }

func matchHeader(want route.ValueMatch) (*routev3.HeaderMatcher, error) {
	name := strings.ToLower(want.Name)
	if name == "host" {
		name = ":authority"
	}
	if err := checkHeaderName(strings.TrimPrefix(name, ":")); err != nil {
		return nil, err
	}
	out := &routev3.HeaderMatcher{Name: name, InvertMatch: want.Invert}
	if want.Kind == route.ValuePresent {
		out.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
		return out, nil
	}
	m, err := matchValue(want)
	if err != nil {
		return nil, err
	}
	out.HeaderMatchSpecifier = stringMatch(m)
	// A header that is not there does not have the value.
	out.TreatMissingHeaderAsEmpty = want.Invert
	return out, nil
}

func matchQuery(want route.ValueMatch) (*routev3.QueryParameterMatcher, error) {
	if want.Invert {
		return nil, fmt.Errorf("query parameter %s: only headers can be matched by what they are not", want.Name)
	}
	out := &routev3.QueryParameterMatcher{Name: want.Name}
	if want.Kind == route.ValuePresent {
		out.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: true}
		return out, nil
	}
	m, err := matchValue(want)
	if err != nil {
		return nil, err
	}
	out.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: m}
	return out, nil
}

func matchValue(want route.ValueMatch) (*matcherv3.StringMatcher, error) {
	switch want.Kind {
	case "", route.ValueExact:
		return exact(want.Value), nil
	case route.ValuePrefix:
		if want.Value == "" {
			return nil, fmt.Errorf("%s: an empty prefix", want.Name)
		}
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: want.Value}}, nil
	case route.ValueRegex:
		re, err := regex(want.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", want.Name, err)
		}
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: re}}, nil
	}
	return nil, fmt.Errorf("%s: values cannot be compared by %q", want.Name, want.Kind)
}

func exact(value string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: value}}
}

func stringMatch(m *matcherv3.StringMatcher) *routev3.HeaderMatcher_StringMatch {
	return &routev3.HeaderMatcher_StringMatch{StringMatch: m}
}

// maxRegexSize bounds the size of a regular expression, counted in the
// instructions and ranges of characters that it compiles to. RE2 needs about
// as many, and Envoy is told to accept [bootstrap.MaxRegexProgram].
const maxRegexSize = 16384

// wideEscape is a character by its number, after an even number of other
// backslashes.
var wideEscape = regexp.MustCompile(`(?:^|[^\\])(?:\\\\)*\\x\{0*([1-9A-Fa-f][0-9A-Fa-f]{2,})\}`)

// regex checks a regular expression as Envoy's RE2 does, whose syntax is Go's.
// Envoy has it look at bytes, so that a character beyond U+00FF is the bytes
// of its UTF-8 and cannot be written as one number.
func regex(value string) (*matcherv3.RegexMatcher, error) {
	if value == "" {
		return nil, errors.New("an empty regular expression")
	}
	if m := wideEscape.FindStringSubmatch(value); m != nil {
		return nil, fmt.Errorf("the regular expression %q: the character \\x{%s} is none of a path's or header's bytes", value, m[1])
	}
	tree, err := syntax.Parse(value, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("the regular expression %q: %w", value, err)
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, fmt.Errorf("the regular expression %q: %w", value, err)
	}
	size := 0
	for _, inst := range prog.Inst {
		size += 1 + len(inst.Rune)/2
	}
	if size > maxRegexSize {
		return nil, fmt.Errorf("the regular expression %.40q… is too large: %d instructions, %d are possible", value, size, maxRegexSize)
	}
	return &matcherv3.RegexMatcher{Regex: value}, nil
}

// checkHeaderName returns why a name is not that of a header: RFC 9110, 5.1.
func checkHeaderName(name string) error {
	if name == "" {
		return errors.New("a header without a name")
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return fmt.Errorf("%q is not the name of a header", name)
		}
	}
	return nil
}
