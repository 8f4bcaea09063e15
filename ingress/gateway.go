package ingress

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// gateway is a Gateway of a class of ours, as planned last.
type gateway struct {
	key       model.Key
	name      model.Name
	group     route.Group
	obj       *gatewayv1.Gateway
	place     Placement
	refused   *problem // why the Gateway as a whole is not accepted
	listeners []*listener
	resources map[route.Ref]published // listeners and secrets
	ports     []uint16
	claims    map[hostKey]*claim // hosts that keep listeners apart
}

// published is a resource as it was handed out last.
type published struct {
	resource route.Resource
	origins  []model.Key
}

// references are what was looked at while one object was planned.
type references struct {
	secrets    []model.Name
	services   []model.Name
	gateways   []model.Name
	grants     []string // namespaces
	namespaces []string
}

// ourClass tells whether Gateways of a class are ours, and why the class is not
// accepted if so.
func (p *Planner) ourClass(name string) (ours bool, refused *problem) {
	class, ok := model.GatewayClasses.Get(p.snap, "", name)
	if !ok {
		return p.opt.Standalone && name == DefaultClass, nil
	}
	if class.Spec.ControllerName != GatewayController {
		return false, nil
	}
	if ref := class.Spec.ParametersRef; ref != nil {
		return true, problemf(gatewayv1.GatewayClassReasonInvalidParameters,
			"parametersRef to a %s/%s is not supported", ref.Group, ref.Kind)
	}
	return true, nil
}

// planGateway plans a Gateway that changed, or whose class, secrets, grants or
// placement did.
func (p *Planner) planGateway(key model.Key) {
	name := model.Name{Namespace: key.Namespace, Name: key.Name}
	old := p.gateways[name]
	obj, exists := model.Gateways.Get(p.snap, key.Namespace, key.Name)
	ours, classRefused := false, (*problem)(nil)
	if exists {
		p.byClass.set(key, []string{string(obj.Spec.GatewayClassName)})
		ours, classRefused = p.ourClass(string(obj.Spec.GatewayClassName))
	} else {
		p.byClass.set(key, nil)
	}
	p.dirty.reports[key] = struct{}{}
	if !ours {
		p.bySecret.set(key, nil)
		p.byGrant.set(key, nil)
		p.contend(key, nil, Placement{})
		if old != nil {
			p.removeGateway(old)
		}
		return
	}
	gw := &gateway{key: key, name: name, group: route.GatewayGroup(name.Namespace, name.Name), obj: obj}
	gw.place = p.opt.Place(p.snap, gw.group, obj)
	gw.refused = refuseGateway(obj)
	if classRefused != nil {
		gw.refused = problemf(gatewayv1.GatewayReasonInvalidParameters, "GatewayClass %s: %s", obj.Spec.GatewayClassName, classRefused.message)
	}
	var seen references
	for i := range obj.Spec.Listeners {
		gw.listeners = append(gw.listeners, p.parseListener(obj, &obj.Spec.Listeners[i], &seen))
	}
	if gw.refused == nil {
		p.contend(key, obj, gw.place)
		p.refusePorts(gw)
	} else {
		p.contend(key, nil, gw.place)
	}
	findConflicts(gw.listeners)
	for _, l := range gw.listeners {
		l.accepted = l.notAccepted == nil && gw.refused == nil
		l.usable = l.accepted && (l.protocol == route.HTTP || len(l.secrets) > 0)
	}
	p.bySecret.set(key, seen.secrets)
	p.byGrant.set(key, seen.grants)

	p.gateways[name] = gw
	if old == nil || !slices.EqualFunc(old.listeners, gw.listeners, func(a, b *listener) bool { return a.listenerView == b.listenerView }) {
		p.byGateway.mark(name, p.dirty.objects)
	}
	gw.resources, gw.ports = gw.plan()
	var before map[route.Ref]published
	var claimed map[hostKey]*claim
	if old != nil {
		before, claimed = old.resources, old.claims
	}
	p.publish(gw.group, before, gw.resources)
	if old == nil || old.obj.UID != obj.UID || !slices.Equal(old.ports, gw.ports) {
		p.out.Groups = append(p.out.Groups, GroupChange{Group: gw.group, Gateway: name, UID: string(obj.UID), Ports: gw.ports})
	}
	gw.claims = gw.isolate()
	p.setClaims(key, claimed, gw.claims)
}

func (p *Planner) removeGateway(gw *gateway) {
	delete(p.gateways, gw.name)
	delete(p.groups, gw.group)
	p.byGateway.mark(gw.name, p.dirty.objects)
	p.publish(gw.group, gw.resources, nil)
	p.setClaims(gw.key, gw.claims, nil)
	p.forgetRejections(gw.group)
	p.out.Groups = append(p.out.Groups, GroupChange{Group: gw.group, Gateway: gw.name, Gone: true})
}

// refuseGateway checks what would otherwise be ignored in silence.
func refuseGateway(gw *gatewayv1.Gateway) *problem {
	if in := gw.Spec.Infrastructure; in != nil && in.ParametersRef != nil {
		return problemf(gatewayv1.GatewayReasonInvalidParameters,
			"infrastructure.parametersRef to a %s/%s is not supported", in.ParametersRef.Group, in.ParametersRef.Kind)
	}
	for _, a := range gw.Spec.Addresses {
		if a.Type != nil && *a.Type != gatewayv1.IPAddressType {
			return problemf(gatewayv1.GatewayReasonUnsupportedAddress,
				"addresses of type %q are not supported; IPAddress is", *a.Type)
		}
	}
	return nil
}

// plan returns the listeners of each port, with their secrets.
func (gw *gateway) plan() (map[route.Ref]published, []uint16) {
	resources := map[route.Ref]published{}
	byPort := map[uint16]*route.Listener{}
	add := func(r route.Resource, origins ...model.Key) {
		resources[route.Ref{Group: gw.group, Kind: r.Kind(), ID: r.ID()}] = published{r, origins}
	}
	for _, l := range gw.listeners {
		if !l.usable {
			continue
		}
		lis := byPort[l.port]
		if lis == nil {
			lis = &route.Listener{
				Name:    fmt.Sprintf("%s/%d", gw.name, l.port),
				Gateway: &route.GatewayListener{Addresses: gw.place.Listen, Port: l.port, Protocol: l.protocol},
			}
			byPort[l.port] = lis
			add(lis, gw.key)
		}
		if l.protocol == route.HTTP {
			lis.Gateway.Space = l.space
			continue
		}
		chain := route.TLSChain{Name: l.name, Space: l.space}
		if l.hostname != anyHost {
			chain.ServerNames = []string{l.hostname}
		}
		for _, s := range l.secrets {
			chain.Secrets = append(chain.Secrets, s.Name)
			add(s, gw.key, secretKey(s))
		}
		lis.Gateway.Chains = append(lis.Gateway.Chains, chain)
	}
	for _, lis := range byPort {
		slices.SortFunc(lis.Gateway.Chains, compareChains)
	}
	return resources, slices.Sorted(maps.Keys(byPort))
}

// isolate claims the hostnames of HTTP listeners that share a port, so that
// what no route of theirs takes is 404 and does not fall to the routes of a
// less specific listener. HTTPS listeners are apart by themselves: each has a
// chain and a space of its own.
func (gw *gateway) isolate() map[hostKey]*claim {
	claims := map[hostKey]*claim{}
	for i, l := range gw.listeners {
		for j, other := range gw.listeners {
			if i != j && l.usable && l.protocol == route.HTTP && other.usable && other.port == l.port {
				claims[hostKey{gw.group, l.space, l.hostname}] = &claim{}
			}
		}
	}
	return claims
}

// publish hands out what differs between two sets of resources of a group.
func (p *Planner) publish(g route.Group, old, next map[route.Ref]published) {
	for ref, n := range next {
		if o, had := old[ref]; had && slices.Equal(o.origins, n.origins) && reflect.DeepEqual(o.resource, n.resource) {
			continue
		}
		p.out.Changes = append(p.out.Changes, route.Set(g, n.resource, n.origins...))
	}
	for ref := range old {
		if _, still := next[ref]; !still {
			p.out.Changes = append(p.out.Changes, route.Remove(g, ref.Kind, ref.ID))
		}
	}
}
