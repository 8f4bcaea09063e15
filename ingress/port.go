package ingress

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
)

// On one machine every Gateway has an Envoy of its own, and the kernel lets two
// of them listen on one address and port: it would hand each connection to
// either. So a port belongs to the oldest Gateway that wants it there, then to
// the first by name; the others' listeners are refused. Ingresses, which do not
// name their ports, get what no Gateway has. On a cluster the Gateways' Envoys
// have addresses of their own.

// contender is what a Gateway wants of the machine.
type contender struct {
	key     model.Key
	created int64
	listen  []netip.Addr // empty: all addresses
	ports   []uint16     // in order
}

// contend notes what a Gateway wants, nothing if it is gone, and plans those
// again that want some of the same.
func (p *Planner) contend(key model.Key, gw *gatewayv1.Gateway, place Placement) {
	if !p.opt.OneMachine {
		return
	}
	var next *contender
	if gw != nil {
		next = &contender{key: key, created: gw.CreationTimestamp.Unix(), listen: place.Listen}
		if gw.CreationTimestamp.IsZero() {
			next.created = 0
		}
		for _, l := range gw.Spec.Listeners {
			if l.Port >= 1 && l.Port <= 65535 && (l.Protocol == gatewayv1.HTTPProtocolType || l.Protocol == gatewayv1.HTTPSProtocolType) {
				next.ports = append(next.ports, uint16(l.Port))
			}
		}
		slices.Sort(next.ports)
		next.ports = slices.Compact(next.ports)
	}
	old := p.contenders[key]
	if reflect.DeepEqual(old, next) {
		return
	}
	if next == nil {
		delete(p.contenders, key)
		p.byPort.set(key, nil)
	} else {
		p.contenders[key] = next
		p.byPort.set(key, slices.Clone(next.ports))
	}
	affected := map[model.Key]struct{}{}
	for _, c := range []*contender{old, next} {
		if c == nil {
			continue
		}
		for _, port := range c.ports {
			p.byPort.mark(port, affected)
			if port == 80 || port == 443 {
				for name := range p.classes {
					p.dirty.classes[name] = struct{}{}
				}
			}
		}
	}
	delete(affected, key)
	maps.Copy(p.dirty.objects, affected)
}

// portOwner returns the Gateway that has a port of an address before the given
// one, or nil. A key of no Gateway stands behind all.
func (p *Planner) portOwner(key model.Key, listen []netip.Addr, port uint16) *contender {
	me := p.contenders[key]
	var owner *contender
	for other := range p.byPort.users[port] {
		c := p.contenders[other]
		if other == key || !overlap(c.listen, listen) || me != nil && compareContenders(me, c) < 0 {
			continue
		}
		if owner == nil || compareContenders(c, owner) < 0 {
			owner = c
		}
	}
	return owner
}

// refusePorts refuses the listeners whose port belongs to another Gateway.
func (p *Planner) refusePorts(gw *gateway) {
	for _, l := range gw.listeners {
		if l.port == 0 || l.notAccepted != nil {
			continue
		}
		if owner := p.portOwner(gw.key, gw.place.Listen, l.port); owner != nil {
			l.notAccepted = problemf(gatewayv1.ListenerReasonPortUnavailable, "port %d belongs to the older %v at the same address", l.port, owner.key)
		}
	}
}

func compareContenders(a, b *contender) int {
	return cmp.Or(cmp.Compare(a.created, b.created), compareKeys(a.key, b.key))
}

// overlap reports whether two lists of addresses, which stand for all if they
// are empty, have one in common.
func overlap(a, b []netip.Addr) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	return slices.ContainsFunc(a, func(ip netip.Addr) bool { return ip.IsUnspecified() || slices.Contains(b, ip) }) ||
		slices.ContainsFunc(b, netip.Addr.IsUnspecified)
}
