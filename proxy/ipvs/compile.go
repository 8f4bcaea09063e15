package ipvs

import (
	"net/netip"
	"slices"
	"time"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// serviceState is what a Service needs of the kernel.
type serviceState struct {
	servers  map[serverID]*server
	elements map[elementKey]string
	// addresses are to be bound; true: a load balancer's or an external one,
	// whose open ports others probe.
	addresses map[netip.Addr]bool
	chains    map[chainKey]chainSpec
	marks     []markKey
	problems  []proxy.Problem
	plan      *proxy.Service
	// local tells that there are servers with the machine's own addresses.
	local bool
	// retired tells that no Service needs this any more.
	retired bool
}

// compiler turns the plan of a Service into what the kernel needs to have.
type compiler struct {
	scheduler string // for Services that ask for none
	available func(scheduler string) bool
	marks     *marks
	// local are the machine's addresses that NodePorts answer on.
	local func(proxy.Family) []netip.Addr
}

// compile returns nil for the plan of a Service that is gone.
func (c *compiler) compile(s *proxy.Service) *serviceState {
	if s == nil {
		return nil
	}
	out := &serviceState{servers: map[serverID]*server{}, elements: map[elementKey]string{}, addresses: map[netip.Addr]bool{}, chains: map[chainKey]chainSpec{}, plan: s}
	scheduler := c.choose(s, out)
	for _, p := range s.Ports {
		for i := range p.Frontends {
			c.frontend(p, &p.Frontends[i], scheduler, out)
		}
		out.hairpins(p)
		if s.HealthCheckNodePort != 0 {
			key := string([]byte{byte(s.HealthCheckNodePort >> 8), byte(s.HealthCheckNodePort)})
			out.elements[elementKey{place{p.Family, setOpenPorts}, key}] = ""
		}
	}
	return out
}

// choose returns the scheduler of a Service.
func (c *compiler) choose(s *proxy.Service, out *serviceState) string {
	name := s.Scheduler
	if name == "" {
		return c.scheduler
	}
	if _, known := schedulers[name]; !known {
		out.problem("UnknownScheduler", "scheduler "+name+" is not known; "+c.scheduler+" is used")
		return c.scheduler
	}
	if name != c.scheduler && !c.available(name) {
		out.problem("SchedulerUnavailable", "the kernel has no scheduler "+name+"; "+c.scheduler+" is used; load the module ip_vs_"+name)
		return c.scheduler
	}
	return name
}

func (s *serviceState) problem(reason, message string) {
	s.problems = append(s.problems, proxy.Problem{Reason: reason, Message: message})
}

// frontend adds what a frontend needs.
func (c *compiler) frontend(p *proxy.Port, f *proxy.Frontend, scheduler string, out *serviceState) {
	key := f.Key(p)
	spec := chainSpec{nodePort: f.Kind == proxy.NodePort, inside: target{f.Inside, false}, outside: target{f.Outside, false},
		masquerade: f.Masquerade, sources: f.Sources != nil}
	if f.Inside == proxy.Reject && f.Outside == proxy.Reject {
		spec.sources = false
	}
	differ := f.Inside != f.Outside
	// Of a server with a mark, the kernel's persistence does not translate ports,
	// so those with affinity are by address: from outside, where the others have
	// another set. These stay with a destination as the client's address has it.
	spec.inside.marked = spec.nodePort && p.Affinity == 0 || differ && p.Affinity > 0
	spec.outside.marked = p.Affinity == 0 && (spec.nodePort || differ)
	byAddress := f.Inside
	if spec.inside.marked {
		byAddress = f.Outside
	}
	if spec.inside.marked && !c.mark(p, f, false, scheduler, out) {
		return
	}
	if spec.outside.marked && differ && !c.mark(p, f, true, scheduler, out) {
		return
	}
	switch {
	case spec.inside.marked && spec.outside.marked:
	case spec.nodePort:
		out.local = true
		for _, a := range c.local(p.Family) {
			out.servers[serverID{family: p.Family, protocol: p.Protocol, addr: netip.AddrPortFrom(a, f.Port)}] = newServer(p, key, byAddress, scheduler)
		}
	default:
		out.servers[serverID{family: p.Family, protocol: p.Protocol, addr: netip.AddrPortFrom(f.Addr, f.Port)}] = newServer(p, key, byAddress, scheduler)
		out.addresses[f.Addr] = out.addresses[f.Addr] || f.Kind != proxy.ClusterIP
	}
	out.lead(p, f, key, spec)
}

// lead adds the elements that lead the packets of a frontend to a chain.
func (s *serviceState) lead(p *proxy.Port, f *proxy.Frontend, key proxy.FrontendKey, spec chainSpec) {
	verdict := spec.verdict()
	set := setServices
	if spec.nodePort {
		set = setNodePorts
	}
	s.elements[elementKey{place{p.Family, set}, frontendKey(key)}] = verdict
	if isChain(verdict) {
		for _, ch := range spec.chains() {
			if name := ch.verdict(); isChain(name) {
				s.chains[chainKey{p.Family, name}] = ch
			}
		}
	}
	if !spec.sources {
		return
	}
	prefix := frontendKey(key)
	for _, r := range outermost(f.Sources, p.Family) {
		first, last := bounds(r)
		k := prefix + string(first.AsSlice()) + prefix + string(last.AsSlice())
		s.elements[elementKey{place{p.Family, setSources}, k}] = ""
	}
}

// mark adds the virtual server with a mark of a frontend, if there is one left.
func (c *compiler) mark(p *proxy.Port, f *proxy.Frontend, outside bool, scheduler string, out *serviceState) bool {
	nodePort := f.Kind == proxy.NodePort
	k := markKey{f.Key(p), nodePort && outside}
	set := chainSpec{nodePort: nodePort}.marks(outside)
	mark := c.marks.of(k)
	if mark == 0 {
		out.problem("NoMarks", "there are no firewall marks left for "+k.frontend.String()+", which is not served; allow more bits")
		return false
	}
	out.marks = append(out.marks, k)
	action := f.Inside
	if outside {
		action = f.Outside
	}
	s := newServer(p, k.frontend, action, scheduler)
	if s.flags&flagPersistent != 0 {
		s.settings = settings{scheduler: c.hash(), flags: flagFallback}
	}
	out.servers[serverID{family: p.Family, protocol: p.Protocol, mark: mark}] = s
	data := markData(mark)
	out.elements[elementKey{place{p.Family, set}, frontendKey(k.frontend)}] = data
	out.elements[elementKey{place{p.Family, setServerMarks}, data}] = ""
	// From outside is from neither a Pod nor this node.
	if f.Masquerade == proxy.MasqueradeAlways || f.Masquerade == proxy.MasqueradeOffCluster {
		out.elements[elementKey{place{p.Family, setMasqueradeMarks}, data}] = ""
	}
	return true
}

// hash returns the scheduler that chooses by the client's address.
func (c *compiler) hash() string {
	if c.available("mh") { // since Linux 4.18
		return "mh"
	}
	return "sh"
}

// newServer returns the virtual server for an action.
func newServer(p *proxy.Port, key proxy.FrontendKey, a proxy.Action, scheduler string) *server {
	backends := p.Backends(a)
	s := &server{frontend: key, weights: make(map[netip.AddrPort]int, len(backends)), established: p.Established()}
	for i, n := range proxy.Slots(backends) {
		s.weights[backends[i].AddrPort] = n
	}
	s.scheduler = weigh(scheduler, s.weights)
	if scheduler == "sh" || scheduler == "mh" {
		s.flags |= flagFallback
	}
	if p.Affinity > 0 {
		s.flags |= flagPersistent
		s.timeout = uint32((p.Affinity + time.Second - 1) / time.Second)
	}
	return s
}

// hairpins adds the backends that may connect to themselves by way of this node.
func (s *serviceState) hairpins(p *proxy.Port) {
	for _, list := range [...][]proxy.Backend{p.Cluster, p.Local} {
		for _, b := range list {
			if b.Place != proxy.Elsewhere {
				a := appendAddr(make([]byte, 0, 32), b.Addr())
				s.elements[elementKey{place{p.Family, setHairpin}, string(append(a, a...))}] = ""
			}
		}
	}
}

// serves reports whether the endpoint of a destination that takes no more
// connections still serves its old ones.
func (s *server) serves(d netip.AddrPort) bool {
	if s == nil {
		return false
	}
	_, ok := slices.BinarySearchFunc(s.established, d, netip.AddrPort.Compare)
	return ok
}

// Problems implements [proxy.Limited]: the kernel lacks a scheduler, or marks.
func (e *Engine) Problems(name model.Name) []proxy.Problem {
	if s := e.services[name]; s != nil {
		return s.problems
	}
	return nil
}
