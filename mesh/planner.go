package mesh

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
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
	claims    claims
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
		claims:    newClaims(),
		unitsOf:   map[model.Key]map[unitKey]struct{}{},
		usedBy:    map[model.Name]map[unitKey]dependency{},
		podSlices: map[model.Name]map[model.Name]struct{}{},
		workloads: map[model.Name]*workload{},
		staged:    map[model.Name]struct{}{},
		outbound:  newOutbound(),
	}
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

// begin starts a call. Its maps are new: one that was once big takes as long to
// be walked and cleared as when it was full.
func (p *Planner) begin() {
	p.res = Result{Reports: map[model.Key]*status.Report{}}
	p.dirty.units = map[unitKey]struct{}{}
	p.dirty.workloads = map[model.Name]struct{}{}
	p.dirty.reports = map[model.Key]struct{}{}
	p.claims.touched = map[route.Ref]struct{}{}
}

// settle replans what is dirty. Workloads come first: whether a sidecar takes
// mutual TLS is a property of the endpoints of Services.
func (p *Planner) settle() Result {
	if !p.conf.SplitsOnly {
		for name := range p.dirty.workloads {
			p.planWorkload(name)
		}
	}
	for key := range p.dirty.units {
		p.planUnit(key)
	}
	p.res.Changes = append(p.res.Changes, p.claims.flush()...)
	if !p.conf.SplitsOnly {
		p.planOutbound()
		for key := range p.dirty.reports {
			p.report(key)
		}
	}
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
