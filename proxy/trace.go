package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/model"
)

// Decision is what happens to a new connection, and why.
type Decision struct {
	Source      netip.Addr
	Destination netip.AddrPort
	Protocol    Protocol
	// Service, Port and Frontend are what decides; the Service is empty where
	// no Service answers there, and the connection passes unchanged.
	Service  model.Name
	Port     *Port
	Frontend *Frontend
	// Inside tells that the source counts as this node's or a Pod's.
	Inside bool
	Action Action
	// Refused tells that the source is not among the frontend's Sources.
	Refused bool
	Choices []Choice
}

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
	fromNode := !source.IsValid() || source.IsLoopback() || slices.Contains(plan.Node.Addrs, source)
	fromPod := slices.ContainsFunc(plan.Node.Pods, func(p netip.Prefix) bool { return p.Contains(source) })
	d.Inside = fromNode || fromPod

	if !d.find(plan) {
		return d
	}
	d.Action = d.Frontend.Outside
	if d.Inside {
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
		masquerade = !fromPod && len(podsOf(plan, d.Port.Family)) > 0
	}
	backends := d.Port.Backends(d.Action)
	slots := Slots(backends)
	total := 0
	for _, n := range slots {
		total += n
	}
	for i, b := range backends {
		d.Choices = append(d.Choices, Choice{b, float64(slots[i]) / float64(total), masquerade || b.Addr() == source})
	}
	return d
}

// podsOf returns the Pods' networks of a family.
func podsOf(plan *Plan, family Family) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range plan.Node.Pods {
		if FamilyOf(p.Addr()) == family {
			out = append(out, p)
		}
	}
	return out
}

// find looks for the frontend: an address of its own goes before any NodePort.
func (d *Decision) find(plan *Plan) bool {
	family := FamilyOf(d.Destination.Addr())
	local := plan.answersNodePorts(d.Destination.Addr())
	for s := range plan.Services() {
		for _, p := range s.Ports {
			if p.Family != family || p.Protocol != d.Protocol {
				continue
			}
			for i := range p.Frontends {
				f := &p.Frontends[i]
				if f.Port != d.Destination.Port() || f.Kind == NodePort && !local || f.Kind != NodePort && f.Addr != d.Destination.Addr() {
					continue
				}
				d.Service, d.Port, d.Frontend = s.Name, p, f
				if f.Kind != NodePort {
					return true
				}
			}
		}
	}
	return d.Frontend != nil
}

// answersNodePorts reports whether NodePorts are served on an address of the
// node. A loopback address does not answer them.
func (p *Plan) answersNodePorts(a netip.Addr) bool {
	if !slices.Contains(p.Node.Addrs, a) {
		return false
	}
	restricted := slices.DeleteFunc(slices.Clone(p.Node.NodePorts), func(n netip.Prefix) bool { return n.Addr().Is4() != a.Is4() })
	return len(restricted) == 0 || slices.ContainsFunc(restricted, func(n netip.Prefix) bool { return n.Contains(a) })
}

// String explains the decision.
func (d Decision) String() string {
	var b strings.Builder
	from := "this node"
	if d.Source.IsValid() {
		from = d.Source.String()
	}
	fmt.Fprintf(&b, "%s -> %s %s\n", from, d.Protocol, d.Destination)
	if d.Frontend == nil {
		b.WriteString("  no Service answers there: the packet goes on unchanged\n")
		return b.String()
	}
	fmt.Fprintf(&b, "  Service %s, %s, port %d", d.Service, d.Frontend.Kind, d.Port.Port)
	field(&b, " ", d.Port.Name)
	b.WriteByte('\n')
	if d.Port.Split.Name != "" {
		fmt.Fprintf(&b, "  weights by %s\n", d.Port.Split)
	}
	switch {
	case d.Refused:
		fmt.Fprintf(&b, "  dropped: only %s may connect\n", join(d.Frontend.Sources))
	case d.Action == Reject:
		b.WriteString("  rejected: no endpoint is ready\n")
	case d.Action == Drop:
		b.WriteString("  dropped: the traffic policy is Local, and no endpoint of this node is ready\n")
	case d.Action == ToCluster && d.Frontend.Inside != d.Frontend.Outside:
		b.WriteString("  to all endpoints: the traffic policy Local is for connections from outside the cluster\n")
	case d.Action == ToLocal:
		b.WriteString("  to the endpoints of this node: the traffic policy is Local\n")
	}
	if d.Port.Affinity != 0 && len(d.Choices) > 0 {
		fmt.Fprintf(&b, "  the client stays with its endpoint for %s after its last connection\n", d.Port.Affinity)
	}
	for _, c := range d.Choices {
		fmt.Fprintf(&b, "  %5.1f%%  %s", 100*c.Probability, c.AddrPort)
		if c.Place == Here {
			b.WriteString(" on this node")
		}
		if c.Masquerade {
			b.WriteString(", masqueraded")
		}
		b.WriteByte('\n')
	}
	return b.String()
}
