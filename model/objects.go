package model

import (
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Meta is what the compact kinds keep of an object's metadata.
type Meta struct {
	Namespace  string
	Name       string
	UID        string
	Generation int64
	Created    time.Time
	// Labels, Annotations and UID are there as far as some part reads them of the
	// kind; see package source.
	Labels      map[string]string
	Annotations map[string]string
}

// GetNamespace returns the object's namespace, empty for a cluster-scoped one.
func (m *Meta) GetNamespace() string { return m.Namespace }

// GetName returns the object's name.
func (m *Meta) GetName() string { return m.Name }

// Service is a core/v1 Service with defaults filled in. Its addresses are
// parsed; those that do not parse were reported and left out.
type Service struct {
	Meta
	Type                  corev1.ServiceType
	ClusterIPs            []netip.Addr // empty for headless and ExternalName
	ExternalName          string
	ExternalIPs           []netip.Addr
	LoadBalancerIPs       []netip.Addr // status.loadBalancer.ingress with ipMode VIP
	SourceRanges          []netip.Prefix
	Families              []corev1.IPFamily
	Ports                 []ServicePort
	Selector              string // labels as "key=value,key=value", in order; nothing here selects by it
	ExternalTrafficPolicy corev1.ServiceExternalTrafficPolicy
	InternalTrafficPolicy corev1.ServiceInternalTrafficPolicy
	AffinityTimeout       time.Duration // 0: no session affinity
	TrafficDistribution   string
	Scheduler             string // annotation sluice.io/scheduler; empty: the engine's own
	HealthCheckNodePort   uint16
	Headless              bool // clusterIP: None
	PublishNotReady       bool
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name        string // empty if the Service has one unnamed port
	Protocol    corev1.Protocol
	Port        uint16
	NodePort    uint16 // 0: none
	TargetPort  string // a number or a container port's name, as written
	AppProtocol string
}

// EndpointSlice is a discovery/v1 EndpointSlice of address type IPv4 or IPv6.
type EndpointSlice struct {
	Meta
	Service   string // of the same namespace; the label kubernetes.io/service-name
	Ports     []EndpointPort
	Endpoints []Endpoint
	Weight    int32 // annotation sluice.io/weight; 1 unless set, 0 drains
	IPv6      bool
	// Triggered is when that happened of which the slice tells, by the annotation
	// endpoints.kubernetes.io/last-change-trigger-time; zero: unknown. A slice
	// that differs in it alone is no change.
	Triggered time.Time
}

// EndpointPort is a port that all endpoints of a slice have.
type EndpointPort struct {
	Name        string
	Protocol    corev1.Protocol
	Port        uint16
	AppProtocol string
}

// Endpoint is one backend. An EndpointSlice's addresses of one endpoint are
// fungible; proxies use the first.
type Endpoint struct {
	Addr        netip.Addr
	Node        string
	Zone        string
	Pod         string // targetRef of kind Pod, in the slice's namespace
	Ready       bool
	Serving     bool
	Terminating bool
	Rare        *RareEndpoint // nil: none of it
}

// RareEndpoint is what most endpoints do not have. There are more endpoints in a
// cluster than of anything else, so it is not in each of them.
type RareEndpoint struct {
	MoreAddrs []netip.Addr // the rest of the addresses, of which DNS makes records
	Hostname  string
	ForZones  []string // hints
	ForNodes  []string
}

// MoreAddrs returns the addresses but the first.
func (e *Endpoint) MoreAddrs() []netip.Addr { return e.rare().MoreAddrs }

// Hostname returns the endpoint's own name below its Service's, or "".
func (e *Endpoint) Hostname() string { return e.rare().Hostname }

// ForZones returns the zones that the endpoint is meant for, by its hints.
func (e *Endpoint) ForZones() []string { return e.rare().ForZones }

// ForNodes returns the nodes that the endpoint is meant for, by its hints.
func (e *Endpoint) ForNodes() []string { return e.rare().ForNodes }

func (e *Endpoint) rare() RareEndpoint {
	if e.Rare == nil {
		return RareEndpoint{}
	}
	return *e.Rare
}

// Pod is what is kept of a core/v1 Pod.
type Pod struct {
	Meta
	IPs            []netip.Addr
	HostIPs        []netip.Addr
	Node           string
	ServiceAccount string
	Hostname       string
	Subdomain      string
	HostNetwork    bool
	Ready          bool
	Terminated     bool // phase Succeeded or Failed
	Deleting       bool // its address may soon be another's
	Ports          []ContainerPort
}

// ContainerPort is a port that a container of a Pod declares.
type ContainerPort struct {
	Name     string
	Protocol corev1.Protocol
	Port     uint16
}

// Node is what is kept of a core/v1 Node.
type Node struct {
	Meta
	InternalIPs []netip.Addr
	ExternalIPs []netip.Addr
	Hostname    string
	PodCIDRs    []netip.Prefix
	Deleting    bool // being deleted, or tainted ToBeDeletedByClusterAutoscaler (KEP-3836)
}

// Zone returns the node's topology.kubernetes.io/zone.
func (n *Node) Zone() string { return n.Labels[corev1.LabelTopologyZone] }

// ServiceCIDR is a networking/v1 ServiceCIDR: ranges that ClusterIPs are
// allocated from, at most one of each family.
type ServiceCIDR struct {
	Meta
	CIDRs []netip.Prefix
}

// Namespace is a core/v1 Namespace.
type Namespace struct{ Meta }

// Secret is a core/v1 Secret.
type Secret struct {
	Meta
	Type corev1.SecretType
	Data map[string][]byte
}

// ConfigMap is a core/v1 ConfigMap.
type ConfigMap struct {
	Meta
	Data map[string]string
}

// ServiceAccount is a core/v1 ServiceAccount.
type ServiceAccount struct{ Meta }

// Split says that connections to a port of a Service go to the endpoints of
// several backends by weight, in the kernel. Its namespace and name are the
// Service's, followed by ":" and the port.
type Split struct {
	Meta
	Service  Name
	Port     uint16
	Protocol corev1.Protocol
	Backends []SplitBackend
	Origin   Key // the route that asks for it
}

// SplitBackend is one share of a [Split].
type SplitBackend struct {
	Service  Name
	Port     uint16            // the Service's port
	Selector map[string]string // labels of the Pods of a subset; empty: all
	Weight   uint32
}
