package nftables

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// slotTable holds which of a port's backends each slot has, by their indexes in
// the plan: addresses are there already.
type slotTable []uint32

// assign returns the table for new backends: who stays keeps its slots as far
// as there are as many, so that a change writes what it changes. Old are the
// backends of the table before.
func (t slotTable) assign(old, backends []proxy.Backend) slotTable {
	if len(backends) == 0 {
		return nil
	}
	counts := proxy.Slots(backends)
	out := make(slotTable, sum(counts))
	index := make(map[netip.AddrPort]int, len(backends))
	for i, b := range backends {
		index[b.AddrPort] = i
	}
	var free []int
	for i := range out {
		if i < len(t) {
			if b, ok := index[old[t[i]].AddrPort]; ok && counts[b] > 0 {
				counts[b]--
				out[i] = uint32(b)
				continue
			}
		}
		free = append(free, i)
	}
	for i, n := range counts {
		for ; n > 0 && len(free) > 0; n-- {
			out[free[0]] = uint32(i)
			free = free[1:]
		}
	}
	return out
}

// slotCount returns how many slots backends take.
func slotCount(backends []proxy.Backend) int {
	if len(backends) == 0 {
		return 0
	}
	return sum(proxy.Slots(backends))
}

func sum(counts []int) (n int) {
	for _, c := range counts {
		n += c
	}
	return min(n, localSlots)
}

// portState is a port's plan with the slots of its backends.
type portState struct {
	service        model.Name
	traffic        bool // count packets, too
	plan           *proxy.Port
	cluster, local slotTable
}

// serviceState is a Service's.
type serviceState []portState

// next returns the state for a new plan, with slots taken over from the old
// one. Nil is the plan of a Service that is gone.
func (s serviceState) next(plan *proxy.Service, traffic bool) serviceState {
	if plan == nil {
		return nil
	}
	out := make(serviceState, 0, len(plan.Ports))
	for _, p := range plan.Ports {
		var from portState
		// Both are in the plan's order.
		if i, ok := slices.BinarySearchFunc(s, p, comparePorts); ok {
			from = s[i]
		}
		next := from.next(plan.Name, p)
		next.traffic = traffic
		out = append(out, next)
	}
	return out
}

func comparePorts(a portState, b *proxy.Port) int {
	return cmp.Or(cmp.Compare(a.plan.Family, b.Family), cmp.Compare(a.plan.Protocol, b.Protocol), cmp.Compare(a.plan.Port, b.Port))
}

func (s portState) next(service model.Name, plan *proxy.Port) portState {
	out := portState{service: service, plan: plan}
	if uses(plan, proxy.ToCluster) {
		out.cluster = s.cluster.assign(s.before().Cluster, plan.Cluster)
	}
	if uses(plan, proxy.ToLocal) {
		out.local = s.local.assign(s.before().Local, plan.Local)
	}
	return out
}

// before returns the plan that the tables are of.
func (s *portState) before() *proxy.Port {
	if s.plan == nil {
		return &proxy.Port{}
	}
	return s.plan
}

func uses(p *proxy.Port, a proxy.Action) bool {
	return slices.ContainsFunc(p.Frontends, func(f proxy.Frontend) bool { return f.Inside == a || f.Outside == a })
}

// spec returns the chain of a frontend.
func (s *portState) spec(f *proxy.Frontend) chainSpec {
	to := func(a proxy.Action) target {
		switch a {
		case proxy.ToCluster:
			return target{a, len(s.cluster)}
		case proxy.ToLocal:
			return target{a, len(s.local)}
		}
		return target{action: a}
	}
	c := chainSpec{nodePort: f.Kind == proxy.NodePort, inside: to(f.Inside), outside: to(f.Outside),
		sources: f.Sources != nil, affinity: s.plan.Affinity}
	switch f.Masquerade {
	case proxy.MasqueradeFromNode:
		c.masquerade = fromNode
	case proxy.MasqueradeAlways:
		c.masquerade = always
	}
	if f.Inside == proxy.Reject && f.Outside == proxy.Reject {
		c.affinity, c.sources = 0, false
	}
	return c
}

// elements calls emit for every element of a Service, and chain for every chain
// that they go to.
func (s serviceState) elements(emit func(element), chain func(proxy.Family, chainSpec)) {
	for i := range s {
		p := &s[i]
		for j := range p.plan.Frontends {
			f := &p.plan.Frontends[j]
			p.entry(f, emit, chain)
			if p.plan.Affinity == 0 {
				p.slots(f, p.cluster, p.plan.Cluster, 0, emit)
				p.slots(f, p.local, p.plan.Local, localSlots, emit)
			} else {
				p.sticky(f, emit)
			}
		}
		p.hairpins(emit)
	}
}

// entry emits what finds the frontend.
func (s *portState) entry(f *proxy.Frontend, emit func(element), chain func(proxy.Family, chainSpec)) {
	p, spec := s.plan, s.spec(f)
	key := entryKey(p.Protocol, f)
	emit(element{entryPlace(p.Family, f), string(key), spec.verdict()})
	chain(p.Family, spec)
	if s.traffic {
		counted := setTraffic
		if f.Kind == proxy.NodePort {
			counted = setNodePortTraffic
		}
		emit(element{place{p.Family, counted}, string(key), ""})
	}
	if f.Kind == proxy.ClusterIP {
		emit(element{place{p.Family, setClusterIPs}, string(key[:f.Addr.BitLen()/8]), ""})
	}
	if spec.sources {
		for _, r := range outermost(f.Sources) {
			first, last := bounds(r)
			b := appendAddr(slices.Clone(key), first)
			b = appendAddr(append(b, key...), last)
			emit(element{place{p.Family, setSources}, string(b), ""})
		}
	}
}

// entryPlace returns the map that finds a frontend, and entryKey its key there.
func entryPlace(family proxy.Family, f *proxy.Frontend) place {
	if f.Kind == proxy.NodePort {
		return place{family, setNodePorts}
	}
	return place{family, setServices}
}

func entryKey(p proxy.Protocol, f *proxy.Frontend) []byte {
	key := make([]byte, 0, 24)
	if f.Kind != proxy.NodePort {
		key = appendAddr(key, f.Addr)
	}
	return appendPort(key, p, f.Port)
}

// numberedSets returns the sets of a frontend's slots.
func numberedSets(f *proxy.Frontend) (slots, choices, backends setID) {
	if f.Kind == proxy.NodePort {
		return setNodePortSlots, setNodePortChoices, setNodePortBackends
	}
	return setSlots, setChoices, setBackends
}

// keys returns the functions that make a frontend's keys: with a number at the
// end, and, for choices, with the address there.
func (s *portState) keys(f *proxy.Frontend) (slot, choice func(uint32) string) {
	port := appendPort(make([]byte, 0, 16), s.plan.Protocol, f.Port)
	head := port
	var addr []byte
	if f.Kind != proxy.NodePort {
		addr = appendAddr(addr, f.Addr)
		head = append(slices.Clone(addr), port...)
	}
	var buf [32]byte
	slot = func(n uint32) string { return string(appendNumber(append(buf[:0], head...), n)) }
	choice = func(n uint32) string { return string(append(appendNumber(append(buf[:0], port...), n), addr...)) }
	return slot, choice
}

// slots emits a frontend's slots.
func (s *portState) slots(f *proxy.Frontend, t slotTable, backends []proxy.Backend, from uint32, emit func(element)) {
	if len(t) == 0 {
		return
	}
	set, _, _ := numberedSets(f)
	at := place{s.plan.Family, set}
	key, _ := s.keys(f)
	for i, b := range t {
		emit(element{at, key(from + uint32(i)), addrPort(backends[b].AddrPort)})
	}
}

// sticky emits the slots of a frontend with affinity.
func (s *portState) sticky(f *proxy.Frontend, emit func(element)) {
	_, choose, translate := numberedSets(f)
	choices, backends := place{s.plan.Family, choose}, place{s.plan.Family, translate}
	slot, choice := s.keys(f)
	ids := s.numbers()
	sticks := func(from uint32, t slotTable, of []proxy.Backend) {
		for i, b := range t {
			emit(element{choices, choice(from + uint32(i)), string(appendNumber(nil, ids[of[b].AddrPort]))})
		}
	}
	sticks(0, s.cluster, s.plan.Cluster)
	sticks(localSlots, s.local, s.plan.Local)
	for b, id := range ids {
		emit(element{backends, slot(id), addrPort(b)})
	}
}

// numbers gives each backend a number of its own that depends on its address and
// the Service's port alone, so that what is remembered holds for all frontends of
// the port, and across changes and restarts. Where two meet, which is a matter of
// one in many millions, the second takes the next.
func (s *portState) numbers() map[netip.AddrPort]uint32 {
	unique := make([]netip.AddrPort, 0, len(s.cluster)+len(s.local))
	for _, b := range s.cluster {
		unique = append(unique, s.plan.Cluster[b].AddrPort)
	}
	for _, b := range s.local {
		unique = append(unique, s.plan.Local[b].AddrPort)
	}
	seed := fmt.Sprintf("%s %s %d ", s.service, s.plan.Protocol, s.plan.Port)
	slices.SortFunc(unique, netip.AddrPort.Compare)
	unique = slices.Compact(unique)
	out := make(map[netip.AddrPort]uint32, len(unique))
	taken := make(map[uint32]struct{}, len(unique))
	for _, b := range unique {
		h := fnv.New32a()
		_, _ = h.Write([]byte(seed + addrPort(b)))
		n := h.Sum32()
		for {
			if _, ok := taken[n]; !ok && n != 0 {
				break
			}
			n++
		}
		taken[n] = struct{}{}
		out[b] = n
	}
	return out
}

// hairpins emits the addresses of backends that may connect to themselves by
// way of this node.
func (s *portState) hairpins(emit func(element)) {
	for _, list := range [...][]proxy.Backend{s.plan.Cluster, s.plan.Local} {
		for _, b := range list {
			if b.Place != proxy.Elsewhere {
				a := appendAddr(make([]byte, 0, 32), b.Addr())
				emit(element{place{s.plan.Family, setHairpin}, string(append(a, a...)), ""})
			}
		}
	}
}

// bounds returns the first and the last address of a prefix.
func bounds(p netip.Prefix) (first, last netip.Addr) {
	p = p.Masked()
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ = netip.AddrFromSlice(b)
	return p.Addr(), last
}

// outermost returns the prefixes that no other one contains.
func outermost(list []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for i, p := range list {
		inside := false
		for j, o := range list {
			if i != j && o.Overlaps(p) && (o.Bits() < p.Bits() || o.Bits() == p.Bits() && j < i) {
				inside = true
			}
		}
		if !inside {
			out = append(out, p.Masked())
		}
	}
	return out
}
