package files

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/source"
)

// The API server's range of node ports. As there (KEP-3668), and with
// addresses (KEP-3070), the lower part is left to those who ask for a certain
// one.
const (
	nodePortMin       = 30000
	nodePortMax       = 32767
	nodePortStaticMax = 30085
)

// slot is something that only one Service may have: an address, or a node port
// with its protocol.
type slot struct {
	addr     netip.Addr
	protocol corev1.Protocol
	port     uint16
}

func (s slot) String() string {
	if s.addr.IsValid() {
		return "clusterIP " + s.addr.String()
	}
	return fmt.Sprintf("nodePort %d/%s", s.port, s.protocol)
}

// need is what a slot is needed for by its Service.
type need struct {
	family   corev1.IPFamily // of a clusterIP
	protocol corev1.Protocol // of a node port
	port     uint16          // the Service's port that the node port is for
}

// healthCheck is what a healthCheckNodePort is for.
var healthCheck = need{}

// wanted is a slot that the manifest asks for.
type wanted struct {
	slot  slot
	need  need
	field string
}

// holder is what the allocator knows of one Service.
type holder struct {
	object   *source.Object
	families []corev1.IPFamily
	explicit []wanted
	missing  []need        // to be allocated
	held     map[need]slot // what it has
	waiting  []slot        // what it asked for and another has
	before   map[need]slot // what it had before it asked for something else
	problems []source.Problem
}

// allocator gives Services their addresses and node ports, as the API server
// does on a cluster. An address is taken at a place that is a hash of the
// Service's name, or the next free one, in the order of the names; so that two
// nodes that read the same directory agree. What a Service has it keeps.
type allocator struct {
	cidrs    []netip.Prefix
	owners   map[slot]model.Key
	services map[model.Key]*holder
	waiters  map[slot]map[model.Key]struct{}
}

func newAllocator(cidrs []netip.Prefix) *allocator {
	return &allocator{cidrs: cidrs, owners: map[slot]model.Key{}, services: map[model.Key]*holder{}, waiters: map[slot]map[model.Key]struct{}{}}
}

// apply takes in Services that have changed; those without an object are gone.
// It returns the Services that are different now, complete: those, and the
// ones that waited for what they left.
func (a *allocator) apply(changes []change) map[model.Key]*model.Service {
	again := map[model.Key]struct{}{}
	for _, c := range changes {
		h := a.services[c.key]
		if h == nil {
			h = &holder{held: map[need]slot{}, before: map[need]slot{}}
			a.services[c.key] = h
		}
		h.object = c.object
		a.plan(h)
		a.release(c.key, h, again)
		if c.object == nil {
			delete(a.services, c.key)
		} else {
			again[c.key] = struct{}{}
		}
	}
	keys := slices.SortedFunc(maps.Keys(again), compareKeys)
	keys = slices.DeleteFunc(keys, func(k model.Key) bool { return a.services[k] == nil })
	for i := 0; i < len(keys); i++ {
		keys = a.claim(keys[i], keys)
	}
	for _, key := range keys {
		a.keep(key)
	}
	out := make(map[model.Key]*model.Service, len(keys))
	for _, key := range keys {
		a.allocate(key)
		out[key] = a.finish(key)
	}
	return out
}

// plan works out what a Service asks for and what it has to be given.
func (a *allocator) plan(h *holder) {
	h.families, h.explicit, h.missing, h.problems = nil, nil, nil, nil
	if h.object == nil {
		return
	}
	s := h.object.Value.(*model.Service)
	h.families = a.familiesOf(h)
	if s.Type != corev1.ServiceTypeExternalName && !s.Headless {
		for i, family := range h.families {
			if i < len(s.ClusterIPs) {
				h.explicit = append(h.explicit, wanted{slot{addr: s.ClusterIPs[i]}, need{family: family}, fmt.Sprintf("spec.clusterIPs[%d]", i)})
			} else {
				h.missing = append(h.missing, need{family: family})
			}
		}
	}
	if s.Type != corev1.ServiceTypeNodePort && s.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	for i, p := range s.Ports {
		n := need{protocol: p.Protocol, port: p.Port}
		switch {
		case p.NodePort != 0:
			h.explicit = append(h.explicit, wanted{slot{protocol: p.Protocol, port: p.NodePort}, n, fmt.Sprintf("spec.ports[%d].nodePort", i)})
		case s.Type == corev1.ServiceTypeNodePort || !requestOf(h.object).noNodePorts:
			h.missing = append(h.missing, n)
		}
	}
	if s.Type == corev1.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		if s.HealthCheckNodePort != 0 {
			h.explicit = append(h.explicit, wanted{slot{protocol: corev1.ProtocolTCP, port: s.HealthCheckNodePort}, healthCheck, "spec.healthCheckNodePort"})
		} else {
			h.missing = append(h.missing, healthCheck)
		}
	}
}

// release gives back what a Service has and no longer needs, and wakes who
// waits for it.
func (a *allocator) release(key model.Key, h *holder, again map[model.Key]struct{}) {
	for _, s := range h.waiting {
		delete(a.waiters[s], key)
		if len(a.waiters[s]) == 0 {
			delete(a.waiters, s)
		}
	}
	h.waiting = nil
	for n, s := range h.held {
		if h.keeps(n, s) {
			continue
		}
		delete(h.held, n)
		delete(a.owners, s)
		h.before[n] = s
		for waiter := range a.waiters[s] {
			again[waiter] = struct{}{}
		}
	}
}

// keeps reports whether a slot goes on serving the same need.
func (h *holder) keeps(n need, s slot) bool {
	if h.object == nil {
		return false
	}
	for _, w := range h.explicit {
		if w.need == n {
			return w.slot == s
		}
	}
	return slices.Contains(h.missing, n)
}

// claim takes what the manifest asks for, as far as it is free. It returns keys
// with those added that waited for what the Service gives back.
func (a *allocator) claim(key model.Key, keys []model.Key) []model.Key {
	h := a.services[key]
	h.problems = slices.DeleteFunc(h.problems, func(p source.Problem) bool { return p.Reason == source.ReasonConflict })
	for _, s := range h.waiting {
		delete(a.waiters[s], key)
	}
	h.waiting = nil
	for _, w := range h.explicit {
		owner, taken := a.owners[w.slot]
		switch {
		case !taken:
			if kept, has := h.held[w.need]; has {
				delete(a.owners, kept)
				for _, waiter := range slices.SortedFunc(maps.Keys(a.waiters[kept]), compareKeys) {
					if !slices.Contains(keys, waiter) {
						keys = append(keys, waiter)
					}
				}
			}
			a.owners[w.slot] = key
			h.held[w.need] = w.slot
			delete(h.before, w.need)
		case owner != key:
			h.waiting = append(h.waiting, w.slot)
			if a.waiters[w.slot] == nil {
				a.waiters[w.slot] = map[model.Key]struct{}{}
			}
			a.waiters[w.slot][key] = struct{}{}
		}
	}
	return keys
}

// keep gives a Service back what it had before, where it asked for something
// else that it cannot have: an edit that is a mistake does not take it down.
func (a *allocator) keep(key model.Key) {
	h := a.services[key]
	for _, w := range h.explicit {
		owner := a.owners[w.slot]
		if owner == key {
			continue
		}
		if s, had := h.before[w.need]; had {
			if _, taken := a.owners[s]; !taken {
				a.owners[s], h.held[w.need] = key, s
			}
		}
		instead := "goes without it"
		if s, has := h.held[w.need]; has {
			instead = "keeps " + s.String()
		}
		h.problems = append(h.problems, problem(key, source.ReasonConflict, fmt.Errorf("%s: the %s belongs to %s; this Service %s", w.field, w.slot, owner, instead)))
	}
	clear(h.before)
}

// allocate gives the Service what it needs and did not ask for by value.
func (a *allocator) allocate(key model.Key) {
	h := a.services[key]
	for _, n := range h.missing {
		if _, has := h.held[n]; has {
			continue
		}
		var s slot
		var ok bool
		switch {
		case n.family != "":
			s, ok = a.freeAddr(key, n.family)
		case n == healthCheck:
			s, ok = a.freePort(key, corev1.ProtocolTCP, "health")
		default:
			// Without the protocol, so that DNS gets one number for both.
			s, ok = a.freePort(key, n.protocol, strconv.Itoa(int(n.port)))
		}
		if !ok {
			err := errors.New("no node port is left")
			if n.family != "" {
				err = fmt.Errorf("no %s address is left in the ranges of Services", n.family)
			}
			h.problems = append(h.problems, problem(key, source.ReasonConflict, err))
			continue
		}
		a.owners[s], h.held[n] = key, s
	}
}

// finish returns the Service as the model has it.
func (a *allocator) finish(key model.Key) *model.Service {
	h := a.services[key]
	out := *h.object.Value.(*model.Service)
	out.Families = h.families
	out.ClusterIPs = nil
	for _, family := range h.families {
		if s, ok := h.held[need{family: family}]; ok {
			out.ClusterIPs = append(out.ClusterIPs, s.addr)
		}
	}
	out.Ports = slices.Clone(out.Ports)
	for i := range out.Ports {
		p := &out.Ports[i]
		p.NodePort = h.held[need{protocol: p.Protocol, port: p.Port}].port
	}
	out.HealthCheckNodePort = h.held[healthCheck].port
	return &out
}

func problem(key model.Key, reason source.Reason, err error) source.Problem {
	return source.Problem{Object: key.String(), Key: key, HasKey: true, Reason: reason, Err: err}
}

// problems returns what is wrong with a Service's addresses and ports.
func (a *allocator) problems(key model.Key) []source.Problem {
	if h := a.services[key]; h != nil {
		return h.problems
	}
	return nil
}

func hashOf(parts ...string) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		_, _ = h.Write([]byte(p))
		_, _ = h.Write([]byte{0})
	}
	return h.Sum64()
}

func (a *allocator) freePort(key model.Key, protocol corev1.Protocol, what string) (slot, bool) {
	const first, count = nodePortStaticMax + 1, nodePortMax - nodePortMin + 1
	start := int(hashOf(key.Namespace, key.Name, what) % (nodePortMax - nodePortStaticMax))
	for i := range count {
		n := first - nodePortMin + start + i
		if n >= count {
			n -= count // the lower part comes last
		}
		s := slot{protocol: protocol, port: uint16(nodePortMin + n)}
		if _, taken := a.owners[s]; !taken {
			return s, true
		}
	}
	return slot{}, false
}

// maxProbes bounds the search for a free address in a huge range that is
// nearly full.
const maxProbes = 1 << 20

func (a *allocator) freeAddr(key model.Key, family corev1.IPFamily) (slot, bool) {
	for _, cidr := range a.cidrs {
		if familyOf(cidr) != family {
			continue
		}
		bits := min(cidr.Addr().BitLen()-cidr.Bits(), 32)
		size := uint64(1) << bits
		if size < 4 {
			continue
		}
		// KEP-3070: min(max(16, size/16), 256), but not the whole of a small
		// range.
		static := min(max(16, size/16), 256, size/2)
		last := size - 1
		if family == corev1.IPv4Protocol {
			last-- // the broadcast address
		}
		dynamic := last - static + 1
		start := hashOf(key.Namespace, key.Name) % dynamic
		for i := range min(dynamic, maxProbes) {
			s := slot{addr: offset(cidr, static+(start+i)%dynamic)}
			if _, taken := a.owners[s]; !taken {
				return s, true
			}
		}
		for n := uint64(1); n < static; n++ {
			s := slot{addr: offset(cidr, n)}
			if _, taken := a.owners[s]; !taken {
				return s, true
			}
		}
	}
	return slot{}, false
}

// offset returns the n-th address of a range.
func offset(p netip.Prefix, n uint64) netip.Addr {
	if p.Addr().Is4() {
		b := p.Addr().As4()
		add(b[:], n)
		return netip.AddrFrom4(b)
	}
	b := p.Addr().As16()
	add(b[:], n)
	return netip.AddrFrom16(b)
}

func add(b []byte, n uint64) {
	for i := len(b) - 1; i >= 0 && n > 0; i-- {
		n += uint64(b[i])
		b[i] = byte(n)
		n >>= 8
	}
}
