package ingress

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/route"
)

// The names by which objects choose sluice.
const (
	// GatewayController is spec.controllerName of our GatewayClasses.
	GatewayController gatewayv1.GatewayController = "sluice.io/gateway-controller"
	// IngressController is spec.controller of our IngressClasses.
	IngressController = "sluice.io/ingress-controller"
	// DefaultClass is the name of a class that is ours though no object of
	// it exists: an IngressClass always, a GatewayClass in standalone mode.
	DefaultClass = "sluice"
)

// PlannerOptions are what a plan depends on besides the snapshot.
type PlannerOptions struct {
	// Standalone says that there is no cluster whose administrator makes
	// classes: a Gateway of the class "sluice", and an Ingress without any
	// class, are ours without one.
	Standalone bool
	// OneMachine says that the proxies of all groups listen on this machine, so
	// that a port of an address can only belong to one of them.
	OneMachine bool
	// Place tells where the proxies of a group are; nil: see [SpecPlace].
	// The Gateway is nil for the group of an IngressClass.
	Place func(*model.Snapshot, route.Group, *gatewayv1.Gateway) Placement
	// PlacedBy tells on which group's place an object, such as the Service
	// of a Gateway's proxies, has an influence; nil: none.
	PlacedBy func(model.Key) (route.Group, bool)
}

// Placement tells where the proxies of a group are.
type Placement struct {
	// Listen holds the addresses that the proxies bind; empty: all.
	Listen []netip.Addr
	// Addresses are those that clients use, as status shows them.
	Addresses []gatewayv1.GatewayStatusAddress
	// Pending says that clients have no address yet, and why. The Gateway
	// is not Programmed until it is empty.
	Pending string
}

// SpecPlace places a Gateway at the IP addresses of its spec, or at all of the
// machine's if it names none.
func SpecPlace(_ *model.Snapshot, _ route.Group, gw *gatewayv1.Gateway) Placement {
	var pl Placement
	if gw == nil {
		return pl
	}
	for _, a := range gw.Spec.Addresses {
		if a.Type != nil && *a.Type != gatewayv1.IPAddressType {
			continue
		}
		if ip, err := netip.ParseAddr(a.Value); err == nil {
			pl.Listen = append(pl.Listen, ip)
			pl.Addresses = append(pl.Addresses, gatewayv1.GatewayStatusAddress{Type: new(gatewayv1.IPAddressType), Value: ip.String()})
		}
	}
	return pl
}

// Result is what a step of the planner changed.
type Result struct {
	// Changes belong together; see [route.Publisher].
	Changes []route.Change
	Reports []Report
	Groups  []GroupChange
}

// Report is what is to be said of one object. Its conditions' transition times
// are for the one who writes them to fill in.
type Report struct {
	Key    model.Key
	Report status.Report
	Gone   bool // nothing is to be said of the object any more
}

// GroupChange tells of proxies that are needed, or no longer.
type GroupChange struct {
	Group   route.Group
	Gateway model.Name // without a namespace: the IngressClass of that name
	UID     string     // of the Gateway object
	Ports   []uint16   // on which the proxies listen, in order
	Gone    bool
}

// Planner plans routes and status from Gateway API and Ingress objects. It
// keeps what it planned and what that depends on; it is not safe for
// concurrent use.
type Planner struct {
	opt  PlannerOptions
	snap *model.Snapshot

	gateways map[model.Name]*gateway      // those of our classes
	classes  map[string]*ingressClass     // with at least one Ingress
	routes   map[model.Key]*routeNode     // HTTPRoutes and Ingresses with a parent of ours
	hosts    map[hostKey]*host            // with at least one claim
	clusters map[string]*cluster          // by name; with at least one user
	ofSvc    map[model.Name][]*cluster    // the clusters of a Service
	attached map[listenerRef]int          // how many routes
	groups   map[route.Group]*groupStatus // acknowledged so far
	rejected map[route.Group][]rejection
	rejects  map[model.Key]map[route.Ref]string // Envoy's reasons, by the object that caused them
	reports  map[model.Key]status.Report
	lastGood map[model.Name]goodSecret

	defaultClass string // of Ingresses without one; empty: none

	contenders map[model.Key]*contender // Gateways that want ports of this machine
	byPort     deps[uint16]             // port -> Gateways that want it

	byClass     deps[string]     // GatewayClass -> Gateways
	byIngClass  deps[string]     // IngressClass -> Ingresses; "" -> those without
	byGateway   deps[model.Name] // Gateway -> HTTPRoutes
	bySecret    deps[model.Name] // Secret -> Gateways, Ingresses
	byGrant     deps[string]     // namespace of ReferenceGrants -> Gateways, HTTPRoutes
	byNamespace deps[string]     // Namespace -> HTTPRoutes that a selector looked at
	byService   deps[model.Name] // Service -> HTTPRoutes, Ingresses

	dirty dirty
	out   Result
}

// dirty holds what this step has to plan again.
type dirty struct {
	objects  map[model.Key]struct{} // Gateways, HTTPRoutes, Ingresses
	classes  map[string]struct{}    // listeners of Ingress classes
	hosts    map[hostKey]struct{}
	clusters map[string]struct{}
	reports  map[model.Key]struct{}
}

// NewPlanner returns a planner that knows of nothing.
func NewPlanner(opt PlannerOptions) *Planner {
	if opt.Place == nil {
		opt.Place = SpecPlace
	}
	p := &Planner{
		opt:      opt,
		snap:     model.Empty(),
		gateways: map[model.Name]*gateway{}, classes: map[string]*ingressClass{},
		routes: map[model.Key]*routeNode{}, hosts: map[hostKey]*host{},
		clusters: map[string]*cluster{}, ofSvc: map[model.Name][]*cluster{},
		attached: map[listenerRef]int{}, groups: map[route.Group]*groupStatus{},
		rejected: map[route.Group][]rejection{}, rejects: map[model.Key]map[route.Ref]string{},
		reports: map[model.Key]status.Report{}, lastGood: map[model.Name]goodSecret{},
		contenders: map[model.Key]*contender{}, byPort: newDeps[uint16](),
		byClass: newDeps[string](), byIngClass: newDeps[string](), byGateway: newDeps[model.Name](),
		bySecret: newDeps[model.Name](), byGrant: newDeps[string](), byNamespace: newDeps[string](),
		byService: newDeps[model.Name](),
		dirty: dirty{
			objects: map[model.Key]struct{}{}, classes: map[string]struct{}{}, hosts: map[hostKey]struct{}{},
			clusters: map[string]struct{}{}, reports: map[model.Key]struct{}{},
		},
	}
	p.defaultClass = p.findDefaultClass()
	return p
}

// Kinds lists the kinds of objects that a plan depends on.
func Kinds() []model.KindID {
	return []model.KindID{
		model.KindService, model.KindEndpointSlice, model.KindNamespace, model.KindSecret,
		model.KindIngress, model.KindIngressClass, model.KindGatewayClass, model.KindGateway,
		model.KindHTTPRoute, model.KindReferenceGrant,
	}
}

// Update plans the step to u.New.
func (p *Planner) Update(u model.Update) Result {
	p.snap = u.New
	for _, key := range u.Changed {
		p.mark(u.Old, key)
	}
	return p.plan()
}

// markPlace finds the group whose place an object has an influence on.
func (p *Planner) markPlace(key model.Key) {
	if p.opt.PlacedBy == nil {
		return
	}
	g, ok := p.opt.PlacedBy(key)
	if !ok {
		return
	}
	gw, class := p.groupOwner(g)
	if gw != nil {
		p.dirty.objects[gw.key] = struct{}{}
	}
	if class != nil {
		p.dirty.classes[class.name] = struct{}{}
	}
}

// mark finds what depends on an object that changed since old.
func (p *Planner) mark(old *model.Snapshot, key model.Key) {
	p.markPlace(key)
	name := model.Name{Namespace: key.Namespace, Name: key.Name}
	switch key.Kind {
	case model.KindGateway, model.KindHTTPRoute, model.KindIngress:
		p.dirty.objects[key] = struct{}{}
	case model.KindGatewayClass:
		p.byClass.mark(key.Name, p.dirty.objects)
		p.dirty.reports[key] = struct{}{}
	case model.KindIngressClass:
		p.markIngressClass(key.Name)
	case model.KindSecret:
		if !p.snap.Has(key) {
			delete(p.lastGood, name)
		}
		p.bySecret.mark(name, p.dirty.objects)
	case model.KindReferenceGrant:
		p.byGrant.mark(key.Namespace, p.dirty.objects)
	case model.KindNamespace:
		was, _ := model.Namespaces.Get(old, "", key.Name)
		is, _ := model.Namespaces.Get(p.snap, "", key.Name)
		if (was == nil) != (is == nil) || was != nil && !maps.Equal(was.Labels, is.Labels) {
			p.byNamespace.mark(key.Name, p.dirty.objects)
		}
	case model.KindService:
		was, _ := model.Services.Get(old, key.Namespace, key.Name)
		is, _ := model.Services.Get(p.snap, key.Namespace, key.Name)
		if !sameBackend(was, is) {
			p.byService.mark(name, p.dirty.objects)
		}
		p.markClusters(name)
	case model.KindEndpointSlice:
		// A slice may have moved from one Service to another.
		for _, s := range [...]*model.Snapshot{old, p.snap} {
			if slice, ok := model.EndpointSlices.Get(s, key.Namespace, key.Name); ok && slice.Service != "" {
				p.markClusters(model.Name{Namespace: key.Namespace, Name: slice.Service})
			}
		}
	}
}

func (p *Planner) markClusters(svc model.Name) {
	for _, c := range p.ofSvc[svc] {
		p.dirty.clusters[c.name] = struct{}{}
	}
}

// plan plans all that is dirty: what others depend on first.
func (p *Planner) plan() Result {
	// One Gateway may have another, which wants the same port, planned again.
	for keys := p.takeObjects(model.KindGateway); len(keys) > 0; keys = p.takeObjects(model.KindGateway) {
		for _, key := range keys {
			p.planGateway(key)
		}
	}
	for _, key := range p.takeObjects(model.KindHTTPRoute) {
		p.planHTTPRoute(key)
	}
	for _, key := range p.takeObjects(model.KindIngress) {
		p.planIngress(key)
	}
	for name := range take(&p.dirty.classes) {
		p.planIngressClass(name)
	}
	for key := range take(&p.dirty.hosts) {
		p.planHost(key)
	}
	for name := range take(&p.dirty.clusters) {
		p.planCluster(name)
	}
	for key := range take(&p.dirty.reports) {
		p.planReport(key)
	}

	out := p.out
	p.out = Result{}
	slices.SortFunc(out.Changes, func(a, b route.Change) int { return compareRefs(a.Ref, b.Ref) })
	slices.SortFunc(out.Reports, func(a, b Report) int { return compareKeys(a.Key, b.Key) })
	slices.SortFunc(out.Groups, func(a, b GroupChange) int { return cmp.Compare(a.Group, b.Group) })
	return out
}

// take empties a set and returns what was in it. A fresh map takes its place,
// because walking a map costs what it once held.
func take[K comparable](set *map[K]struct{}) map[K]struct{} {
	was := *set
	if len(was) > 0 {
		*set = map[K]struct{}{}
	}
	return was
}

// takeObjects removes the dirty objects of a kind and returns them in order.
func (p *Planner) takeObjects(kind model.KindID) []model.Key {
	var keys []model.Key
	for key := range take(&p.dirty.objects) {
		if key.Kind == kind {
			keys = append(keys, key)
		} else {
			p.dirty.objects[key] = struct{}{}
		}
	}
	slices.SortFunc(keys, compareKeys)
	return keys
}

func compareKeys(a, b model.Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

func compareRefs(a, b route.Ref) int {
	return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
}
