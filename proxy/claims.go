package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
)

// want is a frontend that a Service asks for.
type want struct {
	Frontend
	key  FrontendKey
	port *model.ServicePort
	// index is that of the address in its list.
	index int
}

// field names the field of the Service that asks.
func (w *want) field() string {
	switch w.Kind {
	case ClusterIP:
		return fmt.Sprintf("spec.clusterIPs[%d]", w.index)
	case ExternalIP:
		return fmt.Sprintf("spec.externalIPs[%d]", w.index)
	case LoadBalancer:
		return "status.loadBalancer.ingress"
	}
	return "spec.ports[" + portText(w.port) + "].nodePort"
}

// claim settles who has which frontend, for the Services of dirty, and returns
// what these want. Services that win or lose one thereby become dirty too.
//
// The first to ask keeps it, and if two come at once, the elder, then the one
// whose name sorts first: a new mistake must not break what works.
func (p *Planner) claim(snap *model.Snapshot, dirty map[model.Name]struct{}) map[model.Name][]want {
	type claimant struct {
		name    model.Name
		created time.Time
	}
	names := make([]claimant, 0, len(dirty))
	for name := range dirty {
		c := claimant{name: name}
		if svc, ok := model.Services.Get(snap, name.Namespace, name.Name); ok {
			c.created = svc.Created
		}
		names = append(names, c)
	}
	slices.SortFunc(names, func(a, b claimant) int {
		if c := a.created.Compare(b.created); c != 0 {
			return c
		}
		return compareNames(a.name, b.name)
	})
	wanted := make(map[model.Name][]want, len(names))
	touched := map[model.Name]struct{}{}
	for _, c := range names {
		name := c.name
		wanted[name] = p.wants(snap, name)
		if old := p.plan.Service(name); old != nil {
			p.release(name, old, wanted[name], touched)
		}
	}
	for _, c := range names {
		name := c.name
		for _, w := range wanted[name] {
			owner, taken := p.claims[w.key]
			switch {
			case !taken:
				p.claims[w.key] = name
			case owner != name && !slices.Contains(p.waiting[w.key], name):
				p.waiting[w.key] = append(p.waiting[w.key], name)
			}
		}
	}
	for name := range touched {
		if _, ok := dirty[name]; !ok {
			dirty[name] = struct{}{}
			wanted[name] = p.wants(snap, name)
		}
	}
	return wanted
}

// release gives up what the Service had or waited for and no longer wants.
func (p *Planner) release(name model.Name, old *Service, wanted []want, touched map[model.Name]struct{}) {
	still := make(map[FrontendKey]struct{}, len(wanted))
	for i := range wanted {
		still[wanted[i].key] = struct{}{}
	}
	drop := func(key FrontendKey) {
		if _, ok := still[key]; ok {
			return
		}
		waiting := p.waiting[key]
		switch {
		case p.claims[key] != name:
			waiting = slices.DeleteFunc(waiting, func(n model.Name) bool { return n == name })
		case len(waiting) > 0:
			// The others that wait learn who has it now.
			for _, n := range waiting {
				touched[n] = struct{}{}
			}
			p.claims[key], waiting = waiting[0], waiting[1:]
		default:
			delete(p.claims, key)
		}
		if len(waiting) > 0 {
			p.waiting[key] = waiting
		} else {
			delete(p.waiting, key)
		}
	}
	for _, port := range old.Ports {
		for i := range port.Frontends {
			drop(port.Frontends[i].Key(port))
		}
	}
	for _, problem := range old.Problems {
		if problem.Lost != (FrontendKey{}) {
			drop(problem.Lost)
		}
	}
}

// assign gives the ports of s the frontends that the Service has, and tells of
// those that another one has.
func (p *Planner) assign(s *Service, wanted []want) {
	seen := make(map[FrontendKey]uint16, len(wanted))
	for i := range wanted {
		w := &wanted[i]
		at, ok := slices.BinarySearchFunc(s.Ports, Port{Family: w.key.Family, Protocol: w.key.Protocol, Port: w.port.Port},
			func(a *Port, b Port) int { return comparePorts(a, &b) })
		if !ok {
			continue
		}
		port := s.Ports[at]
		if other, ok := seen[w.key]; ok {
			if other != w.port.Port || w.Kind == ClusterIP {
				s.problem("DuplicatePort", w.field()+": expected "+w.key.String()+" once, found it in two ports of the Service")
			}
			continue
		}
		seen[w.key] = w.port.Port
		if owner := p.claims[w.key]; owner != s.Name {
			s.Problems = append(s.Problems, Problem{
				Reason:  "AddressConflict",
				Message: w.field() + ": " + w.Kind.String() + " " + w.key.String() + " belongs to Service " + owner.String(),
				Lost:    w.key,
			})
			continue
		}
		f := w.Frontend
		toCluster, toLocal := Reject, Reject
		if len(port.Cluster) > 0 {
			toCluster, toLocal = ToCluster, Drop
		}
		if len(port.Local) > 0 {
			toLocal = ToLocal
		}
		f.Inside, f.Outside = resolve(f.Inside, toCluster, toLocal), resolve(f.Outside, toCluster, toLocal)
		port.Frontends = append(port.Frontends, f)
	}
}

func resolve(policy, toCluster, toLocal Action) Action {
	if policy == ToLocal {
		return toLocal
	}
	return toCluster
}

// wants lists the frontends that a Service asks for, with the traffic policy in
// place of the actions.
func (p *Planner) wants(snap *model.Snapshot, name model.Name) []want {
	svc, ok := model.Services.Get(snap, name.Namespace, name.Name)
	if !ok || !p.mine(svc) {
		return nil
	}
	fams := families(svc)
	wants := make([]want, 0, len(svc.Ports)*(len(svc.ClusterIPs)+len(svc.ExternalIPs)+len(svc.LoadBalancerIPs)+1))
	for i := range svc.Ports {
		port := &svc.Ports[i]
		proto, ok := protocol(port.Protocol)
		if !ok || port.Port == 0 {
			continue
		}
		add := func(f Frontend, family Family, index int) {
			if slices.Contains(fams, family) {
				wants = append(wants, want{f, FrontendKey{f.Addr, family, proto, f.Port}, port, index})
			}
		}
		inside := Frontend{Kind: ClusterIP, Port: port.Port, Inside: ToCluster, Outside: ToCluster}
		if svc.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal {
			inside.Inside, inside.Outside = ToLocal, ToLocal
		}
		if p.cfg.MasqueradeAll {
			inside.Masquerade = MasqueradeAlways
		}
		for i, addr := range svc.ClusterIPs {
			inside.Addr = addr
			add(inside, FamilyOf(addr), i)
		}
		outside := Frontend{Port: port.Port, Inside: ToCluster, Outside: ToCluster, Masquerade: MasqueradeAlways}
		if externalLocal(svc) {
			outside.Outside, outside.Masquerade = ToLocal, MasqueradeFromNode
		}
		outside.Kind = ExternalIP
		for i, addr := range svc.ExternalIPs {
			outside.Addr = addr
			add(outside, FamilyOf(addr), i)
		}
		outside.Kind = LoadBalancer
		if svc.Type == corev1.ServiceTypeLoadBalancer {
			for i, addr := range svc.LoadBalancerIPs {
				outside.Addr, outside.Sources = addr, p.sources(svc, addr)
				add(outside, FamilyOf(addr), i)
			}
		}
		if port.NodePort != 0 && (svc.Type == corev1.ServiceTypeNodePort || svc.Type == corev1.ServiceTypeLoadBalancer) {
			outside.Kind, outside.Addr, outside.Port, outside.Sources = NodePort, netip.Addr{}, port.NodePort, nil
			for _, family := range fams {
				add(outside, family, 0)
			}
		}
	}
	return wants
}

// sources returns who may connect to a load balancer's address. If one of the
// node's own addresses may, so may all of them and the address itself: where it
// is bound on the node, connections from the node to it have it as their source.
func (p *Planner) sources(svc *model.Service, addr netip.Addr) []netip.Prefix {
	if len(svc.SourceRanges) == 0 {
		return nil
	}
	ranges := []netip.Prefix{}
	self := false
	for _, r := range svc.SourceRanges {
		if r.Addr().Is4() != addr.Is4() {
			continue
		}
		ranges = append(ranges, r.Masked())
		self = self || slices.ContainsFunc(p.here.Addrs, r.Contains)
	}
	if self {
		ranges = append(ranges, netip.PrefixFrom(addr, addr.BitLen()))
		for _, a := range p.here.Addrs {
			if a.BitLen() == addr.BitLen() && !slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Contains(a) }) {
				ranges = append(ranges, netip.PrefixFrom(a, a.BitLen()))
			}
		}
	}
	return ranges
}

func (k FrontendKey) portText() string {
	return k.Protocol.String() + "/" + strconv.Itoa(int(k.Port))
}
