package conntrack

import (
	"net/netip"
	"slices"

	"github.com/sluicenet/sluice/proxy"
)

// wanted says where flows to the frontends of changed Services may go.
type wanted struct {
	node      proxy.Node
	all       bool // every Service's frontends are here
	frontends map[netip.AddrPort]target
	nodePorts map[nodePort]target
}

type nodePort struct {
	family proxy.Family
	port   uint16
}

// target is where flows to a frontend may go. A frontend that is gone has no
// endpoints.
type target struct {
	gone      bool
	endpoints []netip.AddrPort
}

func newWanted(plan *proxy.Plan) *wanted {
	w := &wanted{frontends: map[netip.AddrPort]target{}, nodePorts: map[nodePort]target{}}
	if plan != nil {
		w.node = plan.Node
	}
	return w
}

// collect returns what is wanted of the frontends of changes that can have left
// stale flows behind; of all frontends of the plan, if changes are nil.
func collect(plan *proxy.Plan, changes []proxy.Change) *wanted {
	w := newWanted(plan)
	if changes == nil {
		w.all = true
		for s := range plan.Services() {
			each(s, func(p *proxy.Port, f *proxy.Frontend) { w.set(p, f, target{endpoints: p.Established()}) })
		}
		return w
	}
	for _, c := range changes {
		each(c.Old, func(p *proxy.Port, f *proxy.Frontend) {
			if now := find(c.New, p); now == nil || !harmless(p, now) {
				w.set(p, f, target{gone: true})
			}
		})
	}
	// Second, so that a frontend which moved to another Service is wanted.
	for _, c := range changes {
		each(c.New, func(p *proxy.Port, f *proxy.Frontend) {
			if w.find(p, f) || !known(c.Old, p, f) {
				w.set(p, f, target{endpoints: p.Established()})
			}
		})
	}
	return w
}

// allowed returns what the newest of the Services allow.
func allowed(changes []proxy.Change) *wanted {
	w := newWanted(nil)
	for _, c := range changes {
		each(c.New, func(p *proxy.Port, f *proxy.Frontend) {
			// What is in force and what follows may differ; both are healthy.
			var before []netip.AddrPort
			if w.find(p, f) {
				before = w.get(p, f).endpoints
			}
			both := append(p.Established(), before...)
			slices.SortFunc(both, netip.AddrPort.Compare)
			w.set(p, f, target{endpoints: both})
		})
	}
	return w
}

// allows reports whether a flow is one that may go on, wherever a NodePort's
// address is.
func (w *wanted) allows(f *flow) bool {
	if w == nil {
		return false
	}
	for _, t := range [...]target{
		w.frontends[f.destination],
		w.nodePorts[nodePort{proxy.FamilyOf(f.destination.Addr()), f.destination.Port()}],
	} {
		if t.has(f.answers) {
			return true
		}
	}
	return false
}

func (t target) has(endpoint netip.AddrPort) bool {
	_, ok := slices.BinarySearchFunc(t.endpoints, endpoint, netip.AddrPort.Compare)
	return ok
}

// each calls f for every UDP frontend of a Service.
func each(s *proxy.Service, f func(*proxy.Port, *proxy.Frontend)) {
	if s == nil {
		return
	}
	for _, p := range s.Ports {
		if p.Protocol != proxy.UDP {
			continue
		}
		for i := range p.Frontends {
			f(p, &p.Frontends[i])
		}
	}
}

// find returns the same port of another plan of the Service.
func find(s *proxy.Service, like *proxy.Port) *proxy.Port {
	if s == nil {
		return nil
	}
	for _, p := range s.Ports {
		if p.Family == like.Family && p.Protocol == like.Protocol && p.Port == like.Port {
			return p
		}
	}
	return nil
}

// harmless reports whether a change of a port leaves no stale flows: all
// endpoints that flows could have are still there, and so are the frontends.
func harmless(before, now *proxy.Port) bool {
	established := now.Established()
	for _, e := range before.Established() {
		if _, ok := slices.BinarySearchFunc(established, e, netip.AddrPort.Compare); !ok {
			return false
		}
	}
	for i := range before.Frontends {
		if !hasFrontend(now, before.Frontends[i].Addr, before.Frontends[i].Port) {
			return false
		}
	}
	return true
}

func hasFrontend(p *proxy.Port, addr netip.Addr, port uint16) bool {
	return slices.ContainsFunc(p.Frontends, func(f proxy.Frontend) bool { return f.Addr == addr && f.Port == port })
}

// known reports whether the Service had a frontend before.
func known(before *proxy.Service, p *proxy.Port, f *proxy.Frontend) bool {
	old := find(before, p)
	return old != nil && hasFrontend(old, f.Addr, f.Port)
}

func (w *wanted) set(p *proxy.Port, f *proxy.Frontend, t target) {
	if f.Kind == proxy.NodePort {
		w.nodePorts[nodePort{p.Family, f.Port}] = t
	} else {
		w.frontends[netip.AddrPortFrom(f.Addr, f.Port)] = t
	}
}

func (w *wanted) get(p *proxy.Port, f *proxy.Frontend) target {
	if f.Kind == proxy.NodePort {
		return w.nodePorts[nodePort{p.Family, f.Port}]
	}
	return w.frontends[netip.AddrPortFrom(f.Addr, f.Port)]
}

func (w *wanted) find(p *proxy.Port, f *proxy.Frontend) bool {
	if f.Kind == proxy.NodePort {
		_, ok := w.nodePorts[nodePort{p.Family, f.Port}]
		return ok
	}
	_, ok := w.frontends[netip.AddrPortFrom(f.Addr, f.Port)]
	return ok
}

// empty reports whether no flow can be stale.
func (w *wanted) empty() bool { return !w.has(proxy.IPv4) && !w.has(proxy.IPv6) }

func (w *wanted) has(family proxy.Family) bool {
	for f := range w.frontends {
		if proxy.FamilyOf(f.Addr()) == family {
			return true
		}
	}
	for f := range w.nodePorts {
		if f.family == family {
			return true
		}
	}
	return w.all && slices.ContainsFunc(w.node.ServiceCIDRs, func(p netip.Prefix) bool { return proxy.FamilyOf(p.Addr()) == family })
}

// answers reports whether a local address answers NodePorts.
func (w *wanted) answers(addr netip.Addr) bool {
	restricted := false
	for _, p := range w.node.NodePorts {
		if p.Contains(addr) {
			return true
		}
		restricted = restricted || proxy.FamilyOf(p.Addr()) == proxy.FamilyOf(addr)
	}
	return !restricted
}

// stale reports whether a flow goes to a Service and not to one of its
// endpoints. A flow to a frontend that is gone is only ours if it is translated.
// What went away while nobody looked is known to have been a frontend if it is
// among the ClusterIPs, whose ranges are the proxy's alone.
func (w *wanted) stale(f *flow, local map[netip.Addr]struct{}) bool {
	t, ok := w.frontends[f.destination]
	if !ok {
		if _, mine := local[f.destination.Addr()]; mine {
			t, ok = w.nodePorts[nodePort{proxy.FamilyOf(f.destination.Addr()), f.destination.Port()}]
		}
	}
	if !ok && w.all {
		t.gone = true
		ok = slices.ContainsFunc(w.node.ServiceCIDRs, func(p netip.Prefix) bool { return p.Contains(f.destination.Addr()) })
	}
	if !ok || t.gone && f.answers == f.destination {
		return false
	}
	return !t.has(f.answers)
}
