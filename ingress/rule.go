package ingress

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// compileRule makes the actions of a rule. A problem with a backend is put into
// c and the share of that backend is 500; any other problem refuses the rule.
func (p *Planner) compileRule(obj *gatewayv1.HTTPRoute, r *gatewayv1.HTTPRouteRule, c *compiledRoute, seen *references) (route.Rule, *gatewayv1.HTTPRequestRedirectFilter, *problem) {
	var rule route.Rule
	if r.Retry != nil || r.SessionPersistence != nil {
		return rule, nil, problemf(gatewayv1.RouteReasonUnsupportedValue, "retry and sessionPersistence are not supported")
	}
	redirect, bad := compileFilters(r.Filters, r.Matches, &rule)
	if bad != nil {
		return rule, nil, bad
	}
	if redirect != nil && len(r.BackendRefs) > 0 {
		return rule, nil, problemf(gatewayv1.RouteReasonIncompatibleFilters, "RequestRedirect and backendRefs exclude each other")
	}
	timeout, err := parseTimeouts(r.Timeouts)
	if err != nil {
		return rule, nil, problemf(gatewayv1.RouteReasonUnsupportedValue, "timeouts: %v", err)
	}
	rule.Timeout = timeout
	if redirect != nil {
		return rule, redirect, nil
	}
	total := uint64(0)
	for i := range r.BackendRefs {
		ref := &r.BackendRefs[i]
		b := route.Backend{Weight: 1}
		if ref.Weight != nil {
			b.Weight = uint32(min(max(*ref.Weight, 0), 1_000_000)) // the API's bounds
		}
		if bad := compileBackendFilters(ref.Filters, &b); bad != nil {
			return rule, nil, bad
		}
		name, bad := p.resolveBackend(obj.Namespace, &ref.BackendObjectReference, seen)
		if bad != nil && c.unresolved == nil {
			c.unresolved = bad
		}
		b.Cluster = name
		total += uint64(b.Weight)
		rule.Backends = append(rule.Backends, b)
	}
	if total == 0 {
		rule.Backends, rule.Respond = nil, &route.Response{Code: 500}
	}
	return rule, nil, nil
}

// parseTimeouts returns the shorter of the two timeouts. They are the same
// thing here: one request to a gateway is one to a backend, as there are no
// retries. 0 means none.
func parseTimeouts(t *gatewayv1.HTTPRouteTimeouts) (time.Duration, error) {
	if t == nil {
		return 0, nil
	}
	request, err := parseDuration(t.Request)
	if err != nil {
		return 0, fmt.Errorf("request: %w", err)
	}
	backend, err := parseDuration(t.BackendRequest)
	if err != nil {
		return 0, fmt.Errorf("backendRequest: %w", err)
	}
	if request > 0 && backend > request {
		return 0, fmt.Errorf("backendRequest is longer than request")
	}
	if backend > 0 {
		return backend, nil
	}
	return request, nil
}

// parseDuration reads a duration of GEP-2257: whole numbers of h, m, s and ms.
func parseDuration(d *gatewayv1.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	for _, c := range []byte(*d) {
		if (c < '0' || c > '9') && c != 'h' && c != 'm' && c != 's' {
			return 0, fmt.Errorf("%q is not a duration such as 1m30s", *d)
		}
	}
	v, err := time.ParseDuration(string(*d))
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as 1m30s", *d)
	}
	return v, nil
}

// resolveBackend returns the cluster of a backendRef, or the reason of the
// ResolvedRefs condition.
func (p *Planner) resolveBackend(namespace string, ref *gatewayv1.BackendObjectReference, seen *references) (string, *problem) {
	if ref.Group != nil && *ref.Group != "" || ref.Kind != nil && *ref.Kind != "Service" {
		return "", problemf(gatewayv1.RouteReasonInvalidKind, "a backend of kind %s/%s is not supported; a Service is", deref(ref.Group), deref(ref.Kind))
	}
	name := model.Name{Namespace: namespace, Name: string(ref.Name)}
	if ref.Namespace != nil && *ref.Namespace != "" {
		name.Namespace = string(*ref.Namespace)
	}
	if name.Namespace != namespace {
		seen.grants = append(seen.grants, name.Namespace)
	}
	seen.services = append(seen.services, name)
	if !p.permitted(reference{"HTTPRoute", namespace, "Service", name}) {
		return "", problemf(gatewayv1.RouteReasonRefNotPermitted,
			"no ReferenceGrant in namespace %s lets HTTPRoutes of %s use Service %s", name.Namespace, namespace, name.Name)
	}
	if ref.Port == nil {
		return "", problemf(gatewayv1.RouteReasonUnsupportedValue, "the reference to Service %s has no port", name)
	}
	return p.resolveService(name, uint16(*ref.Port))
}

// resolveService returns the cluster of a port of a Service.
func (p *Planner) resolveService(name model.Name, number uint16) (string, *problem) {
	svc, port := findPort(p.snap, name, number)
	switch {
	case svc == nil:
		return "", problemf(gatewayv1.RouteReasonBackendNotFound, "Service %s does not exist", name)
	case svc.Type == corev1.ServiceTypeExternalName:
		// A route must not reach what its author could not (CVE-2021-25740).
		return "", problemf(gatewayv1.RouteReasonUnsupportedValue, "Service %s is of type ExternalName", name)
	case port == nil:
		return "", problemf(gatewayv1.RouteReasonBackendNotFound, "Service %s has no TCP port %d", name, number)
	}
	if _, ok := backendProtocol(port.AppProtocol); !ok {
		return "", problemf(gatewayv1.RouteReasonUnsupportedProtocol, "port %d of Service %s has appProtocol %q, which is not supported", number, name, port.AppProtocol)
	}
	return clusterName(name, number), nil
}
