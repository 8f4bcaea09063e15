package proxy

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
)

// Use is what a plan makes of one endpoint of a Service's port.
type Use struct {
	Family   Family
	Protocol Protocol
	Port     uint16 // the Service's
	PortName string
	netip.AddrPort
	Pod, Node, Zone string // empty: unknown
	Place           Place
	// Ready, Serving and Terminating are the endpoint's conditions.
	Ready, Serving, Terminating bool
	// Weight is relative to the other endpoints of the Service, or of the same
	// backend of a route. An endpoint of weight 0 is being drained.
	Weight uint64
	// Cluster and Local are the endpoint's share of the connections by either
	// traffic policy, from 0 to 1, where the port has a frontend of that policy.
	Cluster, Local float64
	// Why says why this node sends no connections to the endpoint; empty: it does.
	Why string
}

// Uses says what a plan made of the endpoints of a Service, those included that
// it left out, ordered as the plan's ports and then by address. It is for people
// who ask; snap is to be the plan's, or one a little newer.
func Uses(plan *Plan, snap *model.Snapshot, name model.Name) []Use {
	svc, ok := model.Services.Get(snap, name.Namespace, name.Name)
	if !ok {
		return nil
	}
	// What this planner learns is forgotten with it.
	p := NewPlanner(Config{Node: plan.Node.Name, ProxyName: plan.proxyName})
	p.here = plan.Node
	p.anybodys = !p.mine(svc)
	planned := plan.Service(name)
	if planned == nil {
		planned = &Service{Name: name}
	}
	var out []Use
	if len(svc.Ports) == 0 {
		return p.portless(snap, svc)
	}
	for i := range svc.Ports {
		port := &svc.Ports[i]
		proto, ok := protocol(port.Protocol)
		if !ok {
			continue
		}
		for _, family := range familiesToShow(svc) {
			out = append(out, p.uses(snap, svc, port, family, proto, planned)...)
		}
	}
	slices.SortStableFunc(out, func(a, b Use) int {
		return comparePorts(&Port{Family: a.Family, Protocol: a.Protocol, Port: a.Port}, &Port{Family: b.Family, Protocol: b.Protocol, Port: b.Port})
	})
	return out
}

// familiesToShow are those of a Service. A headless one need not say any.
func familiesToShow(svc *model.Service) []Family {
	if f := families(svc); f != nil {
		return f
	}
	return []Family{IPv4, IPv6}
}

// uses says what is made of the endpoints of a port in one family.
func (p *Planner) uses(snap *model.Snapshot, svc *model.Service, port *model.ServicePort, family Family, proto Protocol, planned *Service) []Use {
	var all []endpoint
	split := findSplit(snap, svc, port)
	if split != nil {
		all = p.splitEndpoints(snap, svc, split, family, proto, &Service{})
	} else {
		all = p.endpoints(p.scratch[:0], snap, svc, port.Name, family, proto)
	}
	p.scratch = all
	all = unique(all)
	want := Port{Family: family, Protocol: proto, Port: port.Port}
	plan := &want
	if i := slices.IndexFunc(planned.Ports, func(q *Port) bool { return comparePorts(q, &want) == 0 }); i >= 0 {
		plan = planned.Ports[i]
	}
	cluster, local := plan.policies()
	reasons := reasoner{node: p.here, hints: hinted(all, p.here), all: p.notOurs(svc)}
	if reasons.all == "" && len(plan.Frontends) == 0 {
		reasons.all = "the Service answers on no address of this family"
	}
	reasons.cluster, reasons.ready = cluster, slices.ContainsFunc(all, func(e endpoint) bool { return e.Ready && e.weight > 0 && e.parts > 0 })
	var out []Use
	for _, e := range all {
		if n := len(out); n > 0 && out[n-1].AddrPort == e.addr {
			continue // in two shares of a split
		}
		u := use(&e)
		u.Family, u.Protocol, u.Port, u.PortName = family, proto, port.Port, port.Name
		if e.parts == 0 {
			u.Weight = 0
		}
		if cluster {
			u.Cluster = portion(plan.Cluster, e.addr)
		}
		if local {
			u.Local = portion(plan.Local, e.addr)
		}
		if u.Cluster == 0 && u.Local == 0 {
			u.Why = reasons.of(&e)
		}
		out = append(out, u)
	}
	return out
}

// use carries over what an endpoint itself says.
func use(e *endpoint) Use {
	return Use{
		Family: FamilyOf(e.Addr), AddrPort: e.addr, Pod: e.Pod, Node: e.Node, Zone: e.Zone, Place: e.place,
		Ready: e.Ready, Serving: e.Serving, Terminating: e.Terminating, Weight: e.weight,
	}
}

// portless lists the endpoints of a Service without ports, which only a headless
// one may be.
func (p *Planner) portless(snap *model.Snapshot, svc *model.Service) []Use {
	var all []endpoint
	for slice := range p.slicesOf(snap, svc) {
		for _, family := range [...]Family{IPv4, IPv6} {
			all = p.endpointsOf(all, slicePort{slice: slice}, family)
		}
	}
	var out []Use
	for _, e := range unique(all) {
		u := use(&e)
		if u.Why = p.notOurs(svc); u.Why == "" {
			u.Why = "the Service has no ports"
		}
		out = append(out, u)
	}
	return out
}

// notOurs says why no service proxy, or another one, connects to the Service's
// endpoints.
func (p *Planner) notOurs(svc *model.Service) string {
	switch {
	case svc.Headless:
		return "the Service is headless"
	case svc.Type == corev1.ServiceTypeExternalName:
		return "the Service is of type ExternalName"
	case !p.labelled(&svc.Meta):
		return "the Service is another proxy's, by its labels"
	}
	return ""
}

// policies reports whether any frontend has the traffic policy Cluster, and
// whether any has Local.
func (p *Port) policies() (cluster, local bool) {
	for _, f := range p.Frontends {
		for _, a := range [...]Action{f.Inside, f.Outside} {
			cluster = cluster || a == ToCluster
			local = local || a == ToLocal || a == Drop
		}
	}
	return cluster, local
}

// portion returns the part of the connections to a set that a backend gets.
func portion(backends []Backend, addr netip.AddrPort) float64 {
	at, ok := slices.BinarySearchFunc(backends, addr, func(b Backend, a netip.AddrPort) int { return b.Compare(a) })
	if !ok {
		return 0
	}
	total := 0
	slots := Slots(backends)
	for _, n := range slots {
		total += n
	}
	return float64(slots[at]) / float64(total)
}

// reasoner says why endpoints are not used.
type reasoner struct {
	node    Node
	all     string // why none is; empty: some may be
	hints   topology
	cluster bool // a frontend has the traffic policy Cluster
	ready   bool // some endpoint is, and takes connections
}

func (r *reasoner) of(e *endpoint) string {
	switch {
	case r.all != "":
		return r.all
	case e.Terminating && !e.Serving:
		return "terminating, and serves no more"
	case !e.Ready && (!e.Terminating || !e.Serving):
		return "not ready"
	case e.weight == 0:
		return "drained: its EndpointSlice has weight 0"
	case e.parts == 0:
		return "drained: the route gives it weight 0"
	case !r.cluster && e.place != Here:
		return "not on this node, and the traffic policy is Local"
	case !e.Ready && r.ready:
		return "terminating, and others are ready"
	case r.hints == sameNode && !slices.Contains(e.ForNodes(), r.node.Name):
		return "its hints are for " + list("node", e.ForNodes())
	case r.hints == sameZone && !slices.Contains(e.ForZones(), r.node.Zone):
		return "its hints are for " + list("zone", e.ForZones())
	}
	return "the plan does not have it yet"
}

func list(what string, names []string) string {
	if len(names) > 1 {
		what += "s"
	}
	return what + " " + strings.Join(names, ", ")
}

// PoliciesText says which traffic policies of a Service are not the default, and
// how it prefers endpoints nearby, such as "External=Local,PreferSameZone".
func PoliciesText(svc *model.Service) string {
	var out []string
	if svc.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal {
		out = append(out, "Internal=Local")
	}
	if externalLocal(svc) {
		out = append(out, "External=Local")
	}
	if svc.TrafficDistribution != "" {
		out = append(out, svc.TrafficDistribution)
	}
	if out == nil && len(svc.ClusterIPs)+len(svc.ExternalIPs)+len(svc.LoadBalancerIPs) > 0 {
		return "Cluster"
	}
	return strings.Join(out, ",")
}
