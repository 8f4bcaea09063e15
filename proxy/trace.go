package proxy

import (
	"net/netip"
	"slices"

	"github.com/sluicenet/sluice/model"
)

// Decision is what happens to a new connection, and why.
type Decision struct {
	Source      netip.Addr
	Destination netip.AddrPort
	Protocol    Protocol
	// Service, Port and Frontend are what decides. Without a frontend, Miss says
	// what there is instead.
	Service  model.Name
	Port     *Port
	Frontend *Frontend
	Miss     Miss
	// FromNode tells that the source is this node, Inside that it counts as this
	// node's or a Pod's. ToNode tells that the destination is an address of this
	// node that answers NodePorts.
	FromNode, Inside, ToNode bool
	// PodInterfaces are set where Pods are told by the interface that they come
	// in by, which is not known here: the source was taken for one from outside,
	// and what comes in by these interfaces may be treated otherwise.
	PodInterfaces []string
	// Relayed tells that a relay on this node, and not the kernel's rules,
	// connects to the endpoints: the NodePort is on a loopback address.
	Relayed bool
	Action  Action
	// Refused tells that the source is not among the frontend's Sources.
	Refused bool
	Choices []Choice
}

// Miss says what becomes of a connection to where no frontend is.
type Miss uint8

// What can become of it. The Action of a connection that is NotOurs says nothing.
const (
	NotOurs     Miss = iota // it goes on unchanged
	UnknownPort             // rejected: the address is the ClusterIP of a Service without that port
	Unallocated             // dropped: the address is in a range of ClusterIPs, and no Service's
)

// Choice is a backend that the connection may get.
type Choice struct {
	Backend
	Probability float64
	Masquerade  bool // the backend sees the node's address as the source
}

// Trace says what the plan does with a new connection. An invalid source stands
// for this node itself. It walks all Services: it is for people who ask.
func Trace(plan *Plan, source netip.Addr, destination netip.AddrPort, protocol Protocol) Decision {
	d := Decision{Source: source, Destination: destination, Protocol: protocol}
	family := FamilyOf(destination.Addr())
	fromNode := !source.IsValid() || source.IsLoopback() || slices.Contains(plan.Node.Addrs, source)
	fromPod := slices.ContainsFunc(plan.Node.Pods, func(p netip.Prefix) bool { return p.Contains(source) })
	d.FromNode, d.Inside = fromNode, fromNode || fromPod
	d.ToNode = plan.answersNodePorts(destination.Addr())

	if !d.find(plan) {
		d.miss(plan)
		return d
	}
	if !fromNode {
		d.PodInterfaces = plan.Node.PodInterfaces
	}
	d.Action = d.Frontend.Outside
	if d.Inside && !d.Relayed {
		d.Action = d.Frontend.Inside
	}
	if d.Action != Reject && d.Frontend.Sources != nil && !slices.ContainsFunc(d.Frontend.Sources, func(p netip.Prefix) bool { return p.Contains(source) }) {
		d.Refused, d.Action = true, Drop
		return d
	}
	masquerade := false
	switch d.Frontend.Masquerade {
	case MasqueradeAlways:
		masquerade = true
	case MasqueradeFromNode:
		masquerade = fromNode
	case MasqueradeOffCluster:
		masquerade = !fromPod && plan.Node.KnowsPods(family)
	}
	if d.Relayed && d.Action == Drop {
		d.Action = Reject // the relay does not listen where it has no endpoint
	}
	backends := d.Port.Backends(d.Action)
	slots := Slots(backends)
	total := 0
	for _, n := range slots {
		total += n
	}
	for i, b := range backends {
		d.Choices = append(d.Choices, Choice{b, float64(slots[i]) / float64(total), masquerade || d.Relayed || b.Addr() == source && b.Place != Elsewhere})
	}
	return d
}

// find looks for the frontend: an address of its own goes before any NodePort.
func (d *Decision) find(plan *Plan) bool {
	addr := d.Destination.Addr()
	family := FamilyOf(addr)
	d.Relayed = addr.IsLoopback() && plan.Node.Localhost && d.Protocol == TCP
	local := d.Relayed || d.ToNode
	for s := range plan.Services() {
		for _, p := range s.Ports {
			if p.Family != family || p.Protocol != d.Protocol {
				continue
			}
			for i := range p.Frontends {
				f := &p.Frontends[i]
				if f.Port != d.Destination.Port() || f.Kind == NodePort && !local || f.Kind != NodePort && f.Addr != addr {
					continue
				}
				d.Service, d.Port, d.Frontend = s.Name, p, f
				if f.Kind != NodePort {
					d.Relayed = false
					return true
				}
			}
		}
	}
	d.Relayed = d.Relayed && d.Frontend != nil
	return d.Frontend != nil
}

// miss says what becomes of a connection without a frontend.
func (d *Decision) miss(plan *Plan) {
	addr := d.Destination.Addr()
	for s := range plan.Services() {
		for _, p := range s.Ports {
			if slices.ContainsFunc(p.Frontends, func(f Frontend) bool { return f.Kind == ClusterIP && f.Addr == addr }) {
				d.Service, d.Miss, d.Action = s.Name, UnknownPort, Reject
				return
			}
		}
	}
	if slices.ContainsFunc(plan.Node.ServiceCIDRs, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		d.Miss, d.Action = Unallocated, Drop
	}
}

// answersNodePorts reports whether the kernel's rules serve NodePorts on an
// address of the node. On a loopback address they do not.
func (p *Plan) answersNodePorts(a netip.Addr) bool {
	if !slices.Contains(p.Node.Addrs, a) {
		return false
	}
	restricted := slices.DeleteFunc(slices.Clone(p.Node.NodePorts), func(n netip.Prefix) bool { return n.Addr().Is4() != a.Is4() })
	return len(restricted) == 0 || slices.ContainsFunc(restricted, func(n netip.Prefix) bool { return n.Contains(a) })
}
