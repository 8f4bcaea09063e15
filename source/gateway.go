package source

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// The Gateway API's defaults and limits are in its CRDs, so that on a cluster
// the API server has applied them before an object comes here. The conversions
// apply them again, which changes nothing on a cluster and makes a manifest
// the same object.

func gatewayMeta(m *metav1.ObjectMeta, t *metav1.TypeMeta, kind string) {
	stripMeta(m)
	*t = metav1.TypeMeta{APIVersion: groupGateway + "/v1", Kind: kind}
}

func convertGatewayClass(in *gatewayv1.GatewayClass, f *findings) []Value {
	gatewayMeta(&in.ObjectMeta, &in.TypeMeta, "GatewayClass")
	in.Status = gatewayv1.GatewayClassStatus{}
	if in.Spec.ControllerName == "" {
		f.missing("spec.controllerName", "the name of a controller such as sluice.io/gateway-controller")
	}
	return []Value{in}
}

func convertGateway(in *gatewayv1.Gateway, f *findings) []Value {
	gatewayMeta(&in.ObjectMeta, &in.TypeMeta, "Gateway")
	in.Status = gatewayv1.GatewayStatus{}
	if in.Spec.GatewayClassName == "" {
		f.missing("spec.gatewayClassName", "the name of a GatewayClass")
	}
	if len(in.Spec.Listeners) == 0 {
		f.missing("spec.listeners", "a list of at least one listener")
	}
	if len(in.Spec.Listeners) > 64 {
		f.bad("spec.listeners", "a list of at most 64 listeners", len(in.Spec.Listeners))
	}
	for i := range in.Spec.Addresses {
		orDefault(&in.Spec.Addresses[i].Type, gatewayv1.IPAddressType)
	}
	names := map[gatewayv1.SectionName]bool{}
	for i := range in.Spec.Listeners {
		l := &in.Spec.Listeners[i]
		at := fmt.Sprintf("spec.listeners[%d]", i)
		switch {
		case l.Name == "":
			f.missing(at+".name", "a name")
		case names[l.Name]:
			f.bad(at+".name", "a name that no other listener of the Gateway has", string(l.Name))
		}
		names[l.Name] = true
		portNumber(f, at+".port", l.Port)
		if l.Protocol == "" {
			f.missing(at+".protocol", "a protocol such as HTTP or HTTPS")
		}
		if l.Hostname != nil {
			hostname(at+".hostname", string(*l.Hostname), f)
		}
		defaultListener(l)
	}
	return []Value{in}
}

func defaultListener(l *gatewayv1.Listener) {
	if l.AllowedRoutes == nil {
		l.AllowedRoutes = &gatewayv1.AllowedRoutes{}
	}
	if l.AllowedRoutes.Namespaces == nil {
		l.AllowedRoutes.Namespaces = &gatewayv1.RouteNamespaces{}
	}
	orDefault(&l.AllowedRoutes.Namespaces.From, gatewayv1.NamespacesFromSame)
	for i := range l.AllowedRoutes.Kinds {
		orDefault(&l.AllowedRoutes.Kinds[i].Group, gatewayv1.GroupName)
	}
	if l.TLS != nil {
		orDefault(&l.TLS.Mode, gatewayv1.TLSModeTerminate)
		for i := range l.TLS.CertificateRefs {
			orDefault(&l.TLS.CertificateRefs[i].Group, "")
			orDefault(&l.TLS.CertificateRefs[i].Kind, "Secret")
		}
	}
}

func convertHTTPRoute(in *gatewayv1.HTTPRoute, f *findings) []Value {
	gatewayMeta(&in.ObjectMeta, &in.TypeMeta, "HTTPRoute")
	in.Status = gatewayv1.HTTPRouteStatus{}
	for i := range in.Spec.ParentRefs {
		p := &in.Spec.ParentRefs[i]
		orDefault(&p.Group, gatewayv1.GroupName)
		orDefault(&p.Kind, "Gateway")
		if p.Name == "" {
			f.missing(fmt.Sprintf("spec.parentRefs[%d].name", i), "the name of a Gateway or Service")
		}
	}
	atMost(f, "spec.hostnames", len(in.Spec.Hostnames), 16)
	atMost(f, "spec.rules", len(in.Spec.Rules), 16)
	for i, h := range in.Spec.Hostnames {
		hostname(fmt.Sprintf("spec.hostnames[%d]", i), string(h), f)
	}
	if in.Spec.Rules == nil {
		in.Spec.Rules = []gatewayv1.HTTPRouteRule{{}}
	}
	for i := range in.Spec.Rules {
		httpRule(&in.Spec.Rules[i], fmt.Sprintf("spec.rules[%d]", i), f)
	}
	return []Value{in}
}

// atMost checks a limit of the API on the length of a list.
func atMost(f *findings, field string, n, limit int) {
	if n > limit {
		f.bad(field, fmt.Sprintf("a list of at most %d", limit), n)
	}
}

func httpRule(r *gatewayv1.HTTPRouteRule, at string, f *findings) {
	atMost(f, at+".matches", len(r.Matches), 64)
	atMost(f, at+".filters", len(r.Filters), 16)
	atMost(f, at+".backendRefs", len(r.BackendRefs), 16)
	if r.Matches == nil {
		r.Matches = []gatewayv1.HTTPRouteMatch{{}}
	}
	for i := range r.Matches {
		httpMatch(&r.Matches[i], fmt.Sprintf("%s.matches[%d]", at, i), f)
	}
	for i := range r.Filters {
		httpFilter(&r.Filters[i], fmt.Sprintf("%s.filters[%d]", at, i), f)
	}
	for i := range r.BackendRefs {
		b := &r.BackendRefs[i]
		at := fmt.Sprintf("%s.backendRefs[%d]", at, i)
		backendRef(&b.BackendObjectReference, at, f)
		orDefault(&b.Weight, 1)
		if *b.Weight < 0 || *b.Weight > 1_000_000 {
			f.bad(at+".weight", "a number from 0 to 1000000", *b.Weight)
		}
		for j := range b.Filters {
			httpFilter(&b.Filters[j], fmt.Sprintf("%s.filters[%d]", at, j), f)
		}
	}
}

func backendRef(b *gatewayv1.BackendObjectReference, at string, f *findings) {
	orDefault(&b.Group, "")
	orDefault(&b.Kind, "Service")
	if b.Name == "" {
		f.missing(at+".name", "the name of a "+string(*b.Kind))
	}
	if b.Port != nil {
		portNumber(f, at+".port", *b.Port)
	} else if *b.Group == "" && *b.Kind == "Service" {
		f.missing(at+".port", wantPort)
	}
}

func httpMatch(m *gatewayv1.HTTPRouteMatch, at string, f *findings) {
	if m.Path == nil {
		m.Path = &gatewayv1.HTTPPathMatch{}
	}
	orDefault(&m.Path.Type, gatewayv1.PathMatchPathPrefix)
	orDefault(&m.Path.Value, "/")
	switch *m.Path.Type {
	case gatewayv1.PathMatchExact, gatewayv1.PathMatchPathPrefix:
		if v := *m.Path.Value; v == "" || v[0] != '/' {
			f.bad(at+".path.value", "a path that begins with /", v)
		}
	case gatewayv1.PathMatchRegularExpression:
	default:
		f.bad(at+".path.type", "Exact, PathPrefix or RegularExpression", string(*m.Path.Type))
	}
	for i := range m.Headers {
		h := &m.Headers[i]
		orDefault(&h.Type, gatewayv1.HeaderMatchExact)
		if *h.Type != gatewayv1.HeaderMatchExact && *h.Type != gatewayv1.HeaderMatchRegularExpression {
			f.bad(fmt.Sprintf("%s.headers[%d].type", at, i), "Exact or RegularExpression", string(*h.Type))
		}
		if h.Name == "" {
			f.missing(fmt.Sprintf("%s.headers[%d].name", at, i), "a header's name")
		}
	}
	for i := range m.QueryParams {
		q := &m.QueryParams[i]
		orDefault(&q.Type, gatewayv1.QueryParamMatchExact)
		if *q.Type != gatewayv1.QueryParamMatchExact && *q.Type != gatewayv1.QueryParamMatchRegularExpression {
			f.bad(fmt.Sprintf("%s.queryParams[%d].type", at, i), "Exact or RegularExpression", string(*q.Type))
		}
		if q.Name == "" {
			f.missing(fmt.Sprintf("%s.queryParams[%d].name", at, i), "a parameter's name")
		}
	}
}

// httpFilter fills in defaults and checks that the filter which type names is
// there; a part may follow the pointer then.
func httpFilter(h *gatewayv1.HTTPRouteFilter, at string, f *findings) {
	var field string
	var missing bool
	switch h.Type {
	case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
		field, missing = "requestHeaderModifier", h.RequestHeaderModifier == nil
	case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
		field, missing = "responseHeaderModifier", h.ResponseHeaderModifier == nil
	case gatewayv1.HTTPRouteFilterRequestMirror:
		field, missing = "requestMirror", h.RequestMirror == nil
	case gatewayv1.HTTPRouteFilterRequestRedirect:
		field, missing = "requestRedirect", h.RequestRedirect == nil
	case gatewayv1.HTTPRouteFilterURLRewrite:
		field, missing = "urlRewrite", h.URLRewrite == nil
	case gatewayv1.HTTPRouteFilterCORS:
		field, missing = "cors", h.CORS == nil
	case gatewayv1.HTTPRouteFilterExternalAuth:
		field, missing = "externalAuth", h.ExternalAuth == nil
	case gatewayv1.HTTPRouteFilterExtensionRef:
		field, missing = "extensionRef", h.ExtensionRef == nil
	case "":
		f.missing(at+".type", "a type of filter such as RequestHeaderModifier")
	default:
		f.bad(at+".type", "a type of filter such as RequestHeaderModifier", string(h.Type))
	}
	if missing {
		f.missing(at+"."+field, "there in a filter of type "+string(h.Type))
	}
	if h.RequestRedirect != nil {
		orDefault(&h.RequestRedirect.StatusCode, 302)
	}
	if h.RequestMirror != nil {
		backendRef(&h.RequestMirror.BackendRef, at+".requestMirror.backendRef", f)
		if fr := h.RequestMirror.Fraction; fr != nil {
			orDefault(&fr.Denominator, 100)
		}
	}
	if h.CORS != nil && h.CORS.MaxAge == 0 {
		h.CORS.MaxAge = 5
	}
}

func convertReferenceGrant(in *gatewayv1.ReferenceGrant, f *findings) []Value {
	gatewayMeta(&in.ObjectMeta, &in.TypeMeta, "ReferenceGrant")
	if len(in.Spec.From) == 0 {
		f.missing("spec.from", "a list of at least one kind and namespace")
	}
	if len(in.Spec.To) == 0 {
		f.missing("spec.to", "a list of at least one kind")
	}
	return []Value{in}
}

// orDefault fills in an optional field that is absent.
func orDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
