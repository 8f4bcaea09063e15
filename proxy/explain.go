package proxy

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
)

// String explains the decision.
func (d Decision) String() string {
	var b strings.Builder
	from := "this node"
	if d.Source.IsValid() {
		from = d.Source.String()
	}
	fmt.Fprintf(&b, "%s -> %s %s\n", from, d.Protocol, d.Destination)
	if d.Frontend == nil {
		switch d.Miss {
		case UnknownPort:
			fmt.Fprintf(&b, "  rejected: Service %s has the address, but no %s port %d\n", d.Service, d.Protocol, d.Destination.Port())
		case Unallocated:
			b.WriteString("  dropped: the address is in a range of ClusterIPs, and no Service has it\n")
		default:
			b.WriteString("  no Service answers there: the packet goes on unchanged\n")
		}
		return b.String()
	}
	fmt.Fprintf(&b, "  Service %s, %s, port %d", d.Service, d.Frontend.Kind, d.Port.Port)
	field(&b, " ", d.Port.Name)
	b.WriteByte('\n')
	if d.Relayed {
		b.WriteString("  relayed by a process of this node, since packets from a loopback address cannot leave it\n")
	}
	if d.PodInterfaces != nil && (d.Frontend.Inside != d.Frontend.Outside || d.Frontend.Masquerade != MasqueradeAlways) {
		fmt.Fprintf(&b, "  taken for a source outside the cluster: Pods are told by their interface (%s), which an address does not tell\n", strings.Join(d.PodInterfaces, ", "))
	}
	if d.Port.Split.Name != "" {
		fmt.Fprintf(&b, "  weights by %s\n", d.Port.Split)
	}
	switch {
	case d.Refused:
		fmt.Fprintf(&b, "  dropped: only %s may connect\n", sourcesText(d.Frontend.Sources))
	case d.Action == Reject && d.Relayed && d.Frontend.Outside == Drop:
		b.WriteString("  rejected: the traffic policy is Local, and no endpoint of this node is ready\n")
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

// outcome says in a few words what becomes of a connection.
func outcome(found bool, miss Miss, action Action, refused bool) string {
	switch {
	case refused:
		return "drops it for its source"
	case !found && miss == NotOurs:
		return "lets it go on unchanged"
	case !found && miss == UnknownPort:
		return "rejects it, as to a port that the Service does not have"
	case !found:
		return "drops it, as to an address of no Service"
	case action == Reject:
		return "rejects it"
	case action == Drop:
		return "drops it"
	}
	return "sends it to an endpoint"
}

// sameShare is how far the shares of an endpoint may be apart that count as the
// same: engines keep proportions in steps.
const sameShare = 0.005

// Compare says in words where what the kernel does differs from the plan. It
// returns nothing where they agree, and for a connection that is relayed, which
// the kernel's rules do not concern.
func (d Decision) Compare(o Observed) []string {
	if d.Relayed {
		return nil
	}
	plan, kernel := outcome(d.Frontend != nil, d.Miss, d.Action, d.Refused), outcome(o.Found, o.Miss, o.Action, o.Refused)
	if plan != kernel {
		return []string{"the plan " + plan + ", the kernel " + kernel}
	}
	var out []string
	say := func(backend netip.AddrPort, format string, args ...any) {
		out = append(out, backend.String()+": "+fmt.Sprintf(format, args...))
	}
	at := func(list []Choice, b netip.AddrPort) int {
		return slices.IndexFunc(list, func(c Choice) bool { return c.AddrPort == b })
	}
	for _, c := range d.Choices {
		i := at(o.Choices, c.AddrPort)
		if i < 0 {
			say(c.AddrPort, "the plan has this endpoint, the kernel does not")
			continue
		}
		k := o.Choices[i]
		if math.Abs(k.Probability-c.Probability) > sameShare {
			say(c.AddrPort, "the plan gives it %.1f%% of the connections, the kernel %.1f%%", 100*c.Probability, 100*k.Probability)
		}
		// A backend of another node comes to itself by way of that node.
		if k.Masquerade != c.Masquerade && (c.Addr() != d.Source || c.Place != Elsewhere) {
			say(c.AddrPort, "%s", map[bool]string{
				true:  "the plan masquerades connections to it, the kernel does not",
				false: "the kernel masquerades connections to it, the plan does not",
			}[c.Masquerade])
		}
	}
	for _, k := range o.Choices {
		if at(d.Choices, k.AddrPort) < 0 {
			say(k.AddrPort, "the kernel has this endpoint, the plan does not")
		}
	}
	return out
}
