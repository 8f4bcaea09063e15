package proxy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/btree"
	"github.com/sluicenet/sluice/model"
)

// Config is what a [Planner] must be told.
type Config struct {
	Node string // name of the node that the plan is for
	// DetectLocal says how connections of Pods are told from others.
	DetectLocal DetectLocal
	// ClusterCIDRs are the networks of all Pods of the cluster. Empty: only
	// the node's own Pods are known, from its Node object.
	ClusterCIDRs []netip.Prefix
	// PodInterfaces are the bridges that Pods are at or, for
	// [DetectInterfaceNamePrefix], how the names of their interfaces begin.
	PodInterfaces []string
	// NodePorts are the local addresses that answer NodePorts.
	NodePorts NodePortAddresses
	// ServiceCIDRs are ranges of ClusterIPs, besides those of the cluster's
	// ServiceCIDR objects (KEP-1880).
	ServiceCIDRs  []netip.Prefix
	MasqueradeAll bool // masquerade all connections to ClusterIPs
	// ProxyName selects the Services and EndpointSlices whose label
	// service.kubernetes.io/service-proxy-name has this value; empty: those
	// without the label, whatever its value.
	ProxyName string
}

const labelProxyName = "service.kubernetes.io/service-proxy-name"

// Planner makes plans, each from the one before and what changed. It belongs to
// one goroutine; the plans belong to everybody.
type Planner struct {
	cfg     Config
	plan    *Plan
	here    Node                         // of the update in progress
	claims  map[FrontendKey]model.Name   // who has a frontend
	waiting map[FrontendKey][]model.Name // who else wants it, in order
	// splitTo holds, by a Service that splits send connections to, the
	// Services whose connections these are; subsetsOf the same by Pod, for
	// splits that select Pods. needs is the way back.
	splitTo   map[model.Name]map[model.Name]struct{}
	subsetsOf map[model.Name]map[model.Name]struct{}
	needs     map[model.Name]splitNeeds
	scratch   []endpoint
	// backends finds the slices of the Service in progress by port, if it has
	// many ports.
	backends map[portID][]slicePort
	// anybodys makes slices count that are for nobody or for another proxy.
	anybodys bool
}

// NewPlanner returns a planner whose first Update makes the whole plan.
func NewPlanner(cfg Config) *Planner {
	return &Planner{
		cfg: cfg,
		plan: &Plan{
			Node:      cfg.firstNode(),
			proxyName: cfg.ProxyName,
			services:  btree.New(byName),
		},
		claims:    map[FrontendKey]model.Name{},
		waiting:   map[FrontendKey][]model.Name{},
		splitTo:   map[model.Name]map[model.Name]struct{}{},
		subsetsOf: map[model.Name]map[model.Name]struct{}{},
		needs:     map[model.Name]splitNeeds{},
	}
}

// Plan returns the newest plan.
func (p *Planner) Plan() *Plan { return p.plan }

// Update makes the plan of up.New. It looks at the Services that up concerns
// and at nothing else, except where this node's zone changed.
func (p *Planner) Update(up model.Update) Changes {
	node := p.node(up)
	p.here = node
	dirty := p.dirty(up)
	if node.Zone != p.plan.Node.Zone || !slices.Equal(node.Addrs, p.plan.Node.Addrs) {
		for s := range model.Services.All(up.New) {
			dirty[model.Name{Namespace: s.Namespace, Name: s.Name}] = struct{}{}
		}
	}
	wanted := p.claim(up.New, dirty)

	changes := Changes{Old: p.plan}
	tx := p.plan.services.Txn()
	for name := range dirty {
		old, _ := tx.Get(name)
		next := p.planService(up.New, name, wanted[name])
		if old.equal(next) {
			continue
		}
		if next == nil {
			tx.Remove(name)
		} else {
			tx.Set(next)
		}
		changes.Services = append(changes.Services, Change{name, old, next})
	}
	slices.SortFunc(changes.Services, func(a, b Change) int { return compareNames(a.Name, b.Name) })
	p.plan = &Plan{Revision: up.New.Revision(), Node: node, proxyName: p.cfg.ProxyName, services: tx.Commit()}
	changes.New = p.plan
	return changes
}

func compareNames(a, b model.Name) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// dirty returns the Services whose plan may change.
func (p *Planner) dirty(up model.Update) map[model.Name]struct{} {
	dirty := map[model.Name]struct{}{}
	mark := func(name model.Name) {
		dirty[name] = struct{}{}
		for other := range p.splitTo[name] {
			dirty[other] = struct{}{}
		}
	}
	for _, key := range up.Changed {
		name := model.Name{Namespace: key.Namespace, Name: key.Name}
		switch key.Kind {
		case model.KindService:
			mark(name)
		case model.KindEndpointSlice:
			for _, snap := range [...]*model.Snapshot{up.Old, up.New} {
				if s, ok := model.EndpointSlices.Get(snap, key.Namespace, key.Name); ok && s.Service != "" {
					mark(model.Name{Namespace: s.Namespace, Name: s.Service})
				}
			}
		case model.KindSplit:
			for _, snap := range [...]*model.Snapshot{up.Old, up.New} {
				if s, ok := model.Splits.Get(snap, key.Namespace, key.Name); ok {
					dirty[s.Service] = struct{}{}
				}
			}
		case model.KindPod:
			for other := range p.subsetsOf[name] {
				dirty[other] = struct{}{}
			}
		}
	}
	return dirty
}

// planService plans one Service. Nil: there is nothing to do for it.
func (p *Planner) planService(snap *model.Snapshot, name model.Name, wanted []want) *Service {
	p.forgetNeeds(name)
	svc, ok := model.Services.Get(snap, name.Namespace, name.Name)
	if !ok || !p.mine(svc) {
		return nil
	}
	s := &Service{Name: name, Scheduler: svc.Scheduler}
	p.backends = nil
	checkFamilies(svc, s)
	for i := range svc.Ports {
		port := &svc.Ports[i]
		proto, ok := protocol(port.Protocol)
		if !ok {
			s.problem("UnknownProtocol", "spec.ports["+portText(port)+"].protocol: expected TCP, UDP or SCTP, found "+string(port.Protocol))
			continue
		}
		for _, family := range families(svc) {
			s.Ports = append(s.Ports, p.planPort(snap, svc, port, family, proto, s))
		}
	}
	slices.SortStableFunc(s.Ports, comparePorts)
	p.assign(s, wanted)
	if svc.HealthCheckNodePort != 0 && svc.Type == corev1.ServiceTypeLoadBalancer && externalLocal(svc) {
		s.HealthCheckNodePort = svc.HealthCheckNodePort
		s.LocalReady = p.localReady(snap, svc)
	}
	if len(s.Ports) == 0 && len(s.Problems) == 0 {
		s.problem("NoPorts", "spec.ports: expected at least one port, found none, so nothing can connect to the Service")
	}
	return s
}

// planPort plans one port, without its frontends.
func (p *Planner) planPort(snap *model.Snapshot, svc *model.Service, port *model.ServicePort, family Family, proto Protocol, s *Service) *Port {
	out := &Port{Name: port.Name, Family: family, Protocol: proto, Port: port.Port, Affinity: svc.AffinityTimeout}
	var all []endpoint
	if split := findSplit(snap, svc, port); split != nil {
		out.Split = split.Origin
		all = p.splitEndpoints(snap, svc, split, family, proto, s)
	} else {
		all = p.endpoints(p.scratch[:0], snap, svc, port.Name, family, proto)
		p.scratch = all
		if len(all) == 0 {
			p.checkPort(snap, svc, port, family, proto, s)
		}
	}
	all = unique(all)
	out.Cluster, out.Local = categorize(all, p.here)
	out.Kept = kept(all, out.Cluster, out.Local)
	return out
}

// mine reports whether the Service is for this proxy.
func (p *Planner) mine(svc *model.Service) bool {
	return !svc.Headless && svc.Type != corev1.ServiceTypeExternalName && p.labelled(&svc.Meta)
}

// labelled reports whether the labels of a Service or an EndpointSlice leave it
// to this proxy. kube-proxy selects both kinds by them: the label of headless
// ones must not be there, whatever its value, and that of a proxy's name must
// not be there either, or have our name.
func (p *Planner) labelled(m *model.Meta) bool {
	if _, headless := m.Labels[corev1.IsHeadlessService]; headless {
		return false
	}
	name, named := m.Labels[labelProxyName]
	return named == (p.cfg.ProxyName != "") && name == p.cfg.ProxyName
}

func (s *Service) problem(reason, message string) {
	s.Problems = append(s.Problems, Problem{Reason: reason, Message: message})
}

func comparePorts(a, b *Port) int {
	if a.Family != b.Family {
		return int(a.Family) - int(b.Family)
	}
	if a.Protocol != b.Protocol {
		return int(a.Protocol) - int(b.Protocol)
	}
	return int(a.Port) - int(b.Port)
}

func protocol(p corev1.Protocol) (Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return TCP, true
	case corev1.ProtocolUDP:
		return UDP, true
	case corev1.ProtocolSCTP:
		return SCTP, true
	}
	return 0, false
}

// families returns the IP versions that the Service has, as it says or, where
// it does not, by its addresses.
func families(svc *model.Service) []Family {
	var four, six bool
	for _, f := range svc.Families {
		four = four || f == corev1.IPv4Protocol
		six = six || f == corev1.IPv6Protocol
	}
	if len(svc.Families) == 0 {
		for _, a := range svc.ClusterIPs {
			four, six = four || a.Is4(), six || a.Is6()
		}
	}
	switch {
	case four && six:
		return []Family{IPv4, IPv6}
	case six:
		return []Family{IPv6}
	case four:
		return []Family{IPv4}
	}
	return nil
}

func externalLocal(svc *model.Service) bool {
	return svc.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func portText(p *model.ServicePort) string {
	text := strconv.Itoa(int(p.Port))
	if p.Name != "" {
		text += " (" + p.Name + ")"
	}
	return text
}
