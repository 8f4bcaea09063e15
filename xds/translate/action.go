package translate

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/sluicenet/sluice/route"
)

var redirectCodes = map[int]routev3.RedirectAction_RedirectResponseCode{
	301: routev3.RedirectAction_MOVED_PERMANENTLY,
	302: routev3.RedirectAction_FOUND,
	303: routev3.RedirectAction_SEE_OTHER,
	307: routev3.RedirectAction_TEMPORARY_REDIRECT,
	308: routev3.RedirectAction_PERMANENT_REDIRECT,
}

// redirect makes a rule's redirection.
func redirect(r *route.Rule) (*routev3.RedirectAction, error) {
	in := r.Redirect
	code, ok := redirectCodes[in.Code]
	if !ok {
		return nil, fmt.Errorf("%d is not the code of a redirection", in.Code)
	}
	out := &routev3.RedirectAction{ResponseCode: code, HostRedirect: in.Host, PortRedirect: uint32(in.Port)}
	if in.Scheme != "" {
		out.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: in.Scheme}
	}
	switch {
	case in.Path != "":
		out.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: in.Path}
	case in.HasPrefix:
		literal, re, err := replacePrefix(r.Match.Path, in.PathPrefix)
		switch {
		case err != nil:
			return nil, err
		case re != nil:
			out.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{RegexRewrite: re}
		default:
			out.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: literal}
		}
	}
	return out, nil
}

// rewrite changes host and path on the way to the backend. A header edit that
// sets Host is a rewrite in Envoy's terms.
func rewrite(out *routev3.RouteAction, r *route.Rule) error {
	var in route.Rewrite
	if r.Rewrite != nil {
		in = *r.Rewrite
	}
	if in.Host == "" {
		request, err := edits(r.Request)
		if err != nil {
			return err
		}
		in.Host = request.host
	}
	if in.Host != "" {
		out.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: in.Host}
	}
	switch {
	case in.Path != "":
		// The query stands outside of what is replaced, and is kept.
		out.RegexRewrite = substitute("^.*$", in.Path)
	case in.HasPrefix:
		literal, re, err := replacePrefix(r.Match.Path, in.PathPrefix)
		if err != nil {
			return err
		}
		out.PrefixRewrite, out.RegexRewrite = literal, re
	}
	return nil
}

// replacePrefix replaces what a rule's path matched, by elements if it was
// matched by elements: /a by /x makes /a/b to /x/b, and so does /x/. Envoy
// replaces by characters, which is only the same if the new prefix ends as the
// old one does; else a regular expression does it.
func replacePrefix(p route.PathMatch, by string) (literal string, re *matcherv3.RegexMatchAndSubstitute, err error) {
	if by == "" {
		by = "/"
	}
	switch {
	case p.Kind == route.PathRegex:
		return "", nil, errors.New("the prefix of a path that is matched by a regular expression cannot be replaced")
	case p.Kind == "" || p.Kind == route.PathPrefix && elements(p) == "":
		return strings.TrimRight(by, "/") + "/", nil, nil
	case p.Kind == route.PathPrefix && strings.HasSuffix(by, "/"):
		pattern := "^" + regexp.QuoteMeta(elements(p)) + "(?:/|$)"
		if p.IgnoreCase {
			pattern = "(?i)" + pattern
		}
		return "", substitute(pattern, by), nil
	}
	return by, nil, nil
}

// substitute replaces what a regular expression matches by a text in which
// nothing has a meaning.
func substitute(pattern, text string) *matcherv3.RegexMatchAndSubstitute {
	return &matcherv3.RegexMatchAndSubstitute{
		Pattern:      &matcherv3.RegexMatcher{Regex: pattern},
		Substitution: strings.ReplaceAll(text, `\`, `\\`),
	}
}

// headerEdits are edits in Envoy's terms. Envoy removes first, then goes
// through the others in their order.
type headerEdits struct {
	remove []string
	add    []*corev3.HeaderValueOption
	host   string // Set of Host, which Envoy takes as a rewrite only
}

func edits(in route.HeaderEdits) (headerEdits, error) {
	var out headerEdits
	for _, name := range in.Remove {
		if err := checkHeaderName(name); err != nil {
			return out, err
		}
		if strings.EqualFold(name, "host") {
			return out, errors.New("the header Host cannot be removed")
		}
		out.remove = append(out.remove, strings.ToLower(name))
	}
	for _, h := range in.Set {
		if strings.EqualFold(h.Name, "host") || strings.EqualFold(h.Name, ":authority") {
			out.host = h.Value
			continue
		}
		option, err := headerOption(h, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
		if err != nil {
			return out, err
		}
		out.add = append(out.add, option)
	}
	for _, h := range in.Add {
		option, err := headerOption(h, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
		if err != nil {
			return out, err
		}
		out.add = append(out.add, option)
	}
	return out, nil
}

// headerOption adds a header. The value is meant as it stands: Envoy's own
// variables in it, which begin with a percent sign, are none.
func headerOption(h route.Header, how corev3.HeaderValueOption_HeaderAppendAction) (*corev3.HeaderValueOption, error) {
	if err := checkHeaderName(h.Name); err != nil {
		return nil, err
	}
	if strings.EqualFold(h.Name, "host") {
		return nil, errors.New("the header Host can be set, not added")
	}
	if strings.ContainsAny(h.Value, "\x00\r\n") {
		return nil, fmt.Errorf("the value of the header %s has a line end", h.Name)
	}
	return &corev3.HeaderValueOption{
		Header:         &corev3.HeaderValue{Key: strings.ToLower(h.Name), Value: strings.ReplaceAll(h.Value, "%", "%%")},
		AppendAction:   how,
		KeepEmptyValue: true,
	}, nil
}
