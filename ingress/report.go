package ingress

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// planReport says of an object what there is to say now.
func (p *Planner) planReport(key model.Key) {
	r, ok := p.report(key)
	old, had := p.reports[key]
	switch {
	case !ok && !had, ok && had && reflect.DeepEqual(old, r):
		return
	case !ok:
		delete(p.reports, key)
	default:
		p.reports[key] = r
	}
	p.out.Reports = append(p.out.Reports, Report{Key: key, Report: r, Gone: !ok})
}

// report returns false for an object that is gone or not ours.
func (p *Planner) report(key model.Key) (status.Report, bool) {
	switch key.Kind {
	case model.KindGatewayClass:
		class, ok := model.GatewayClasses.Get(p.snap, "", key.Name)
		if !ok || class.Spec.ControllerName != GatewayController {
			return status.Report{}, false
		}
		return p.reportClass(class), true
	case model.KindGateway:
		gw := p.gateways[model.Name{Namespace: key.Namespace, Name: key.Name}]
		if gw == nil {
			return status.Report{}, false
		}
		return p.reportGateway(gw), true
	case model.KindHTTPRoute:
		obj, exists := model.HTTPRoutes.Get(p.snap, key.Namespace, key.Name)
		node := p.routes[key]
		if !exists || node == nil {
			return status.Report{}, false
		}
		return p.reportHTTPRoute(obj, node), true
	case model.KindIngress:
		obj, exists := model.Ingresses.Get(p.snap, key.Namespace, key.Name)
		node := p.routes[key]
		if !exists || node == nil {
			return status.Report{}, false
		}
		return p.reportIngress(obj, node), true
	}
	return status.Report{}, false
}

// conditions gathers an object's conditions.
type conditions struct {
	generation int64
	list       []metav1.Condition
}

func (c *conditions) add(kind string, ok bool, reason, message string) {
	s := metav1.ConditionFalse
	if ok {
		s = metav1.ConditionTrue
	}
	c.list = append(c.list, metav1.Condition{
		Type: kind, Status: s, Reason: reason, Message: message, ObservedGeneration: c.generation,
	})
}

// check adds a condition that is true unless there is a problem.
func (c *conditions) check(kind string, bad *problem, reason string) {
	if bad != nil {
		c.add(kind, false, bad.reason, bad.message)
		return
	}
	c.add(kind, true, reason, "")
}

func (p *Planner) reportClass(class *gatewayv1.GatewayClass) status.Report {
	_, refused := p.ourClass(class.Name)
	c := conditions{generation: class.Generation}
	c.check(string(gatewayv1.GatewayClassConditionStatusAccepted), refused, string(gatewayv1.GatewayClassReasonAccepted))
	return status.Report{Conditions: c.list, Value: gatewayv1.GatewayClassStatus{
		Conditions: slices.Clone(c.list), SupportedFeatures: Features(),
	}}
}

func (p *Planner) reportGateway(gw *gateway) status.Report {
	programmed, reason, message := p.programmed(gw)
	var invalid, unresolved []string
	st := gatewayv1.GatewayStatus{Addresses: gw.place.Addresses, Listeners: []gatewayv1.ListenerStatus{}}
	for _, l := range gw.listeners {
		if l.notAccepted != nil {
			invalid = append(invalid, l.name)
		}
		if l.unresolved != nil {
			unresolved = append(unresolved, l.name)
		}
		st.Listeners = append(st.Listeners, gatewayv1.ListenerStatus{
			Name:           gatewayv1.SectionName(l.name),
			SupportedKinds: l.kinds,
			AttachedRoutes: int32(p.attached[listenerRef{gw.name, l.name}]),
			Conditions:     l.conditions(gw, programmed, string(reason), message),
		})
	}
	c := conditions{generation: gw.obj.Generation}
	switch {
	case gw.refused != nil:
		c.add(string(gatewayv1.GatewayConditionAccepted), false, gw.refused.reason, gw.refused.message)
	case len(invalid) > 0:
		c.add(string(gatewayv1.GatewayConditionAccepted), len(invalid) < len(gw.listeners),
			string(gatewayv1.GatewayReasonListenersNotValid), "listeners that are not accepted: "+strings.Join(invalid, ", "))
	case len(gw.listeners) == 0:
		c.add(string(gatewayv1.GatewayConditionAccepted), false, string(gatewayv1.GatewayReasonListenersNotValid), "there are no listeners")
	default:
		c.add(string(gatewayv1.GatewayConditionAccepted), true, string(gatewayv1.GatewayReasonAccepted), "")
	}
	if len(unresolved) > 0 {
		c.add(string(gatewayv1.GatewayConditionResolvedRefs), false,
			string(gatewayv1.GatewayReasonListenersNotResolved), "listeners with wrong references: "+strings.Join(unresolved, ", "))
	} else {
		c.add(string(gatewayv1.GatewayConditionResolvedRefs), true, string(gatewayv1.GatewayReasonResolvedRefs), "")
	}
	c.add(string(gatewayv1.GatewayConditionProgrammed), programmed, string(reason), message)
	st.Conditions = slices.Clone(c.list)
	return status.Report{Conditions: c.list, Value: st}
}

func (l *listener) conditions(gw *gateway, programmed bool, reason, message string) []metav1.Condition {
	c := conditions{generation: gw.obj.Generation}
	if l.conflict != nil {
		c.add(string(gatewayv1.ListenerConditionConflicted), true, l.conflict.reason, l.conflict.message)
	} else {
		c.add(string(gatewayv1.ListenerConditionConflicted), false, string(gatewayv1.ListenerReasonNoConflicts), "")
	}
	notAccepted := l.notAccepted
	if notAccepted == nil && gw.refused != nil {
		notAccepted = &problem{string(gatewayv1.ListenerReasonPending), "the Gateway is not accepted: " + gw.refused.message}
	}
	c.check(string(gatewayv1.ListenerConditionAccepted), notAccepted, string(gatewayv1.ListenerReasonAccepted))
	c.check(string(gatewayv1.ListenerConditionResolvedRefs), l.unresolved, string(gatewayv1.ListenerReasonResolvedRefs))
	if !l.usable {
		programmed, reason, message = false, string(gatewayv1.ListenerReasonInvalid), "the listener cannot be programmed"
	}
	c.add(string(gatewayv1.ListenerConditionProgrammed), programmed, reason, message)
	if len(l.overlaps) > 0 {
		c.add(string(gatewayv1.ListenerConditionOverlappingTLSConfig), true, string(gatewayv1.ListenerReasonOverlappingHostnames),
			"the hostnames of these listeners overlap: "+strings.Join(l.overlaps, ", "))
	}
	return c.list
}

func (p *Planner) reportHTTPRoute(obj *gatewayv1.HTTPRoute, n *routeNode) status.Report {
	st := gatewayv1.HTTPRouteStatus{}
	for i := range n.parents {
		pa := &n.parents[i]
		c := conditions{generation: obj.Generation}
		c.check(string(gatewayv1.RouteConditionAccepted), pa.refused, string(gatewayv1.RouteReasonAccepted))
		c.check(string(gatewayv1.RouteConditionResolvedRefs), n.resolved, string(gatewayv1.RouteReasonResolvedRefs))
		if pa.refused == nil && n.partial != nil {
			c.add(string(gatewayv1.RouteConditionPartiallyInvalid), true, n.partial.reason, n.partial.message)
		}
		if reason := p.rejectedIn(pa.gateway.group, n.key); reason != "" {
			c.add(string(gatewayv1.GatewayConditionProgrammed), false, reasonRejected, reason)
		}
		st.Parents = append(st.Parents, gatewayv1.RouteParentStatus{
			ParentRef: pa.ref, ControllerName: GatewayController, Conditions: c.list,
		})
	}
	return status.Report{Value: st}
}

// reportIngress gives an Ingress conditions, which its API does not have, so
// that `sluice get` can show them.
func (p *Planner) reportIngress(obj *networkingv1.Ingress, n *routeNode) status.Report {
	c := conditions{generation: obj.Generation}
	class := p.classes[n.class]
	c.add(string(gatewayv1.RouteConditionAccepted), true, string(gatewayv1.RouteReasonAccepted), "")
	var values, refs []string
	reason := ""
	for _, note := range n.notes {
		if note.reason == string(gatewayv1.RouteReasonUnsupportedValue) {
			values = append(values, note.message)
			continue
		}
		refs = append(refs, note.message)
		if reason == "" {
			reason = note.reason
		}
	}
	if len(refs) > 0 {
		c.add(string(gatewayv1.RouteConditionResolvedRefs), false, reason, strings.Join(refs, "; "))
	} else {
		c.add(string(gatewayv1.RouteConditionResolvedRefs), true, string(gatewayv1.RouteReasonResolvedRefs), "")
	}
	if len(values) > 0 {
		c.add(string(gatewayv1.RouteConditionPartiallyInvalid), true, string(gatewayv1.RouteReasonUnsupportedValue), strings.Join(values, "; "))
	}
	ok, why, message := p.classProgrammed(class)
	if rejected := p.rejectedIn(class.group, n.key); rejected != "" {
		ok, why, message = false, reasonRejected, rejected
	}
	c.add(string(gatewayv1.GatewayConditionProgrammed), ok, why, message)
	st := networkingv1.IngressStatus{}
	for _, a := range class.place.Addresses {
		in := networkingv1.IngressLoadBalancerIngress{IP: a.Value}
		if a.Type != nil && *a.Type == gatewayv1.HostnameAddressType {
			in = networkingv1.IngressLoadBalancerIngress{Hostname: a.Value}
		}
		st.LoadBalancer.Ingress = append(st.LoadBalancer.Ingress, in)
	}
	return status.Report{Conditions: c.list, Value: st}
}

func (p *Planner) classProgrammed(c *ingressClass) (ok bool, reason, message string) {
	st := p.groups[c.group]
	switch {
	case c.taken[80] != "":
		return false, string(gatewayv1.ListenerReasonPortUnavailable), "port 80 belongs to the " + c.taken[80] + " at the same address"
	case c.taken[443] != "" && c.secure:
		return false, string(gatewayv1.ListenerReasonPortUnavailable), "port 443 belongs to the " + c.taken[443] + " at the same address"
	case c.place.Pending != "":
		return false, string(gatewayv1.GatewayReasonAddressNotAssigned), c.place.Pending
	case st == nil || st.proxies == 0:
		return false, string(gatewayv1.GatewayReasonPending), "no proxy is connected"
	case st.listener != "":
		return false, reasonRejected, st.listener
	case st.generation < 0:
		return false, string(gatewayv1.GatewayReasonPending), "not all proxies have acknowledged the configuration"
	}
	return true, string(gatewayv1.GatewayReasonProgrammed), fmt.Sprintf("acknowledged by %d of %d proxies", st.proxies, st.proxies)
}
