package route

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/sluicenet/sluice/model"
)

// Group names proxies that get the same resources. A proxy may be in several
// groups: a sidecar is in [MeshGroup] and in its own [WorkloadGroup].
type Group string

// MeshGroup holds what all sidecars share: the outbound listener, the routes
// of hosts, clusters and endpoints.
const MeshGroup Group = "mesh"

// GatewayGroup is the group of the proxies of a Gateway (or of the Gateway
// that serves an IngressClass).
func GatewayGroup(namespace, name string) Group {
	return Group("gateway/" + namespace + "/" + name)
}

// NamespaceGroup is the group of the sidecars of one namespace's Pods: the
// routes of the short host names, which mean another Service in each
// namespace. They refer to clusters of [MeshGroup].
func NamespaceGroup(namespace string) Group { return Group("mesh/" + namespace) }

// WorkloadGroup is the group of one Pod's sidecar: its inbound listener.
func WorkloadGroup(namespace, pod string) Group {
	return Group("workload/" + namespace + "/" + pod)
}

// Kind is the type of a resource.
type Kind uint8

// The kinds of resources.
const (
	KindSecret Kind = iota
	KindCluster
	KindEndpoints
	KindListener
	KindHost
)

var kindNames = [...]string{"Secret", "Cluster", "Endpoints", "Listener", "Host"}

// String returns the kind's name.
func (k Kind) String() string { return kindNames[k] }

// Resource is a *Secret, *Cluster, *Endpoints, *Listener or *Host. A resource
// that was published must not be written to.
type Resource interface {
	Kind() Kind
	// ID is unique among the resources of the kind in a group.
	ID() string
}

// Ref names a resource.
type Ref struct {
	Group Group
	Kind  Kind
	ID    string
}

// String returns "group: Kind id".
func (r Ref) String() string { return string(r.Group) + ": " + r.Kind.String() + " " + r.ID }

// Change adds or replaces a resource, or removes it.
type Change struct {
	Group    Group
	Resource Resource // nil: remove Ref
	Ref      Ref      // always set
	// Origins are the user's objects that the resource comes of. What a
	// proxy rejects is reported on them.
	Origins []model.Key
}

// Set returns the change that adds or replaces a resource.
func Set(g Group, r Resource, origins ...model.Key) Change {
	return Change{Group: g, Resource: r, Ref: Ref{g, r.Kind(), r.ID()}, Origins: origins}
}

// Remove returns the change that removes a resource.
func Remove(g Group, k Kind, id string) Change {
	return Change{Group: g, Ref: Ref{g, k, id}}
}

// Publisher takes changes to proxies. Changes of one call belong together: a
// host's routes may refer to clusters that the same call adds, and a cluster
// may be removed by the call that removes the last route to it. The publisher
// finds the safe order. Publish returns at once.
type Publisher interface {
	Publish([]Change)
}

// Progress tells how far the proxies of a group are.
type Progress struct {
	Group   Group
	Proxies int // connected
	// Current counts the proxies that acknowledged all that was published
	// for the group so far.
	Current int
	// Rejected lists the resources whose newest version a proxy refused;
	// the last good version of each stays in force.
	Rejected []Rejection
}

// Rejection is a proxy's refusal of a resource.
type Rejection struct {
	Ref     Ref
	Origins []model.Key
	Reason  string // Envoy's words, or those of the check before sending
}

// Secret is a certificate with its key, or the roots that peers are verified
// with.
type Secret struct {
	Name  string
	Cert  []byte // PEM chain, leaf first
	Key   []byte // PEM
	Roots []byte // PEM; set instead of Cert and Key
}

// Protocol is what a listener or a cluster speaks.
type Protocol string

// The protocols.
const (
	HTTP  Protocol = "HTTP"  // HTTP/1.1 and cleartext HTTP/2, by what comes
	HTTPS Protocol = "HTTPS" // the same in TLS
	HTTP2 Protocol = "HTTP2" // clusters only: HTTP/2 with prior knowledge
	TCP   Protocol = "TCP"
)

// Listener is a place where proxies accept connections. Exactly one of
// Gateway, Inbound and Outbound is set.
type Listener struct {
	Name     string
	Gateway  *GatewayListener
	Inbound  *Inbound
	Outbound *Outbound
}

// GatewayListener is a port of a Gateway.
type GatewayListener struct {
	Addresses []netip.Addr // empty: all of both families
	Port      uint16
	Protocol  Protocol // HTTP, HTTPS or TCP
	// Space is where an HTTP listener looks up the routes of hosts. For HTTPS
	// each chain has its own.
	Space string
	// Chains are an HTTPS listener's, chosen by the server name that the
	// client asks for. Names do not overlap between chains.
	Chains []TLSChain
	// Split is where TCP connections go.
	Cluster string
}

// TLSChain terminates TLS for some server names.
type TLSChain struct {
	Name        string
	ServerNames []string // "a.example", "*.example"; empty: any other
	Secrets     []string // names of [Secret]s
	Space       string
}

// MTLSMode is how a workload takes connections of the mesh.
type MTLSMode string

// The modes of PeerAuthentication.
const (
	Strict     MTLSMode = "STRICT"
	Permissive MTLSMode = "PERMISSIVE"
	Disable    MTLSMode = "DISABLE"
)

// Inbound is where a sidecar takes connections that were addressed to its Pod.
// The Pod's rules redirect them to Port.
type Inbound struct {
	Port  uint16
	Ports []InboundPort // ports that Services name; others follow Default
	// Default is the mode of all other ports, which carry TCP.
	Default MTLSMode
}

// InboundSource4 and InboundSource6 are the addresses from which a sidecar
// connects to its own application. By them the Pod's rules know these
// connections from those that the Pod opens to itself through its Service,
// which have to pass the inbound listener first.
var (
	InboundSource4 = netip.MustParseAddr("127.0.0.6")
	InboundSource6 = netip.IPv6Loopback()
)

// InboundPort is a port of the workload.
type InboundPort struct {
	Port     uint16
	Protocol Protocol // HTTP or TCP
	Mode     MTLSMode
}

// Outbound is where a sidecar takes the connections that its Pod opens.
type Outbound struct {
	Port uint16
	// HTTPPorts are the ports on which Services of the mesh speak HTTP. On
	// them, what is HTTP is routed by host; a host that nobody knows goes
	// where the client wanted to go. A host may have other routes on each
	// port: those of port p are in the space [OutboundSpace](Space, p).
	HTTPPorts []uint16
	Space     string
	// ServiceRanges hold the ClusterIPs. A connection to an address in them
	// on another port goes to the cluster named by [TCPClusterName].
	ServiceRanges []netip.Prefix
	// TCPServices are the addresses of Services that speak TCP on one of
	// HTTPPorts. They are taken as TCP all the same.
	TCPServices []netip.AddrPort
}

// OutboundSpace is the space of names in which an [Outbound] with that Space
// looks up the hosts of requests that were sent to port.
func OutboundSpace(space string, port uint16) string {
	return space + ":" + strconv.Itoa(int(port))
}

// TCPClusterName is the name of the cluster that takes TCP connections to a
// Service's address and port, so that the outbound listener is the same
// whatever Services there are.
func TCPClusterName(vip netip.AddrPort) string { return "tcp/" + vip.String() }

// Cluster is a set of endpoints and how to talk to them. Its endpoints are the
// [Endpoints] of the same name.
type Cluster struct {
	Name     string
	Protocol Protocol // HTTP, HTTP2 or TCP
	// Localities says that the weights of the endpoints' localities count:
	// a split among backends inside one cluster, for TCP.
	Localities     bool
	ConnectTimeout time.Duration // 0: 5 s
	// MTLS speaks mutual TLS to those endpoints that have Mesh set.
	MTLS *ClientMTLS
}

// ClientMTLS is how a client proves itself to a server of the mesh.
type ClientMTLS struct {
	// PeerIDs are the SPIFFE IDs of which the server must have one.
	PeerIDs []string
	// ALPN is offered to the server, so that its sidecar knows a connection
	// of the mesh from the application's own TLS.
	ALPN string
}

// ALPNMesh is the application protocol of connections between sidecars.
const ALPNMesh = "sluice-mesh"

// Endpoints are the members of the cluster of the same name.
type Endpoints struct {
	Cluster    string
	Localities []Locality
}

// Locality is a share of a cluster.
type Locality struct {
	Name      string // stable, such as "v2"; empty if there is only one
	Weight    uint32 // counts where the cluster says so; 0: gets nothing
	Endpoints []Endpoint
}

// Endpoint is one member of a cluster.
type Endpoint struct {
	Addr     netip.AddrPort
	Weight   uint32 // 0 counts as 1
	Draining bool   // gets no new requests
	Mesh     bool   // has a sidecar that speaks mutual TLS
}

// Kind implements [Resource].
func (*Secret) Kind() Kind { return KindSecret }

// ID implements [Resource].
func (s *Secret) ID() string { return s.Name }

// Kind implements [Resource].
func (*Cluster) Kind() Kind { return KindCluster }

// ID implements [Resource].
func (c *Cluster) ID() string { return c.Name }

// Kind implements [Resource].
func (*Endpoints) Kind() Kind { return KindEndpoints }

// ID implements [Resource].
func (e *Endpoints) ID() string { return e.Cluster }

// Kind implements [Resource].
func (*Listener) Kind() Kind { return KindListener }

// ID implements [Resource].
func (l *Listener) ID() string { return l.Name }
