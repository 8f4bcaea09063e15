package intercept

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// Config says what is to be intercepted.
type Config struct {
	// Addresses are link-local ones, or others that nobody else answers on.
	Addresses []netip.Addr
	// Service is the cluster's DNS Service, whose ClusterIPs are intercepted,
	// too, and whose endpoints take over from a server that does not answer.
	Service model.Name
	// Node is the name of this node.
	Node string
}

// CheckAddresses tells whether all of the addresses can be intercepted, on whatever
// kernel. The error joins what is wrong with each, beginning with its place, such as
// "addresses[1]".
func CheckAddresses(addresses []netip.Addr) error {
	var errs []error
	counts := map[proxy.Family]int{}
	for i, a := range addresses {
		fail := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("addresses[%d]: "+format, append([]any{i}, args...)...))
		}
		_, own := seatOf(a)
		switch {
		case !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast():
			fail("expected an address such as 169.254.20.10 that nobody else has, found %v", a)
			continue
		case own:
			fail("expected an address outside of %v, which interception uses itself, found %v", internal[proxy.FamilyOf(a)], a)
			continue
		case slices.Contains(addresses[:i], a):
			fail("expected each address once, found %v again", a)
			continue
		}
		if counts[proxy.FamilyOf(a)]++; counts[proxy.FamilyOf(a)] == maxSlots { // one is for the Service
			fail("expected at most %d addresses of a family, found %v besides", maxSlots-1, a)
		}
	}
	return errors.Join(errs...)
}

// maxEndpoints bounds how many of the ordinary endpoints a node uses, for every
// one is a rule. Which ones differs from node to node.
const maxEndpoints = 16

// Plan is what the tables are to hold. It is the same for every seat.
type Plan struct {
	Families []FamilyPlan
}

// FamilyPlan is the plan of one family's table.
type FamilyPlan struct {
	Family proxy.Family
	// Captured are the intercepted addresses by their slot. ClusterIPs come
	// last.
	Captured []netip.Addr
	// Fallback are those whose queries go to the ordinary endpoints by our own
	// rules when the server does not answer: the link-local ones, and of the
	// ClusterIPs those that would lead back to this node's server.
	Fallback []Fallback
	// UDP and TCP are the ordinary endpoints.
	UDP, TCP []netip.AddrPort
}

// Fallback is one address of [FamilyPlan.Fallback].
type Fallback struct {
	Addr netip.Addr
	// Expires says that our rules end some time after the last process has, so
	// that they do not become old: the address is a Service's.
	Expires bool
}

// MakePlan returns the plan for a snapshot. local are the addresses of this node:
// endpoints on them are this server.
func MakePlan(c Config, snap *model.Snapshot, local []netip.Addr) Plan {
	var plan Plan
	svc, _ := model.Services.Get(snap, c.Service.Namespace, c.Service.Name)
	for _, family := range []proxy.Family{proxy.IPv4, proxy.IPv6} {
		f := FamilyPlan{Family: family}
		for _, a := range c.Addresses {
			if proxy.FamilyOf(a) == family {
				f.Captured = append(f.Captured, a)
				f.Fallback = append(f.Fallback, Fallback{Addr: a})
			}
		}
		if svc != nil {
			own := f.endpoints(c, snap, local)
			for _, a := range svc.ClusterIPs {
				if proxy.FamilyOf(a) != family || slices.Contains(f.Captured, a) {
					continue
				}
				f.Captured = append(f.Captured, a)
				if own && len(f.UDP)+len(f.TCP) > 0 {
					f.Fallback = append(f.Fallback, Fallback{Addr: a, Expires: true})
				}
			}
		}
		f.Captured = f.Captured[:min(len(f.Captured), maxSlots)]
		if len(f.Captured) > 0 {
			plan.Families = append(plan.Families, f)
		}
	}
	return plan
}

// endpoints fills in the ordinary endpoints, and reports whether there are such
// that are this server.
func (f *FamilyPlan) endpoints(c Config, snap *model.Snapshot, local []netip.Addr) (own bool) {
	svc, _ := model.Services.Get(snap, c.Service.Namespace, c.Service.Name)
	for s := range model.SlicesByService.Find(snap, c.Service.String()) {
		for _, e := range s.Endpoints {
			if !e.Ready || proxy.FamilyOf(e.Addr) != f.Family {
				continue
			}
			if slices.Contains(local, e.Addr) {
				own = true
				continue
			}
			for _, p := range s.Ports {
				switch {
				case !isDNS(svc, p):
				case p.Protocol == corev1.ProtocolUDP:
					f.UDP = append(f.UDP, netip.AddrPortFrom(e.Addr, p.Port))
				case p.Protocol == corev1.ProtocolTCP:
					f.TCP = append(f.TCP, netip.AddrPortFrom(e.Addr, p.Port))
				}
			}
		}
	}
	f.UDP, f.TCP = choose(c.Node, f.UDP), choose(c.Node, f.TCP)
	return own
}

// isDNS reports whether an endpoint's port is that of the Service's port 53.
func isDNS(svc *model.Service, p model.EndpointPort) bool {
	return slices.ContainsFunc(svc.Ports, func(s model.ServicePort) bool {
		return s.Port == Port && s.Name == p.Name && s.Protocol == p.Protocol
	})
}

// choose returns the endpoints that this node uses, in order. It is the rendezvous
// of node and endpoint, so that one that comes or goes changes at most one.
func choose(node string, all []netip.AddrPort) []netip.AddrPort {
	slices.SortFunc(all, netip.AddrPort.Compare)
	all = slices.Compact(all)
	if len(all) <= maxEndpoints {
		return all
	}
	weight := make(map[netip.AddrPort]uint64, len(all))
	for _, a := range all {
		h := fnv.New64a()
		_, _ = io.WriteString(h, node)
		_, _ = h.Write(a.Addr().AsSlice())
		_, _ = h.Write([]byte{byte(a.Port() >> 8), byte(a.Port())})
		weight[a] = bits.RotateLeft64(h.Sum64()*0x9e3779b97f4a7c15, 32) // FNV's last bytes hardly mix
	}
	slices.SortFunc(all, func(a, b netip.AddrPort) int { return cmp.Compare(weight[a], weight[b]) })
	all = all[:maxEndpoints]
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all
}

// Equal reports whether two plans are the same.
func (p Plan) Equal(q Plan) bool {
	return slices.EqualFunc(p.Families, q.Families, func(a, b FamilyPlan) bool {
		return a.Family == b.Family && slices.Equal(a.Captured, b.Captured) && slices.Equal(a.Fallback, b.Fallback) &&
			slices.Equal(a.UDP, b.UDP) && slices.Equal(a.TCP, b.TCP)
	})
}

// Captures reports whether queries to an address are intercepted.
func (p Plan) Captures(a netip.Addr) bool {
	return slices.ContainsFunc(p.Families, func(f FamilyPlan) bool { return slices.Contains(f.Captured, a) })
}

// String prints the plan, a line for each fact.
func (p Plan) String() string {
	var b strings.Builder
	for _, f := range p.Families {
		for _, a := range f.Captured {
			fmt.Fprintf(&b, "%s is answered by this node", a)
			if i := slices.IndexFunc(f.Fallback, func(x Fallback) bool { return x.Addr == a }); i < 0 {
				b.WriteString(", else it is its Service\n")
				continue
			} else if f.Fallback[i].Expires {
				b.WriteString(", else for some time")
			} else {
				b.WriteString(", else")
			}
			fmt.Fprintf(&b, " by udp %v tcp %v\n", f.UDP, f.TCP)
		}
	}
	return b.String()
}
