package proxy

import (
	"iter"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
)

// endpoint is one that a Service port has, usable or not.
type endpoint struct {
	*model.Endpoint
	addr   netip.AddrPort
	weight uint64 // relative to the other endpoints of the same share
	share  int    // index into the split's backends; 0 without a split
	parts  uint64 // the share's weight
	place  Place
}

// portID is what a Service's port and an EndpointSlice's have in common.
type portID struct {
	name     string
	family   Family
	protocol Protocol
}

// slicePort is a slice that has a port, by its number there.
type slicePort struct {
	slice *model.EndpointSlice
	port  uint16
}

// manyPorts is the number of a Service's ports from which on its slices are
// looked up by port.
const manyPorts = 16

// slicesOf yields the slices of a Service, other than those that are none of
// our business.
func (p *Planner) slicesOf(snap *model.Snapshot, svc *model.Service) iter.Seq[*model.EndpointSlice] {
	return func(yield func(*model.EndpointSlice) bool) {
		for slice := range model.SlicesByService.Find(snap, svc.Namespace+"/"+svc.Name) {
			if (p.anybodys || p.labelled(&slice.Meta)) && !yield(slice) {
				return
			}
		}
	}
}

// portsOf calls each for every port of a slice that can be used.
func portsOf(slice *model.EndpointSlice, each func(portID, slicePort)) {
	family := IPv4
	if slice.IPv6 {
		family = IPv6
	}
	for i := range slice.Ports {
		port := &slice.Ports[i]
		if proto, ok := protocol(port.Protocol); ok && port.Port != 0 {
			each(portID{port.Name, family, proto}, slicePort{slice, port.Port})
		}
	}
}

// endpoints appends the endpoints of a Service port in one family.
func (p *Planner) endpoints(to []endpoint, snap *model.Snapshot, svc *model.Service, portName string, family Family, proto Protocol) []endpoint {
	want := portID{portName, family, proto}
	if len(svc.Ports) < manyPorts {
		for slice := range p.slicesOf(snap, svc) {
			found := false
			portsOf(slice, func(id portID, sp slicePort) {
				if id == want && !found {
					found = true
					to = p.endpointsOf(to, sp, family)
				}
			})
		}
		return to
	}
	key := portID{svc.Namespace + "/" + svc.Name, 0, 0} // holds what has been looked up
	if _, ok := p.backends[key]; !ok {
		p.backends = map[portID][]slicePort{key: nil}
		for slice := range p.slicesOf(snap, svc) {
			portsOf(slice, func(id portID, sp slicePort) {
				if list := p.backends[id]; len(list) == 0 || list[len(list)-1].slice != slice {
					p.backends[id] = append(list, sp)
				}
			})
		}
	}
	for _, sp := range p.backends[want] {
		to = p.endpointsOf(to, sp, family)
	}
	return to
}

func (p *Planner) endpointsOf(to []endpoint, sp slicePort, family Family) []endpoint {
	for i := range sp.slice.Endpoints {
		e := &sp.slice.Endpoints[i]
		if FamilyOf(e.Addr) != family {
			continue
		}
		to = append(to, endpoint{
			Endpoint: e,
			addr:     netip.AddrPortFrom(e.Addr, sp.port),
			weight:   uint64(max(sp.slice.Weight, 0)),
			parts:    1,
			place:    p.place(e),
		})
	}
	return to
}

func (p *Planner) place(e *model.Endpoint) Place {
	switch e.Node {
	case "":
		return Unknown
	case p.cfg.Node:
		return Here
	}
	return Elsewhere
}

// unique orders endpoints by address and leaves one of those that several
// slices have, as they do while a controller moves them: the most usable one.
func unique(all []endpoint) []endpoint {
	rank := func(e endpoint) int {
		switch {
		case e.Ready:
			return 0
		case e.Serving:
			return 1
		}
		return 2
	}
	slices.SortFunc(all, func(a, b endpoint) int {
		if c := a.addr.Compare(b.addr); c != 0 {
			return c
		}
		if c := a.share - b.share; c != 0 {
			return c
		}
		return rank(a) - rank(b)
	})
	return slices.CompactFunc(all, func(a, b endpoint) bool { return a.addr == b.addr && a.share == b.share })
}

// topology is which endpoints hints leave to this node.
type topology uint8

const (
	anywhere topology = iota
	sameZone
	sameNode
)

// hinted returns the topology that the hints of the ready endpoints ask for.
// Hints hold only if all ready endpoints have them and one is meant for this
// node: otherwise some node or zone would be overloaded, or left without any.
func hinted(all []endpoint, node Node) topology {
	allNode, allZone, myNode, myZone := true, true, false, false
	for _, e := range all {
		if !e.Ready {
			continue
		}
		allNode = allNode && len(e.ForNodes()) > 0
		allZone = allZone && len(e.ForZones()) > 0
		myNode = myNode || slices.Contains(e.ForNodes(), node.Name)
		myZone = myZone || slices.Contains(e.ForZones(), node.Zone)
	}
	switch {
	case allNode && myNode:
		return sameNode
	case allZone && myZone && node.Zone != "":
		return sameZone
	}
	return anywhere
}

// categorize returns the usable endpoints of either traffic policy: those that
// are ready, or if none is, those that terminate and still serve, for each
// policy on its own (KEP-1669). Hints concern the Cluster policy only. An
// endpoint of weight 0 is being drained and takes no connections.
func categorize(all []endpoint, node Node) (cluster, local []Backend) {
	hints := hinted(all, node)
	ready := func(e *endpoint) bool { return e.Ready && e.weight > 0 && e.parts > 0 }
	serving := func(e *endpoint) bool { return e.Serving && e.Terminating && e.weight > 0 && e.parts > 0 }
	cluster = backends(all, func(e *endpoint) bool {
		return ready(e) && (hints == anywhere || hints == sameNode && slices.Contains(e.ForNodes(), node.Name) ||
			hints == sameZone && slices.Contains(e.ForZones(), node.Zone))
	})
	if cluster == nil && hints != anywhere {
		// All that the hints leave us are drained.
		cluster = backends(all, ready)
	}
	if cluster == nil {
		cluster = backends(all, serving)
	}
	local = backends(all, func(e *endpoint) bool { return e.place == Here && ready(e) })
	if local == nil {
		local = backends(all, func(e *endpoint) bool { return e.place == Here && serving(e) })
	}
	if slices.Equal(local, cluster) {
		local = cluster // the usual case; shares the memory
	}
	return cluster, local
}

// backends returns the endpoints that use picks, with their weights reduced.
func backends(all []endpoint, use func(*endpoint) bool) []Backend {
	n := 0
	for i := range all {
		if use(&all[i]) {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	used := make([]*endpoint, 0, n)
	for i := range all {
		if use(&all[i]) {
			used = append(used, &all[i])
		}
	}
	weights := reduce(used)
	out := make([]Backend, 0, n)
	for i, e := range used {
		if last := len(out) - 1; last >= 0 && out[last].AddrPort == e.addr {
			out[last].Weight += weights[i] // in two shares of a split
			continue
		}
		out = append(out, Backend{AddrPort: e.addr, Weight: weights[i], Place: e.place})
	}
	return out
}

// kept returns the endpoints that still serve and are in none of the sets.
func kept(all []endpoint, sets ...[]Backend) []netip.AddrPort {
	var out []netip.AddrPort
	for i := range all {
		e := &all[i]
		if !e.Serving && !e.Ready || len(out) > 0 && out[len(out)-1] == e.addr {
			continue
		}
		if !slices.ContainsFunc(sets, func(set []Backend) bool { return has(set, e.addr) }) {
			out = append(out, e.addr)
		}
	}
	return slices.Clip(out)
}

// has looks for an address in a set, which is ordered by it.
func has(set []Backend, addr netip.AddrPort) bool {
	_, found := slices.BinarySearchFunc(set, addr, func(b Backend, a netip.AddrPort) int { return b.Compare(a) })
	return found
}

// localReady counts the addresses of ready endpoints on this node, of all ports
// and families. Endpoints that terminate do not count.
func (p *Planner) localReady(snap *model.Snapshot, svc *model.Service) int {
	var addrs []netip.Addr
	for slice := range p.slicesOf(snap, svc) {
		for i := range slice.Endpoints {
			if e := &slice.Endpoints[i]; e.Ready && p.place(e) == Here && !slices.Contains(addrs, e.Addr) {
				addrs = append(addrs, e.Addr)
			}
		}
	}
	return len(addrs)
}

// findSplit returns the split of the connections to a port, or nil.
func findSplit(snap *model.Snapshot, svc *model.Service, port *model.ServicePort) *model.Split {
	if model.Splits.Len(snap) == 0 {
		return nil
	}
	split, ok := model.Splits.Get(snap, svc.Namespace, splitName(svc.Name, port.Port))
	if !ok || !sameProtocol(split.Protocol, port.Protocol) {
		return nil
	}
	return split
}

func sameProtocol(a, b corev1.Protocol) bool {
	pa, _ := protocol(a)
	pb, _ := protocol(b)
	return pa == pb
}

// matches reports whether the Pod's labels have all of the selector.
func matches(pod *model.Pod, selector map[string]string) bool {
	for k, v := range selector {
		if pod.Labels[k] != v {
			return false
		}
	}
	return true
}

func containsText(problems []Problem, message string) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return strings.Contains(p.Message, message) })
}
