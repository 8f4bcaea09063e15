package delta

import (
	"sync/atomic"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// The types that the order of a change knows. A resource of another type is
// sent after clusters and endpoints and before listeners.
const (
	SecretType      = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
	ClusterType     = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointsType   = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType    = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType       = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	ScopedRouteType = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
)

const ranks = 7

// rank orders the types within a stream: what is pointed at comes before what
// points at it, so that one pass without waiting is right already where
// nothing has to be waited for.
func rank(typeURL string) int {
	switch typeURL {
	case SecretType:
		return 0
	case ClusterType:
		return 1
	case EndpointsType:
		return 2
	case ListenerType:
		return 4
	case RouteType:
		return 5
	case ScopedRouteType:
		return 6
	}
	return 3
}

// level orders the types by who needs whom: what has a higher level may need
// what has a lower one.
func level(typeURL string) int {
	switch typeURL {
	case ClusterType:
		return 2
	case EndpointsType:
		return 1
	}
	return rank(typeURL)
}

// Change adds or replaces a resource of a group, or removes it.
type Change struct {
	Group    string
	Ref      Ref       // always set
	Resource *Resource // nil: remove Ref
}

// Set returns the change that adds or replaces a resource. The resource must
// not be written to afterwards.
func Set(group string, r *Resource) Change {
	return Change{Group: group, Ref: r.Ref, Resource: r}
}

// Remove returns the change that removes a resource.
func Remove(group string, ref Ref) Change { return Change{Group: group, Ref: ref} }

// entry is one version of a resource in a group, shared by all clients.
type entry struct {
	ref     Ref
	version string
	needs   []Ref
	seq     uint64              // of the change set that brought it
	message *discovery.Resource // as it stands in a response
	// last is the version before, the last one that nobody refused: a proxy
	// that comes back may still have it.
	last *entry
	// suspect is set once a client refused this version. From then on it is
	// sent to others alone, so that it takes nothing else down with it.
	suspect atomic.Bool
	// unknown marks what a reconnected client says it has and the server
	// does not: nobody knows what it needs.
	unknown bool
}

// same reports whether a client that has a needs nothing to have b.
func same(a, b *entry) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.version == b.version
}
