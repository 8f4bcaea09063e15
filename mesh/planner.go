package mesh

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicenet/sluice/mesh/spiffe"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/route"
)

// Config is what a mesh is told apart from its objects.
type Config struct {
	// TrustDomain of the SPIFFE IDs; empty: cluster.local.
	TrustDomain string
	// ClusterDomain ends the full names of Services; empty: cluster.local.
	ClusterDomain string
	// RootNamespaces are those whose PeerAuthentication without a selector
	// holds for the whole mesh, the first one first; empty: sluice-system,
	// istio-system.
	RootNamespaces []string
	// ServiceCIDRs are the ranges of ClusterIPs: connections to them on ports
	// that are not HTTP go to the clusters of TCP.
	ServiceCIDRs []netip.Prefix
	// SplitsOnly plans the kernel's shares alone, for a node that is not a
	// control plane of the mesh.
	SplitsOnly bool
	// Patience is how long a change of a workload's mode waits for proxies
	// that are not current, or not connected to this control plane, before
	// its next step; 0: 10 s.
	Patience time.Duration
}

func (c *Config) setDefaults() {
	c.TrustDomain = cmp.Or(c.TrustDomain, spiffe.DefaultTrustDomain)
	c.ClusterDomain = cmp.Or(c.ClusterDomain, "cluster.local")
	c.Patience = cmp.Or(c.Patience, 10*time.Second)
	if len(c.RootNamespaces) == 0 {
		c.RootNamespaces = []string{"sluice-system", "istio-system"}
	}
}

// Kinds are the kinds of objects that the mesh reads.
func Kinds() []model.KindID { return (&Config{}).Kinds() }

// Kinds are the kinds of objects that are read with this configuration. Nothing
// is published before the source has delivered all of them once.
func (c *Config) Kinds() []model.KindID {
	kinds := []model.KindID{model.KindService, model.KindVirtualService, model.KindDestinationRule}
	if !c.SplitsOnly {
		kinds = append(kinds, model.KindEndpointSlice, model.KindPod, model.KindPeerAuthentication)
	}
	return kinds
}

// Result is what has to change.
type Result struct {
	Changes []route.Change // ordered by what they name
	// PutSplits and DeleteSplits change the kernel's shares.
	PutSplits    []*model.Split
	DeleteSplits []model.Key
	// Reports are what there is to say of objects; nil: nothing any more.
	Reports map[model.Key]*status.Report
}

// Empty reports whether nothing has to change.
func (r *Result) Empty() bool {
	return len(r.Changes) == 0 && len(r.PutSplits) == 0 && len(r.DeleteSplits) == 0 && len(r.Reports) == 0
}

// Planner plans the mesh. It is not safe for concurrent use.
type Planner struct {
	conf Config
	snap *model.Snapshot

	virtual   map[model.Key]*virtualService // the last good ones
	byHost    map[string][]*virtualService  // by exact or wildcard host, the winner first
	destRules map[model.Key]*destinationRule
	byTarget  map[model.Name][]*destinationRule // by Service, the winner first
	peers     peerPolicies
	refused   map[model.Key]*refusal // why the newest version of an object is not in force

	units     map[unitKey]*unit
	unitsOf   map[model.Key]map[unitKey]struct{}    // units that follow a VirtualService
	usedBy    map[model.Name]map[unitKey]dependency // units that a change of a Service touches
	podSlices map[model.Name]map[model.Name]struct{}
	workloads map[model.Name]*workload
	staged    map[model.Name]struct{} // workloads whose change waits for proxies
	outbound  outbound

	dirty struct {
		units     map[unitKey]struct{}
		workloads map[model.Name]struct{}
		reports   map[model.Key]struct{}
	}
	res Result // of the current call
}

// NewPlanner returns a planner that has planned nothing.
func NewPlanner(conf Config) *Planner {
	conf.setDefaults()
	p := &Planner{
		conf:      conf,
		snap:      model.Empty(),
		virtual:   map[model.Key]*virtualService{},
		byHost:    map[string][]*virtualService{},
		destRules: map[model.Key]*destinationRule{},
		byTarget:  map[model.Name][]*destinationRule{},
		peers:     peerPolicies{roots: conf.RootNamespaces, byNS: map[string][]*peerAuth{}},
		refused:   map[model.Key]*refusal{},
		units:     map[unitKey]*unit{},
		unitsOf:   map[model.Key]map[unitKey]struct{}{},
		usedBy:    map[model.Name]map[unitKey]dependency{},
		podSlices: map[model.Name]map[model.Name]struct{}{},
		workloads: map[model.Name]*workload{},
		staged:    map[model.Name]struct{}{},
		outbound:  newOutbound(),
	}
	p.dirty.units = map[unitKey]struct{}{}
	p.dirty.workloads = map[model.Name]struct{}{}
	p.dirty.reports = map[model.Key]struct{}{}
	return p
}

// Update takes the next step of the model and returns what has to change.
func (p *Planner) Update(up model.Update) Result {
	p.begin()
	p.snap = up.New
	kinds := p.conf.Kinds()
	for _, key := range up.Changed {
		if !slices.Contains(kinds, key.Kind) {
			continue
		}
		switch key.Kind {
		case model.KindService:
			p.serviceChanged(up, key)
		case model.KindEndpointSlice:
			p.sliceChanged(up, key)
		case model.KindPod:
			p.podChanged(up, key)
		case model.KindVirtualService:
			p.virtualServiceChanged(key)
		case model.KindDestinationRule:
			p.destinationRuleChanged(key)
		case model.KindPeerAuthentication:
			p.peerAuthChanged(key)
		}
	}
	return p.settle()
}

func (p *Planner) begin() { p.res = Result{Reports: map[model.Key]*status.Report{}} }

// settle replans what is dirty. Workloads come first: whether a sidecar takes
// mutual TLS is a property of the endpoints of Services.
func (p *Planner) settle() Result {
	if !p.conf.SplitsOnly {
		for name := range p.dirty.workloads {
			p.planWorkload(name)
		}
	}
	clear(p.dirty.workloads)
	for key := range p.dirty.units {
		p.planUnit(key)
	}
	clear(p.dirty.units)
	if !p.conf.SplitsOnly {
		p.planOutbound()
		for key := range p.dirty.reports {
			p.report(key)
		}
	}
	clear(p.dirty.reports)
	res := p.res
	p.res = Result{}
	slices.SortFunc(res.Changes, func(a, b route.Change) int {
		return cmp.Or(cmp.Compare(a.Ref.Group, b.Ref.Group), cmp.Compare(a.Ref.Kind, b.Ref.Kind), cmp.Compare(a.Ref.ID, b.Ref.ID))
	})
	slices.SortFunc(res.PutSplits, func(a, b *model.Split) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	slices.SortFunc(res.DeleteSplits, func(a, b model.Key) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return res
}

// dependency is what of a Service a unit depends on.
type dependency uint8

const (
	onDefinition dependency = 1 << iota // that it exists, its ports and subsets
	onEndpoints
)

// touch marks the units that depend on a Service in this way.
func (p *Planner) touch(svc model.Name, what dependency) {
	p.dirty.units[unitKey{service: svc}] = struct{}{}
	for key, on := range p.usedBy[svc] {
		if on&what != 0 {
			p.dirty.units[key] = struct{}{}
		}
	}
}

func (p *Planner) serviceChanged(up model.Update, key model.Key) {
	name := model.Name{Namespace: key.Namespace, Name: key.Name}
	p.touch(name, onDefinition|onEndpoints)
	if p.conf.SplitsOnly {
		return
	}
	// The protocol of a workload's port is that of the Services that name it.
	old, _ := model.Services.Get(up.Old, key.Namespace, key.Name)
	svc, _ := model.Services.Get(up.New, key.Namespace, key.Name)
	if old != nil && svc != nil && slices.Equal(old.Ports, svc.Ports) {
		return
	}
	for slice := range model.SlicesByService.Find(up.New, name.String()) {
		p.touchPods(slice)
	}
}

func (p *Planner) touchPods(slice *model.EndpointSlice) {
	for i := range slice.Endpoints {
		if pod := podOf(p.snap, slice, &slice.Endpoints[i]); pod != nil && HasSidecar(pod) {
			p.dirty.workloads[model.Name{Namespace: pod.Namespace, Name: pod.Name}] = struct{}{}
		}
	}
}

func (p *Planner) sliceChanged(up model.Update, key model.Key) {
	name := model.Name{Namespace: key.Namespace, Name: key.Name}
	old, _ := model.EndpointSlices.Get(up.Old, key.Namespace, key.Name)
	next, _ := model.EndpointSlices.Get(up.New, key.Namespace, key.Name)
	pods := map[model.Name]int{} // 1: in old, 2: in new, 3: in both
	for i, s := range []*model.EndpointSlice{old, next} {
		if s == nil {
			continue
		}
		if s.Service != "" {
			p.touch(model.Name{Namespace: s.Namespace, Name: s.Service}, onEndpoints)
		}
		for j := range s.Endpoints {
			pods[podKey(s, &s.Endpoints[j])] |= i + 1
		}
	}
	samePorts := old != nil && next != nil && old.Service == next.Service && slices.Equal(old.Ports, next.Ports)
	for pod, in := range pods {
		set := p.podSlices[pod]
		switch {
		case in&2 == 0:
			if delete(set, name); len(set) == 0 {
				delete(p.podSlices, pod)
			}
		case set == nil:
			p.podSlices[pod] = map[model.Name]struct{}{name: {}}
		default:
			set[name] = struct{}{}
		}
		if in == 3 && samePorts {
			continue
		}
		if addr, is := strings.CutPrefix(pod.Name, "/"); !is {
			p.dirty.workloads[pod] = struct{}{}
		} else if found := podByAddr(p.snap, key.Namespace, addr); found != nil {
			p.dirty.workloads[model.Name{Namespace: found.Namespace, Name: found.Name}] = struct{}{}
		}
	}
}

func (p *Planner) podChanged(up model.Update, key model.Key) {
	old, _ := model.Pods.Get(up.Old, key.Namespace, key.Name)
	next, _ := model.Pods.Get(up.New, key.Namespace, key.Name)
	if old != nil && next != nil && samePod(old, next) {
		return
	}
	p.dirty.workloads[model.Name{Namespace: key.Namespace, Name: key.Name}] = struct{}{}
	for _, pod := range []*model.Pod{old, next} {
		if pod != nil {
			p.touchServicesOf(pod)
		}
	}
}

// samePod reports whether two versions of a Pod are the same to the mesh.
func samePod(a, b *model.Pod) bool {
	return maps.Equal(a.Labels, b.Labels) && a.ServiceAccount == b.ServiceAccount &&
		HasSidecar(a) == HasSidecar(b) && slices.Equal(a.IPs, b.IPs) && a.UID == b.UID &&
		a.HostNetwork == b.HostNetwork && a.Terminated == b.Terminated
}

// touchServicesOf marks what has the Pod among its endpoints.
func (p *Planner) touchServicesOf(pod *model.Pod) {
	for slice := range p.slicesOf(pod) {
		if s, ok := model.EndpointSlices.Get(p.snap, slice.Namespace, slice.Name); ok && s.Service != "" {
			p.touch(model.Name{Namespace: s.Namespace, Name: s.Service}, onEndpoints)
		}
	}
}

func (p *Planner) virtualServiceChanged(key model.Key) {
	old := p.virtual[key]
	vs, exists := model.VirtualServices.Get(p.snap, key.Namespace, key.Name)
	next := old
	delete(p.refused, key)
	if !exists {
		next = nil
	} else if read, bad := readVirtualService(vs, p.conf.ClusterDomain); bad != nil {
		p.refused[key] = bad
	} else {
		next = read
	}
	p.dirty.reports[key] = struct{}{}
	if next == old {
		return
	}
	if next == nil {
		delete(p.virtual, key)
	} else {
		p.virtual[key] = next
	}
	for _, v := range []*virtualService{old, next} {
		if v == nil {
			continue
		}
		for _, host := range v.hosts {
			p.rehost(host, old, next)
		}
	}
}

// rehost puts next in the place of old among the VirtualServices of a host.
func (p *Planner) rehost(host string, old, next *virtualService) {
	list := slices.DeleteFunc(slices.Clone(p.byHost[host]), func(v *virtualService) bool { return v == old || v == next })
	if next != nil && slices.Contains(next.hosts, host) {
		list = append(list, next)
		slices.SortFunc(list, func(a, b *virtualService) int { return older(a.created, b.created, a.key, b.key) })
	}
	if len(list) == 0 {
		delete(p.byHost, host)
	} else {
		p.byHost[host] = list
	}
	for _, v := range list {
		p.dirty.reports[v.key] = struct{}{} // who wins may have changed
	}
	p.touchHost(host)
}

func (p *Planner) destinationRuleChanged(key model.Key) {
	old := p.destRules[key]
	dr, exists := model.DestinationRules.Get(p.snap, key.Namespace, key.Name)
	next := old
	delete(p.refused, key)
	if !exists {
		next = nil
	} else if read, bad := readDestinationRule(dr, p.conf.ClusterDomain); bad != nil {
		p.refused[key] = bad
	} else {
		next = read
	}
	p.dirty.reports[key] = struct{}{}
	if next == old {
		return
	}
	delete(p.destRules, key)
	if next != nil {
		p.destRules[key] = next
	}
	for _, d := range []*destinationRule{old, next} {
		if d == nil {
			continue
		}
		list := slices.DeleteFunc(slices.Clone(p.byTarget[d.service]), func(o *destinationRule) bool { return o == old || o == next })
		if next != nil && next.service == d.service {
			list = append(list, next)
			slices.SortFunc(list, func(a, b *destinationRule) int {
				return cmp.Or(compareBool(b.key.Namespace == d.service.Namespace, a.key.Namespace == d.service.Namespace),
					older(a.created, b.created, a.key, b.key))
			})
		}
		if len(list) == 0 {
			delete(p.byTarget, d.service)
		} else {
			p.byTarget[d.service] = list
		}
		for _, o := range list {
			p.dirty.reports[o.key] = struct{}{}
		}
		p.touch(d.service, onDefinition|onEndpoints)
	}
}

// ruleOf returns the DestinationRule of a Service, or nil.
func (p *Planner) ruleOf(svc model.Name) *destinationRule {
	if list := p.byTarget[svc]; len(list) > 0 {
		return list[0]
	}
	return nil
}

func (p *Planner) peerAuthChanged(key model.Key) {
	old := p.peers.remove(key)
	pa, exists := model.PeerAuthentications.Get(p.snap, key.Namespace, key.Name)
	delete(p.refused, key)
	next := old
	if !exists {
		next = nil
	} else if read, bad := readPeerAuth(pa, p.peers.isRoot(key.Namespace)); bad != nil {
		p.refused[key] = bad
	} else {
		next = read
	}
	p.dirty.reports[key] = struct{}{}
	if next != nil {
		p.peers.put(next)
	}
	for _, other := range p.peers.byNS[key.Namespace] {
		p.dirty.reports[other.key] = struct{}{}
	}
	if next == old {
		return
	}
	if p.peers.isRoot(key.Namespace) {
		for name := range p.workloads {
			p.dirty.workloads[name] = struct{}{}
		}
		return
	}
	for pod := range model.Pods.In(p.snap, key.Namespace) {
		for _, pa := range []*peerAuth{old, next} {
			if pa != nil && matches(pa.selector, pod.Labels) {
				p.dirty.workloads[model.Name{Namespace: pod.Namespace, Name: pod.Name}] = struct{}{}
			}
		}
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func portString(port uint16) string { return strconv.Itoa(int(port)) }
