package ingress

import (
	"k8s.io/apimachinery/pkg/labels"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
)

// routeNode is an HTTPRoute or an Ingress with a parent of ours, as planned
// last.
type routeNode struct {
	key      model.Key
	claims   map[hostKey]*claim
	attached []listenerRef     // HTTPRoute: the listeners that count it
	parents  []parent          // HTTPRoute: one for each parentRef of ours
	resolved *problem          // a wrong backend, if any
	partial  *problem          // rules that are refused, if only some are
	class    string            // Ingress: its class
	byHost   map[string]*claim // Ingress: what it wants of each host
	notes    []problem         // Ingress: what is wrong with it
}

// parent is what became of a parentRef.
type parent struct {
	ref     gatewayv1.ParentReference
	refused *problem
	to      []*listener // what it attaches to, if not refused
	gateway *gateway
}

// findParents follows the parentRefs of a route to Gateways of ours. References
// to anything else are other controllers' business.
func (p *Planner) findParents(r *gatewayv1.HTTPRoute, hostnames []string, seen *references) []parent {
	var parents []parent
	for i := range r.Spec.ParentRefs {
		ref := &r.Spec.ParentRefs[i]
		if ref.Group != nil && *ref.Group != gatewayv1.GroupName || ref.Kind != nil && *ref.Kind != "Gateway" {
			continue
		}
		name := model.Name{Namespace: r.Namespace, Name: string(ref.Name)}
		if ref.Namespace != nil && *ref.Namespace != "" {
			name.Namespace = string(*ref.Namespace)
		}
		seen.gateways = append(seen.gateways, name)
		gw := p.gateways[name]
		if gw == nil {
			continue
		}
		pa := parent{ref: *ref, gateway: gw}
		pa.to, pa.refused = p.attach(gw, ref, r, hostnames, seen)
		parents = append(parents, pa)
	}
	return parents
}

// attach returns the listeners of a Gateway to which a parentRef attaches a
// route, or why there is none. The reasons are those of the specification
// (RouteConditionAccepted), the first that leaves no listener.
func (p *Planner) attach(gw *gateway, ref *gatewayv1.ParentReference, r *gatewayv1.HTTPRoute, hostnames []string, seen *references) ([]*listener, *problem) {
	var named, allowed, matching []*listener
	for _, l := range gw.listeners {
		if ref.SectionName != nil && *ref.SectionName != "" && string(*ref.SectionName) != l.name ||
			ref.Port != nil && uint16(*ref.Port) != l.port {
			continue
		}
		named = append(named, l)
		if !l.http || !p.allowsNamespace(gw, l, r.Namespace, seen) {
			continue
		}
		allowed = append(allowed, l)
		for _, h := range hostnames {
			if _, ok := intersect(l.hostname, h); ok {
				matching = append(matching, l)
				break
			}
		}
	}
	switch {
	case len(named) == 0:
		return nil, problemf(gatewayv1.RouteReasonNoMatchingParent, "Gateway %s has no listener with that sectionName and port", gw.name)
	case len(allowed) == 0:
		return nil, problemf(gatewayv1.RouteReasonNotAllowedByListeners, "no listener of Gateway %s allows HTTPRoutes of namespace %s", gw.name, r.Namespace)
	case len(matching) == 0:
		return nil, problemf(gatewayv1.RouteReasonNoMatchingListenerHostname, "no hostname of the route is among those of the listeners of Gateway %s", gw.name)
	}
	return matching, nil
}

func (p *Planner) allowsNamespace(gw *gateway, l *listener, namespace string, seen *references) bool {
	switch l.from {
	case gatewayv1.NamespacesFromAll:
		return true
	case gatewayv1.NamespacesFromSame:
		return namespace == gw.name.Namespace
	case gatewayv1.NamespacesFromSelector:
		seen.namespaces = append(seen.namespaces, namespace)
		ns, ok := model.Namespaces.Get(p.snap, "", namespace)
		return ok && l.selector.Matches(labels.Set(ns.Labels))
	}
	return false
}
