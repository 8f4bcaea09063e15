package ingress

import (
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// classAnnotation chose an Ingress' class before spec.ingressClassName did.
const classAnnotation = "kubernetes.io/ingress.class"

// planIngress plans an Ingress that changed, or something that it was planned
// by.
func (p *Planner) planIngress(key model.Key) {
	obj, exists := model.Ingresses.Get(p.snap, key.Namespace, key.Name)
	var seen references
	var node *routeNode
	var wants []tlsWant
	var classSeen []string
	if exists {
		named := ingressClassName(obj)
		classSeen = []string{named}
		class := named
		if named == "" {
			class = p.defaultClass
		}
		if class != "" && p.ourIngressClass(class) {
			node, wants = p.evaluateIngress(key, obj, class, &seen)
		}
	}
	p.byIngClass.set(key, classSeen)
	p.bySecret.set(key, seen.secrets)
	p.byService.set(key, seen.services)

	old := p.routes[key]
	if old != nil && (node == nil || old.class != node.class) {
		p.classes[old.class].leave(old)
		p.dirty.classes[old.class] = struct{}{}
	}
	if node != nil {
		if old != nil {
			node.claims = old.claims // until the class is planned
		}
		p.joinClass(node, wants)
	}
	p.replaceRoute(key, node)
}

// ingressClassName returns the class that an Ingress names; empty: none.
func ingressClassName(obj *networkingv1.Ingress) string {
	if c := obj.Spec.IngressClassName; c != nil {
		return *c
	}
	return obj.Annotations[classAnnotation]
}

// evaluateIngress makes the claims of an Ingress. What is wrong with a part of
// it is noted; the rest is in force.
func (p *Planner) evaluateIngress(key model.Key, obj *networkingv1.Ingress, class string, seen *references) (*routeNode, []tlsWant) {
	n := &routeNode{key: key, class: class, byHost: map[string]*claim{}}
	from := origin{obj.CreationTimestamp.Unix(), obj.Namespace + "/" + obj.Name}
	at := func(host string) *claim {
		if n.byHost[host] == nil {
			n.byHost[host] = &claim{origin: from}
		}
		return n.byHost[host]
	}
	for i := range obj.Spec.Rules {
		r := &obj.Spec.Rules[i]
		host, err := parseHostname(r.Host)
		if err != nil {
			n.note(gatewayv1.RouteReasonUnsupportedValue, "rules[%d]: %v", i, err)
			continue
		}
		c := at(host)
		if r.HTTP == nil {
			continue
		}
		for j := range r.HTTP.Paths {
			e, err := parseIngressPath(&r.HTTP.Paths[j])
			if err != nil {
				n.note(gatewayv1.RouteReasonUnsupportedValue, "rules[%d].http.paths[%d]: %v", i, j, err)
				continue
			}
			e.order = len(c.entries)
			p.finishIngressRule(n, &e, host, &r.HTTP.Paths[j].Backend, seen)
			c.entries = append(c.entries, e)
		}
	}
	if b := obj.Spec.DefaultBackend; b != nil {
		at(anyHost)
		for host, c := range n.byHost {
			e := entry{fallback: true, matchKey: "default"}
			p.finishIngressRule(n, &e, host, b, seen)
			c.entries = append(c.entries, e)
		}
	}
	return n, p.ingressTLS(n, obj, seen)
}

func (n *routeNode) note(reason gatewayv1.RouteConditionReason, format string, args ...any) {
	pr := *problemf(reason, format, args...)
	if slices.Contains(n.notes, pr) {
		return
	}
	n.notes = append(n.notes, pr)
}

// parseIngressPath reads the match of a path. ImplementationSpecific is Prefix.
func parseIngressPath(hp *networkingv1.HTTPIngressPath) (entry, error) {
	m := route.Match{Path: route.PathMatch{Kind: route.PathPrefix, Value: hp.Path}}
	if t := hp.PathType; t != nil {
		switch *t {
		case networkingv1.PathTypeExact:
			m.Path.Kind = route.PathExact
		case networkingv1.PathTypePrefix, networkingv1.PathTypeImplementationSpecific:
		default:
			return entry{}, fmt.Errorf("pathType %q is not supported; Exact, Prefix and ImplementationSpecific are", *t)
		}
	}
	if m.Path.Value == "" {
		m.Path = route.PathMatch{Kind: route.PathPrefix, Value: "/"}
	}
	if err := checkPath(m.Path.Value); err != nil {
		return entry{}, err
	}
	if m.Path.Kind == route.PathPrefix {
		m.Path.Value = trimPrefix(m.Path.Value)
	}
	pm := nameMatch(m)
	return entry{rule: route.Rule{Match: m, Name: pm.short}, matchKey: pm.key}, nil
}

// finishIngressRule gives a rule its name and its backend.
func (p *Planner) finishIngressRule(n *routeNode, e *entry, host string, b *networkingv1.IngressBackend, seen *references) {
	if e.fallback {
		e.rule.Name = "default"
		e.rule.Match.Path = route.PathMatch{Kind: route.PathPrefix, Value: "/"}
	}
	e.rule.Name = "ingress/" + n.key.Namespace + "/" + n.key.Name + "/" + e.rule.Name
	if suffix, ok := wildcard(host); ok {
		e.rule.Match.Headers = []route.ValueMatch{oneLabel(suffix)}
	}
	name, bad := p.resolveIngressBackend(n.key.Namespace, b, seen)
	if bad != nil {
		n.note(gatewayv1.RouteConditionReason(bad.reason), "%s", bad.message)
		e.rule.Respond = &route.Response{Code: 500}
		return
	}
	e.rule.Backends = []route.Backend{{Cluster: name, Weight: 1}}
}

// oneLabel narrows a wildcard host to a single label in place of the asterisk:
// that is what it means in an Ingress (IngressRule.Host), other than in the
// Gateway API.
func oneLabel(suffix string) route.ValueMatch {
	return route.ValueMatch{
		Name: ":authority", Kind: route.ValueRegex,
		Value: `(?i)[^.]+` + strings.ReplaceAll(suffix, ".", `\.`) + `(:[0-9]+)?`,
	}
}

func (p *Planner) resolveIngressBackend(namespace string, b *networkingv1.IngressBackend, seen *references) (string, *problem) {
	if b.Service == nil {
		return "", problemf(gatewayv1.RouteReasonInvalidKind, "a backend that is not a Service is not supported")
	}
	name := model.Name{Namespace: namespace, Name: b.Service.Name}
	seen.services = append(seen.services, name)
	number := uint16(0)
	if n := b.Service.Port.Number; n > 0 && n <= 65535 {
		number = uint16(n)
	}
	if want := b.Service.Port.Name; want != "" {
		svc, ok := model.Services.Get(p.snap, name.Namespace, name.Name)
		if ok {
			for _, sp := range svc.Ports {
				if sp.Name == want {
					number = sp.Port
				}
			}
			if number == 0 {
				return "", problemf(gatewayv1.RouteReasonBackendNotFound, "Service %s has no port %q", name, want)
			}
		}
	}
	return p.resolveService(name, number)
}
