package ingress

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// listenerRef names a listener of a Gateway.
type listenerRef struct {
	gateway model.Name
	name    string
}

// listener is a Gateway's listener, checked.
type listener struct {
	listenerView
	selector labels.Selector // set if allowed.from is Selector
	kinds    []gatewayv1.RouteGroupKind
	secrets  []*route.Secret

	notAccepted *problem // why the spec is refused
	conflict    *problem // with another listener; notAccepted is set too
	unresolved  *problem // a reference, or a route kind, that is wrong
	overlaps    []string // HTTPS listeners of the port whose hostnames overlap
}

// listenerView is what routes see of a listener: they are planned again if it
// changes.
type listenerView struct {
	name     string
	port     uint16
	protocol route.Protocol
	hostname string
	space    string // of the hosts' names
	from     gatewayv1.FromNamespaces
	selects  string // the selector as text
	http     bool   // HTTPRoutes are among the allowed kinds
	accepted bool
	usable   bool // it is, or will be, in the proxies
}

// problem is a reason and a message of a condition.
type problem struct{ reason, message string }

func problemf[R ~string](reason R, format string, args ...any) *problem {
	return &problem{string(reason), fmt.Sprintf(format, args...)}
}

var httpRouteKind = gatewayv1.RouteGroupKind{
	Group: new(gatewayv1.Group(gatewayv1.GroupName)),
	Kind:  "HTTPRoute",
}

// parseListener checks all of a listener that does not depend on others.
func (p *Planner) parseListener(gw *gatewayv1.Gateway, spec *gatewayv1.Listener, seen *references) *listener {
	l := &listener{kinds: []gatewayv1.RouteGroupKind{}}
	l.name, l.port, l.hostname = string(spec.Name), uint16(spec.Port), anyHost
	if spec.Port < 1 || spec.Port > 65535 {
		l.port = 0
		l.notAccepted = problemf(gatewayv1.ListenerReasonPortUnavailable, "port %d is not in 1–65535", spec.Port)
	}
	if err := checkDNSName(l.name); err != nil {
		// The name becomes part of names that proxies see.
		l.notAccepted = problemf(gatewayv1.ListenerReasonUnsupportedValue, "name %q: %v", l.name, err)
	}
	switch spec.Protocol {
	case gatewayv1.HTTPProtocolType:
		l.protocol = route.HTTP
	case gatewayv1.HTTPSProtocolType:
		l.protocol = route.HTTPS
	default:
		l.notAccepted = problemf(gatewayv1.ListenerReasonUnsupportedProtocol,
			"protocol %q is not supported; HTTP and HTTPS are", spec.Protocol)
		return l
	}
	if spec.Hostname != nil {
		h, err := parseHostname(string(*spec.Hostname))
		if err != nil {
			l.notAccepted = problemf(gatewayv1.ListenerReasonUnsupportedValue, "%v", err)
		} else {
			l.hostname = h
		}
	}
	l.space = fmt.Sprintf("%s/%s/%d", gw.Namespace, gw.Name, l.port)
	l.parseAllowed(spec.AllowedRoutes)
	if l.protocol == route.HTTPS {
		l.space += "/" + l.name
		p.parseTLS(gw, spec, l, seen)
	}
	return l
}

// parseAllowed reads which routes may attach.
func (l *listener) parseAllowed(allowed *gatewayv1.AllowedRoutes) {
	l.from, l.http = gatewayv1.NamespacesFromSame, true
	l.kinds = append(l.kinds, httpRouteKind)
	if allowed == nil {
		return
	}
	if ns := allowed.Namespaces; ns != nil && ns.From != nil {
		l.from = *ns.From
		switch l.from {
		case gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromSame, gatewayv1.NamespacesFromNone:
		case gatewayv1.NamespacesFromSelector:
			sel, err := metav1.LabelSelectorAsSelector(ns.Selector)
			if err != nil {
				l.notAccepted = problemf(gatewayv1.ListenerReasonUnsupportedValue, "allowedRoutes.namespaces.selector: %v", err)
				sel = labels.Nothing()
			}
			l.selector, l.selects = sel, sel.String()
		default:
			l.notAccepted = problemf(gatewayv1.ListenerReasonUnsupportedValue, "allowedRoutes.namespaces.from: %q is not known", l.from)
		}
	}
	if len(allowed.Kinds) == 0 {
		return
	}
	l.http, l.kinds = false, l.kinds[:0]
	var unknown []string
	for _, k := range allowed.Kinds {
		if (k.Group == nil || *k.Group == gatewayv1.GroupName) && k.Kind == httpRouteKind.Kind {
			if !l.http {
				l.kinds = append(l.kinds, httpRouteKind)
			}
			l.http = true
			continue
		}
		unknown = append(unknown, string(k.Kind))
	}
	if len(unknown) > 0 {
		l.unresolved = problemf(gatewayv1.ListenerReasonInvalidRouteKinds,
			"routes of kind %s are not supported; HTTPRoute is", strings.Join(unknown, ", "))
	}
}

// parseTLS finds the certificates of an HTTPS listener.
func (p *Planner) parseTLS(gw *gatewayv1.Gateway, spec *gatewayv1.Listener, l *listener, seen *references) {
	if front := frontendValidation(gw, spec.Port); front {
		l.notAccepted = problemf(gatewayv1.ListenerReasonUnsupportedValue, "client certificates (spec.tls.frontend) are not supported")
	}
	if spec.TLS == nil || len(spec.TLS.CertificateRefs) == 0 {
		l.unresolved = problemf(gatewayv1.ListenerReasonInvalidCertificateRef, "an HTTPS listener needs tls.certificateRefs")
		return
	}
	if m := spec.TLS.Mode; m != nil && *m != "" && *m != gatewayv1.TLSModeTerminate {
		l.notAccepted = problemf(gatewayv1.ListenerReasonUnsupportedValue, "tls.mode %q is not possible with HTTPS; Terminate is", *m)
	}
	if len(spec.TLS.Options) > 0 {
		l.notAccepted = problemf(gatewayv1.ListenerReasonUnsupportedValue,
			"tls.options: %q is not known", slices.Sorted(maps.Keys(spec.TLS.Options))[0])
	}
	for i := range spec.TLS.CertificateRefs {
		cert, bad := p.resolveCertificate(gw, &spec.TLS.CertificateRefs[i], seen)
		if bad != nil && (l.unresolved == nil || l.unresolved.reason == string(gatewayv1.ListenerReasonInvalidRouteKinds)) {
			l.unresolved = bad
		}
		if cert != nil && !slices.Contains(l.secrets, cert) {
			l.secrets = append(l.secrets, cert)
		}
	}
}

func frontendValidation(gw *gatewayv1.Gateway, port gatewayv1.PortNumber) bool {
	if gw.Spec.TLS == nil || gw.Spec.TLS.Frontend == nil {
		return false
	}
	for _, pp := range gw.Spec.TLS.Frontend.PerPort {
		if pp.Port == port {
			return pp.TLS.Validation != nil
		}
	}
	return gw.Spec.TLS.Frontend.Default.Validation != nil
}

// resolveCertificate follows a certificateRef. It may return both a
// certificate and a problem; see [Planner.certificate].
func (p *Planner) resolveCertificate(gw *gatewayv1.Gateway, ref *gatewayv1.SecretObjectReference, seen *references) (*route.Secret, *problem) {
	if ref.Group != nil && *ref.Group != "" || ref.Kind != nil && *ref.Kind != "Secret" {
		return nil, problemf(gatewayv1.ListenerReasonInvalidCertificateRef,
			"a certificate of kind %s/%s is not supported; a Secret is", deref(ref.Group), deref(ref.Kind))
	}
	name := model.Name{Namespace: gw.Namespace, Name: string(ref.Name)}
	if ref.Namespace != nil && *ref.Namespace != "" {
		name.Namespace = string(*ref.Namespace)
	}
	if name.Namespace != gw.Namespace {
		seen.grants = append(seen.grants, name.Namespace)
	}
	seen.secrets = append(seen.secrets, name)
	if !p.permitted(reference{"Gateway", gw.Namespace, "Secret", name}) {
		return nil, problemf(gatewayv1.ListenerReasonRefNotPermitted,
			"no ReferenceGrant in namespace %s lets Gateways of %s use Secret %s", name.Namespace, gw.Namespace, name.Name)
	}
	cert, err := p.certificate(name)
	if err != nil {
		return cert, problemf(gatewayv1.ListenerReasonInvalidCertificateRef, "%v", err)
	}
	return cert, nil
}

func deref[T any](v *T) T {
	if v == nil {
		var zero T
		return zero
	}
	return *v
}

// findConflicts marks the listeners of a Gateway that cannot be told apart. All
// of them are refused, none wins (GatewaySpec.Listeners, "Handling indistinct
// Listeners"). Listeners of protocols that we do not have do not take part.
func findConflicts(ls []*listener) {
	for i, a := range ls {
		for _, b := range ls[i+1:] {
			if a.protocol == "" || b.protocol == "" || a.port != b.port || a.port == 0 {
				continue
			}
			switch {
			case a.protocol != b.protocol:
				setConflict(a, b, gatewayv1.ListenerReasonProtocolConflict, "also has port %d, with protocol %s", b.port, b.protocol)
				setConflict(b, a, gatewayv1.ListenerReasonProtocolConflict, "also has port %d, with protocol %s", a.port, a.protocol)
			case a.hostname == b.hostname:
				setConflict(a, b, gatewayv1.ListenerReasonHostnameConflict, "also has port %d and hostname %q", b.port, b.hostname)
				setConflict(b, a, gatewayv1.ListenerReasonHostnameConflict, "also has port %d and hostname %q", a.port, a.hostname)
			case a.protocol == route.HTTPS && (covers(a.hostname, b.hostname) || covers(b.hostname, a.hostname)):
				a.overlaps, b.overlaps = append(a.overlaps, b.name), append(b.overlaps, a.name)
			}
		}
	}
}

func setConflict(l, with *listener, reason gatewayv1.ListenerConditionReason, format string, args ...any) {
	if l.conflict == nil {
		l.conflict = problemf(reason, "listener %q "+format, append([]any{with.name}, args...)...)
		l.notAccepted = l.conflict
	}
}

// owner returns which of the listeners of a port takes the requests for a host
// name or a wildcard: the one with the most specific hostname that covers it
// (GatewaySpec.Listeners, "Listener Isolation").
func owner(ls []*listener, port uint16, host string) *listener {
	var best *listener
	for _, l := range ls {
		if l.port == port && l.accepted && covers(l.hostname, host) &&
			(best == nil || specificity(l.hostname) > specificity(best.hostname)) {
			best = l
		}
	}
	return best
}
