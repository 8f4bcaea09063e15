package proxy

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/sluicenet/sluice/internal/btree"
	"github.com/sluicenet/sluice/model"
)

// Family is an IP version. The two are planned and programmed independently: a
// Service with endpoints of one family only rejects connections of the other.
type Family uint8

// The IP versions.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Protocol is a transport protocol by its IANA number.
type Protocol uint8

// The protocols that a Service port can have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

// Plan is what the service proxy of one node should do. It never changes; any
// number of goroutines may read it. The zero value is the plan of no Service.
type Plan struct {
	// Revision is that of the model snapshot that the plan was made from.
	Revision uint64
	Node     Node

	proxyName string // of the planner's configuration
	services  btree.Tree[model.Name, *Service]
}

var byName = &btree.Order[model.Name, *Service]{Key: func(s *Service) model.Name { return s.Name }, Compare: compareNames}

// Node is what the plan depends on of the node that it is for.
type Node struct {
	Name  string
	Zone  string
	Addrs []netip.Addr // as its Node object says, in its order
	// Pods are the networks whose addresses count as Pods': of the cluster,
	// or of this node alone where the cluster's are not known. See KnowsPods.
	Pods []netip.Prefix
	// PodInterfaces are the interfaces whose connections count as Pods', by name
	// or, with a "*" at the end, by the beginning of it.
	PodInterfaces []string
	// NodePorts restricts the local addresses that answer NodePorts, each family
	// on its own. Empty: all, other than loopback.
	NodePorts []netip.Prefix
	// Localhost tells that NodePorts answer on 127.0.0.1 and ::1 too. The packets
	// of these cannot leave the node, so a relay does that, for TCP.
	Localhost bool
	// ServiceCIDRs are the ranges of ClusterIPs. An address in them that no
	// Service has leads nowhere, so what is sent there is dropped.
	ServiceCIDRs []netip.Prefix
}

// Service returns the plan of one Service, or nil.
func (p *Plan) Service(name model.Name) *Service {
	s, _ := p.services.Get(name)
	return s
}

// Services yields the plan of every Service, ordered by namespace and name.
func (p *Plan) Services() iter.Seq[*Service] { return p.services.All() }

// Len returns the number of Services.
func (p *Plan) Len() int { return p.services.Len() }

// Service is the plan of one Service.
type Service struct {
	Name model.Name
	// Ports are ordered by family, protocol and number. A port of a
	// dual-stack Service is here once for each family.
	Ports []*Port
	// HealthCheckNodePort tells load balancers whether this node has a ready
	// endpoint; 0: no such port. LocalReady counts them, by address.
	HealthCheckNodePort uint16
	LocalReady          int
	// Scheduler is the algorithm that the Service asks for; empty: the engine's
	// own. Engines that can choose only at random leave it alone.
	Scheduler string
	// Problems are the user's mistakes. What they do not concern is planned.
	Problems []Problem
}

// Problem is a mistake in a user's object.
type Problem struct {
	Reason  string // in CamelCase, for a condition
	Message string
	// Lost is the frontend that another Service has, if that is the mistake.
	Lost FrontendKey
}

// Port is one port of a Service, in one family.
type Port struct {
	Name     string // of the Service's port
	Family   Family
	Protocol Protocol
	Port     uint16
	// Affinity keeps a client with its backend for so long after its last
	// connection; 0: no affinity.
	Affinity time.Duration
	// Split is the route that distributes the connections, if one does.
	Split     model.Key
	Frontends []Frontend
	// Cluster and Local are the usable backends of either traffic policy,
	// ordered by address.
	Cluster []Backend
	Local   []Backend
	// Kept are the endpoints that are in neither, and still serve: existing flows
	// may go on with them. They are ordered by address.
	Kept []netip.AddrPort
}

// Established returns the endpoints that existing flows may go on with, ordered
// by address: those that take connections, and those that only keep them.
func (p *Port) Established() []netip.AddrPort {
	out := slices.Clone(p.Kept)
	for _, list := range [...][]Backend{p.Cluster, p.Local} {
		for i := range list {
			out = append(out, list[i].AddrPort)
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

// Backend is an endpoint that takes connections.
type Backend struct {
	netip.AddrPort
	// Weight is its share relative to the others. It is at least 1, and the
	// weights of a set have no common divisor.
	Weight uint32
	Place  Place
}

// Place is where a backend is, as seen from the plan's node.
type Place uint8

// The places. Unknown is that of endpoints without a node.
const (
	Elsewhere Place = iota
	Here
	Unknown
)

// FrontendKind says why a Service answers on an address.
type FrontendKind uint8

// The kinds of frontends.
const (
	ClusterIP FrontendKind = iota
	ExternalIP
	LoadBalancer
	NodePort
)

// FrontendKey identifies a frontend. Only one Service can have it.
type FrontendKey struct {
	Addr     netip.Addr // invalid for a NodePort: any local address
	Family   Family
	Protocol Protocol
	Port     uint16
}

// Frontend is an address and port on which a Service answers.
type Frontend struct {
	Kind FrontendKind
	Addr netip.Addr // invalid for a NodePort: any local address
	Port uint16
	// Inside is what happens to connections from this node and from Pods,
	// Outside to the others. They differ where the external traffic policy is
	// Local: inside, nothing is gained by it, so all endpoints are used.
	Inside, Outside Action
	Masquerade      Masquerade
	// Sources restricts who may connect, after whatever else: others are
	// dropped. Nil: everybody may.
	Sources []netip.Prefix
}

// Action is what happens to a connection.
type Action uint8

// The actions.
const (
	Reject    Action = iota // refused at once: nobody has an endpoint
	Drop                    // left unanswered, for the client to try again: other nodes have endpoints
	ToCluster               // to one of Port.Cluster
	ToLocal                 // to one of Port.Local
)

// Masquerade says for which connections the source address becomes the node's,
// so that answers come back by this node. Connections of a backend to itself
// are always masqueraded, if it may be on this node.
type Masquerade uint8

// The conditions of masquerading.
const (
	MasqueradeOffCluster Masquerade = iota // if the source is not a Pod's
	MasqueradeFromNode                     // if the source is this node
	MasqueradeAlways
)

// Key returns what identifies the frontend among all Services'.
func (f *Frontend) Key(p *Port) FrontendKey {
	return FrontendKey{f.Addr, p.Family, p.Protocol, f.Port}
}

// Backends returns the set that an action leads to.
func (p *Port) Backends(a Action) []Backend {
	switch a {
	case ToCluster:
		return p.Cluster
	case ToLocal:
		return p.Local
	}
	return nil
}

func (s *Service) equal(o *Service) bool {
	if s == nil || o == nil {
		return s == o
	}
	return s.Name == o.Name && s.HealthCheckNodePort == o.HealthCheckNodePort && s.LocalReady == o.LocalReady && s.Scheduler == o.Scheduler &&
		slices.Equal(s.Problems, o.Problems) && slices.EqualFunc(s.Ports, o.Ports, (*Port).equal)
}

func (p *Port) equal(o *Port) bool {
	return p.Name == o.Name && p.Family == o.Family && p.Protocol == o.Protocol && p.Port == o.Port &&
		p.Affinity == o.Affinity && p.Split == o.Split &&
		slices.EqualFunc(p.Frontends, o.Frontends, Frontend.equal) &&
		slices.Equal(p.Cluster, o.Cluster) && slices.Equal(p.Local, o.Local) &&
		slices.Equal(p.Kept, o.Kept)
}

func (f Frontend) equal(o Frontend) bool {
	return f.Kind == o.Kind && f.Addr == o.Addr && f.Port == o.Port && f.Inside == o.Inside && f.Outside == o.Outside &&
		f.Masquerade == o.Masquerade && slices.Equal(f.Sources, o.Sources) && (f.Sources == nil) == (o.Sources == nil)
}

func (n Node) equal(o Node) bool {
	return n.Name == o.Name && n.Zone == o.Zone && slices.Equal(n.Addrs, o.Addrs) &&
		slices.Equal(n.Pods, o.Pods) && slices.Equal(n.PodInterfaces, o.PodInterfaces) &&
		slices.Equal(n.NodePorts, o.NodePorts) && n.Localhost == o.Localhost && slices.Equal(n.ServiceCIDRs, o.ServiceCIDRs)
}

// Changes is the step from one plan to the next.
type Changes struct {
	Old, New *Plan
	// Services names those whose plans differ, each once.
	Services []Change
}

// Change is the step of one Service. Old is nil for a new one, New for one that
// is gone.
type Change struct {
	Name     model.Name
	Old, New *Service
}

// Empty reports whether there is nothing for an engine to do.
func (c *Changes) Empty() bool {
	return len(c.Services) == 0 && c.Old != nil && c.New != nil && c.Old.Node.equal(c.New.Node)
}
