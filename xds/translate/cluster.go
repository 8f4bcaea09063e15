package translate

import (
	"fmt"
	"math"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
)

const (
	// endpointsTimeout is how long a changed cluster waits for endpoints
	// that come unasked, before it takes those that it had.
	endpointsTimeout = 500 * time.Millisecond
	// connectTimeout is for clusters that have none.
	connectTimeout = 5 * time.Second

	httpOptionsKey    = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	transportMatchKey = "envoy.transport_socket_match"
)

// cluster makes a cluster whose endpoints come over the same stream.
func cluster(c *route.Cluster) (delta.Resource, error) {
	eds := adsSource()
	eds.InitialFetchTimeout = durationpb.New(endpointsTimeout)
	out := &clusterv3.Cluster{
		Name:                 c.Name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: eds},
		ConnectTimeout:       durationpb.New(connectTimeout),
		CircuitBreakers:      openBreakers(),
		// Round robin is the policy that keeps to weights exactly, whatever
		// connections are open.
		LbPolicy: clusterv3.Cluster_ROUND_ROBIN,
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{
			// Or else most endpoints draining would mean that all get requests.
			HealthyPanicThreshold: &typev3.Percent{Value: 0},
		},
	}
	if c.ConnectTimeout > 0 {
		out.ConnectTimeout = durationpb.New(c.ConnectTimeout)
	}
	if c.Localities {
		out.CommonLbConfig.LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
			LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{},
		}
	}
	var p packer
	switch c.Protocol {
	case route.HTTP:
		out.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptionsKey: p.any(explicitHTTP(false))}
	case route.HTTP2:
		out.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpOptionsKey: p.any(explicitHTTP(true))}
	case route.TCP:
	default:
		return delta.Resource{}, fmt.Errorf("a cluster cannot speak %q", c.Protocol)
	}
	if c.MTLS != nil {
		out.TransportSocketMatches = []*clusterv3.Cluster_TransportSocketMatch{{
			Name:            meshMatch,
			Match:           meshMetadata(),
			TransportSocket: p.tlsSocket(clientTLS(c)),
		}}
	}
	if p.err != nil {
		return delta.Resource{}, p.err
	}
	return resource(clusterRef(c.Name), out, endpointsRef(c.Name))
}

// explicitHTTP makes upstream connections speak HTTP/2 or HTTP/1.1.
func explicitHTTP(h2 bool) *httpv3.HttpProtocolOptions {
	explicit := &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
			HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
		},
	}
	if h2 {
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
			Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
		}
	}
	return &httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit},
	}
}

// originalDst makes a cluster that sends each connection to where it was
// addressed, in the protocol in which it came.
func originalDst(name string, source *corev3.BindConfig) (delta.Resource, error) {
	var p packer
	options := &httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions:  &corev3.Http1ProtocolOptions{},
				Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
			},
		},
	}
	out := &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST},
		ConnectTimeout:                durationpb.New(connectTimeout),
		LbPolicy:                      clusterv3.Cluster_CLUSTER_PROVIDED,
		UpstreamBindConfig:            source,
		CircuitBreakers:               openBreakers(),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{httpOptionsKey: p.any(options)},
	}
	if p.err != nil {
		return delta.Resource{}, p.err
	}
	return resource(clusterRef(name), out)
}

// openBreakers lifts Envoy's default limit of 1024 connections and requests a
// cluster, which nobody asked for.
func openBreakers() *clusterv3.CircuitBreakers {
	unlimited := wrapperspb.UInt32(math.MaxUint32)
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections: unlimited, MaxPendingRequests: unlimited, MaxRequests: unlimited, MaxRetries: unlimited,
	}}}
}

func meshMetadata() *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{meshMatch: structpb.NewBoolValue(true)}}
}

// endpoints makes the members of a cluster. None at all is a valid answer:
// the cluster then has no endpoints, rather than waiting for them.
func endpoints(e *route.Endpoints) (delta.Resource, error) {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: e.Cluster}
	names := make(map[string]bool, len(e.Localities))
	var total uint64
	for _, l := range e.Localities {
		if names[l.Name] {
			return delta.Resource{}, fmt.Errorf("two localities are named %q", l.Name)
		}
		names[l.Name] = true
		if total += uint64(l.Weight); total > math.MaxUint32 {
			return delta.Resource{}, fmt.Errorf("the sum of the localities' weights is over %d", uint32(math.MaxUint32))
		}
		group, err := locality(l)
		if err != nil {
			return delta.Resource{}, err
		}
		out.Endpoints = append(out.Endpoints, group)
	}
	return resource(endpointsRef(e.Cluster), out)
}

func locality(l route.Locality) (*endpointv3.LocalityLbEndpoints, error) {
	out := &endpointv3.LocalityLbEndpoints{LbEndpoints: make([]*endpointv3.LbEndpoint, 0, len(l.Endpoints))}
	if l.Name != "" {
		out.Locality = &corev3.Locality{SubZone: l.Name}
	}
	// No weight means no share, where weights count; zero is not valid.
	if l.Weight > 0 {
		out.LoadBalancingWeight = wrapperspb.UInt32(l.Weight)
	}
	var total uint64
	for _, ep := range l.Endpoints {
		if !ep.Addr.IsValid() || ep.Addr.Port() == 0 || ep.Addr.Addr().Zone() != "" {
			return nil, fmt.Errorf("%s is not an endpoint's address", ep.Addr)
		}
		weight := max(1, ep.Weight)
		if total += uint64(weight); total > math.MaxUint32 {
			return nil, fmt.Errorf("the sum of the endpoints' weights is over %d", uint32(math.MaxUint32))
		}
		member := &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: socketAddress(ep.Addr.Addr(), ep.Addr.Port()),
			}},
			LoadBalancingWeight: wrapperspb.UInt32(weight),
		}
		if ep.Draining {
			member.HealthStatus = corev3.HealthStatus_DRAINING
		}
		if ep.Mesh {
			member.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{transportMatchKey: meshMetadata()}}
		}
		out.LbEndpoints = append(out.LbEndpoints, member)
	}
	return out, nil
}
