package ingress

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/route"
)

// compileFilters puts the filters of a rule into it. A redirect is returned: it
// depends on the listener.
func compileFilters(filters []gatewayv1.HTTPRouteFilter, matches []gatewayv1.HTTPRouteMatch, rule *route.Rule) (*gatewayv1.HTTPRequestRedirectFilter, *problem) {
	var redirect *gatewayv1.HTTPRequestRedirectFilter
	var seen []gatewayv1.HTTPRouteFilterType
	for i := range filters {
		f := &filters[i]
		if slices.Contains(seen, f.Type) {
			return nil, problemf(gatewayv1.RouteReasonIncompatibleFilters, "filters: more than one %s", f.Type)
		}
		seen = append(seen, f.Type)
		var err error
		switch {
		case f.Type == gatewayv1.HTTPRouteFilterRequestHeaderModifier && f.RequestHeaderModifier != nil:
			rule.Request, err = parseHeaderEdits(f.RequestHeaderModifier)
		case f.Type == gatewayv1.HTTPRouteFilterResponseHeaderModifier && f.ResponseHeaderModifier != nil:
			rule.Response, err = parseHeaderEdits(f.ResponseHeaderModifier)
		case f.Type == gatewayv1.HTTPRouteFilterRequestRedirect && f.RequestRedirect != nil:
			redirect, err = f.RequestRedirect, checkRedirect(f.RequestRedirect, matches)
		case f.Type == gatewayv1.HTTPRouteFilterURLRewrite && f.URLRewrite != nil:
			rule.Rewrite, err = parseRewrite(f.URLRewrite, matches)
		default:
			return nil, problemf(gatewayv1.RouteReasonUnsupportedValue, "filters: %s is not supported, or empty", f.Type)
		}
		if err != nil {
			return nil, problemf(gatewayv1.RouteReasonUnsupportedValue, "%s: %v", f.Type, err)
		}
	}
	if redirect != nil && rule.Rewrite != nil {
		return nil, problemf(gatewayv1.RouteReasonIncompatibleFilters, "filters: RequestRedirect and URLRewrite exclude each other")
	}
	return redirect, nil
}

// compileBackendFilters puts the filters of a backendRef into it.
func compileBackendFilters(filters []gatewayv1.HTTPRouteFilter, b *route.Backend) *problem {
	for i := range filters {
		f := &filters[i]
		var err error
		switch {
		case f.Type == gatewayv1.HTTPRouteFilterRequestHeaderModifier && f.RequestHeaderModifier != nil:
			b.Request, err = parseHeaderEdits(f.RequestHeaderModifier)
		case f.Type == gatewayv1.HTTPRouteFilterResponseHeaderModifier && f.ResponseHeaderModifier != nil:
			b.Response, err = parseHeaderEdits(f.ResponseHeaderModifier)
		default:
			return problemf(gatewayv1.RouteReasonUnsupportedValue, "backendRefs: the filter %s is not supported there, or empty", f.Type)
		}
		if err != nil {
			return problemf(gatewayv1.RouteReasonUnsupportedValue, "backendRefs: %s: %v", f.Type, err)
		}
	}
	return nil
}

func parseHeaderEdits(f *gatewayv1.HTTPHeaderFilter) (route.HeaderEdits, error) {
	var e route.HeaderEdits
	var err error
	if e.Set, err = parseHeaders(f.Set); err != nil {
		return e, err
	}
	if e.Add, err = parseHeaders(f.Add); err != nil {
		return e, err
	}
	for _, name := range f.Remove {
		if err := checkEdit(name); err != nil {
			return e, err
		}
		e.Remove = append(e.Remove, name)
	}
	return e, nil
}

func parseHeaders(headers []gatewayv1.HTTPHeader) ([]route.Header, error) {
	var out []route.Header
	for _, h := range headers {
		if err := checkEdit(string(h.Name)); err != nil {
			return nil, err
		}
		if err := checkHeaderValue(h.Value); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
		out = append(out, route.Header{Name: string(h.Name), Value: h.Value})
	}
	return out, nil
}

// checkEdit refuses the headers that a proxy must not let a filter write.
func checkEdit(name string) error {
	if err := checkHeaderName(name); err != nil {
		return err
	}
	if strings.EqualFold(name, "host") {
		return fmt.Errorf("the Host header is changed by a URLRewrite's hostname")
	}
	return nil
}

func checkRedirect(f *gatewayv1.HTTPRequestRedirectFilter, matches []gatewayv1.HTTPRouteMatch) error {
	switch {
	case f.Scheme != nil && *f.Scheme != "http" && *f.Scheme != "https":
		return fmt.Errorf("scheme %q is not supported; http and https are", *f.Scheme)
	case f.StatusCode != nil && !slices.Contains([]int{301, 302, 303, 307, 308}, *f.StatusCode):
		return fmt.Errorf("status code %d is not supported; 301, 302, 303, 307 and 308 are", *f.StatusCode)
	case f.Port != nil && (*f.Port < 1 || *f.Port > 65535):
		return fmt.Errorf("port %d is not in 1–65535", *f.Port)
	}
	if f.Hostname != nil {
		if err := checkDNSName(strings.ToLower(string(*f.Hostname))); err != nil {
			return fmt.Errorf("hostname %q: %w", *f.Hostname, err)
		}
	}
	return checkPathModifier(f.Path, matches)
}

// redirectPlace is what a redirect depends on besides its filter.
type redirectPlace struct {
	protocol route.Protocol // of the listener
	port     uint16         // of the listener
	host     string         // the host that the rule is of
}

// planRedirect makes a redirect for requests for a host that come to a
// listener. The port of the Location follows the rules of
// HTTPRequestRedirectFilter.Port: it never is the one that the client wrote
// into its Host header. So the host is spelt out where it is known; for a
// wildcard, a port that the header is bound to have is overwritten.
func planRedirect(f *gatewayv1.HTTPRequestRedirectFilter, at redirectPlace) *route.Redirect {
	r := &route.Redirect{Scheme: deref(f.Scheme), Host: string(deref(f.Hostname)), Code: 302}
	if f.StatusCode != nil {
		r.Code = *f.StatusCode
	}
	scheme := r.Scheme
	if scheme == "" {
		scheme = strings.ToLower(string(at.protocol))
	}
	switch {
	case f.Port != nil:
		r.Port = uint16(*f.Port)
	case r.Scheme != "":
		r.Port = wellKnownPort(scheme)
	default:
		r.Port = at.port
	}
	_, wild := wildcard(at.host)
	if r.Host == "" && at.host != anyHost && !wild {
		r.Host = at.host
	}
	if r.Port == wellKnownPort(scheme) && (r.Host != "" || at.port == wellKnownPort(strings.ToLower(string(at.protocol)))) {
		r.Port = 0
	}
	if f.Path != nil {
		r.Path, r.PathPrefix, r.HasPrefix = pathModifier(f.Path)
	}
	return r
}

func wellKnownPort(scheme string) uint16 {
	if scheme == "https" {
		return 443
	}
	return 80
}

func parseRewrite(f *gatewayv1.HTTPURLRewriteFilter, matches []gatewayv1.HTTPRouteMatch) (*route.Rewrite, error) {
	r := &route.Rewrite{}
	if f.Hostname != nil {
		r.Host = string(*f.Hostname)
		if err := checkDNSName(strings.ToLower(r.Host)); err != nil {
			return nil, fmt.Errorf("hostname %q: %w", r.Host, err)
		}
	}
	if err := checkPathModifier(f.Path, matches); err != nil {
		return nil, err
	}
	if f.Path != nil {
		r.Path, r.PathPrefix, r.HasPrefix = pathModifier(f.Path)
	}
	return r, nil
}

func pathModifier(m *gatewayv1.HTTPPathModifier) (full, prefix string, hasPrefix bool) {
	if m.Type == gatewayv1.PrefixMatchHTTPPathModifier {
		return "", deref(m.ReplacePrefixMatch), true
	}
	return cmp.Or(deref(m.ReplaceFullPath), "/"), "", false
}

func checkPathModifier(m *gatewayv1.HTTPPathModifier, matches []gatewayv1.HTTPRouteMatch) error {
	if m == nil {
		return nil
	}
	switch {
	case m.Type == gatewayv1.FullPathHTTPPathModifier && m.ReplaceFullPath != nil:
		return checkNewPath(*m.ReplaceFullPath)
	case m.Type == gatewayv1.PrefixMatchHTTPPathModifier && m.ReplacePrefixMatch != nil:
		for i := range matches {
			if pm := matches[i].Path; pm != nil && pm.Type != nil && *pm.Type != gatewayv1.PathMatchPathPrefix {
				return fmt.Errorf("ReplacePrefixMatch needs a PathPrefix match, not %s", *pm.Type)
			}
		}
		return checkNewPath(*m.ReplacePrefixMatch)
	}
	return fmt.Errorf("path modifier %q is not supported, or empty", m.Type)
}

// checkNewPath checks a path that is written into a request or a Location.
func checkNewPath(p string) error {
	if p != "" && !strings.HasPrefix(p, "/") {
		return fmt.Errorf("path %q does not begin with a slash", p)
	}
	if len(p) > 1024 {
		return fmt.Errorf("a path of %d characters; 1024 are allowed", len(p))
	}
	for _, c := range []byte(p) {
		if c <= ' ' || c >= 0x7f {
			return fmt.Errorf("path %q contains a character that a path cannot have", p)
		}
	}
	return nil
}
