// Package bootstrap makes the static configuration that an Envoy starts with:
// who it is, and where it gets all the rest from. It is a pure function of its
// options.
package bootstrap

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	overloadv3 "github.com/envoyproxy/go-control-plane/envoy/config/overload/v3"
	downstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/downstream_connections/v3"
	heapv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/resource_monitors/fixed_heap/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// Names that the bootstrap and the resources served over ADS agree on.
const (
	// ADSCluster is the static cluster of the control plane.
	ADSCluster = "ads"
	// SDSCluster is the static cluster of the secrets served beside the
	// proxy, over a Unix socket: the private key never leaves the Pod.
	SDSCluster = "sds-local"
	// WorkloadSecret is the certificate of the workload, by SDSCluster.
	WorkloadSecret = "workload"
	// RootsSecret holds the roots that peers are verified with, by SDSCluster.
	RootsSecret = "roots"
)

// Options say which Envoy is to be started.
type Options struct {
	// Node is the node id: see [GatewayNode] and [SidecarNode].
	Node string
	// Admin is where the administration interface listens: the path of a
	// Unix socket, or address:port of loopback.
	Admin string
	// ADS is the control plane: the path of a Unix socket, or host:port.
	ADS string
	// ADSTLS is how the control plane is reached over TLS; nil: in clear,
	// which is for Unix sockets and loopback.
	ADSTLS *TLS
	// SDS is the path of the Unix socket where [WorkloadSecret] and
	// [RootsSecret] are served; empty: none.
	SDS string
	// Mark is put on the packets of all upstream connections, which takes
	// CAP_NET_ADMIN; 0: none.
	Mark uint32
	// MaxConnections is how many downstream connections are accepted;
	// 0: 100,000.
	MaxConnections int64
	// MaxHeap is the size in bytes near which Envoy sheds load; 0: unlimited.
	MaxHeap uint64
}

// TLS is how a client verifies its server. It shows [WorkloadSecret], and
// accepts what [RootsSecret] has signed, so it needs Options.SDS.
type TLS struct {
	// PeerID is the name that the server's certificate must have: a SPIFFE
	// ID, or else a DNS name.
	PeerID string
}

// JSON returns the bootstrap as Envoy reads it. The same options make the
// same bytes.
func JSON(o Options) ([]byte, error) {
	b, err := New(o)
	if err != nil {
		return nil, err
	}
	// protojson puts spaces in at random, so that nobody relies on its
	// bytes. A round through structpb's map would not help; Any's order does
	// not vary, so taking the spaces out again is enough.
	raw, err := protojson.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return compact(raw)
}

// New returns the bootstrap, or an error if the options contradict each other.
func New(o Options) (*bootstrapv3.Bootstrap, error) {
	parts, err := split(o.Node)
	if err != nil {
		return nil, err
	}
	if o.ADSTLS != nil && o.SDS == "" {
		return nil, errors.New("bootstrap: TLS to the control plane needs the socket of the workload's secrets")
	}
	admin, err := address(o.Admin)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: admin: %w", err)
	}
	ads, err := cluster(ADSCluster, o.ADS)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: ads: %w", err)
	}
	if o.ADSTLS != nil {
		if ads.TransportSocket, err = clientTLS(o.ADSTLS.PeerID); err != nil {
			return nil, err
		}
	}
	clusters := []*clusterv3.Cluster{ads}
	if o.SDS != "" {
		sds, err := cluster(SDSCluster, o.SDS)
		if err != nil {
			return nil, fmt.Errorf("bootstrap: sds: %w", err)
		}
		clusters = append(clusters, sds)
	}
	overload, err := overload(o)
	if err != nil {
		return nil, err
	}
	b := &bootstrapv3.Bootstrap{
		Node:            &corev3.Node{Id: o.Node, Cluster: parts[0]},
		Admin:           &bootstrapv3.Admin{Address: admin},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{Clusters: clusters},
		DynamicResources: &bootstrapv3.Bootstrap_DynamicResources{
			AdsConfig: grpcSource(ADSCluster, corev3.ApiConfigSource_DELTA_GRPC),
			CdsConfig: adsSource(),
			LdsConfig: adsSource(),
		},
		LayeredRuntime:  runtime(),
		StatsConfig:     stats(),
		OverloadManager: overload,
		// Most clusters of a mesh never see a request from this proxy.
		DeferredStatOptions: &bootstrapv3.Bootstrap_DeferredStatOptions{EnableDeferredCreationStats: true},
	}
	if o.Mark != 0 {
		b.ClusterManager = &bootstrapv3.ClusterManager{UpstreamBindConfig: &corev3.BindConfig{SocketOptions: []*corev3.SocketOption{{
			Description: "packet mark",
			Level:       unix.SOL_SOCKET, Name: unix.SO_MARK, State: corev3.SocketOption_STATE_PREBIND,
			Value: &corev3.SocketOption_IntValue{IntValue: int64(o.Mark)},
		}}}}
	}
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return b, nil
}

// adsSource takes a type from the ADS stream. Envoy waits for the first
// configuration for as long as it takes: one that started without would refuse
// what it should serve.
func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		InitialFetchTimeout:   durationpb.New(0),
	}
}

// How long Envoy waits until it tries again to reach the control plane, with
// jitter: at first, and at most. By default it may be half a minute, in which a
// proxy would not hear of changes though a restart takes only a second.
const (
	reconnectBase = 200 * time.Millisecond
	reconnectMax  = 5 * time.Second
)

func grpcSource(cluster string, kind corev3.ApiConfigSource_ApiType) *corev3.ApiConfigSource {
	return &corev3.ApiConfigSource{
		ApiType:                   kind,
		TransportApiVersion:       corev3.ApiVersion_V3,
		SetNodeOnFirstMessageOnly: true,
		GrpcServices: []*corev3.GrpcService{{
			TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
					ClusterName: cluster,
					RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
						BaseInterval: durationpb.New(reconnectBase), MaxInterval: durationpb.New(reconnectMax),
					}},
				},
			},
		}},
	}
}

// LocalSecret names a secret that is served beside the proxy, by
// SecretDiscoveryService.StreamSecrets of [SDSCluster].
func LocalSecret(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ResourceApiVersion: corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{
			ApiConfigSource: grpcSource(SDSCluster, corev3.ApiConfigSource_GRPC),
		},
		// What uses the secret waits for it, however long a certificate
		// takes to be signed.
		InitialFetchTimeout: durationpb.New(0),
	}}
}

// PeerMatcher accepts a certificate that has one of some SPIFFE IDs; none
// means that any SPIFFE ID will do. DNS names are accepted as well where they
// have no "spiffe://" in front.
func PeerMatcher(ids ...string) []*tlsv3.SubjectAltNameMatcher {
	if len(ids) == 0 {
		return []*tlsv3.SubjectAltNameMatcher{{
			SanType: tlsv3.SubjectAltNameMatcher_URI,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://"}},
		}}
	}
	out := make([]*tlsv3.SubjectAltNameMatcher, 0, len(ids))
	for _, id := range ids {
		kind := tlsv3.SubjectAltNameMatcher_DNS
		if strings.HasPrefix(id, "spiffe://") {
			kind = tlsv3.SubjectAltNameMatcher_URI
		}
		out = append(out, &tlsv3.SubjectAltNameMatcher{
			SanType: kind,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id}},
		})
	}
	return out
}

// clientTLS shows the workload's certificate to a server that must be peer.
func clientTLS(peer string) (*corev3.TransportSocket, error) {
	if peer == "" {
		return nil, errors.New("bootstrap: TLS to the control plane needs the name that it must have")
	}
	ctx := &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		AlpnProtocols:                  []string{"h2"},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{LocalSecret(WorkloadSecret)},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: &tlsv3.CertificateValidationContext{
					MatchTypedSubjectAltNames: PeerMatcher(peer),
				},
				ValidationContextSdsSecretConfig: LocalSecret(RootsSecret),
			},
		},
	}}
	if u, err := url.Parse(peer); err != nil || u.Scheme == "" {
		ctx.Sni = peer
	}
	body, err := anypb.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: body},
	}, nil
}

// cluster is a static cluster that speaks HTTP/2 to a Unix socket or host:port.
func cluster(name, where string) (*clusterv3.Cluster, error) {
	addr, err := address(where)
	if err != nil {
		return nil, err
	}
	kind := clusterv3.Cluster_STATIC
	if sock := addr.GetSocketAddress(); sock != nil {
		if _, err := netip.ParseAddr(sock.Address); err != nil {
			kind = clusterv3.Cluster_STRICT_DNS
		}
	}
	options, err := anypb.New(&httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					// A control plane that is gone without a word is noticed
					// within 15 s, and another one asked.
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{ConnectionKeepalive: &corev3.KeepaliveSettings{
						Interval: durationpb.New(10 * time.Second),
						Timeout:  durationpb.New(5 * time.Second),
					}},
				},
			},
		},
	})
	if err != nil {
		return nil, err
	}
	return &clusterv3.Cluster{
		Name:                          name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: kind},
		ConnectTimeout:                durationpb.New(time.Second),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{
			ClusterName: name,
			Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: []*endpointv3.LbEndpoint{{
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: addr}},
			}}}},
		},
	}, nil
}

// runtime is the static layer of the runtime's keys.
func runtime() *bootstrapv3.LayeredRuntime {
	return &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
		Name: "static",
		LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: &structpb.Struct{Fields: map[string]*structpb.Value{
			// The default of 100 refuses ordinary regular expressions.
			"re2.max_program_size.error_level": structpb.NewNumberValue(MaxRegexProgram),
		}}},
	}}}
}

// MaxRegexProgram is the size of a compiled regular expression, in RE2's
// instructions, up to which Envoy accepts it.
const MaxRegexProgram = 32768

// stats keeps the statistics that are read: of the process and its listeners
// all, of each cluster a handful. The rest would be most of the memory of an
// Envoy with thousands of clusters.
func stats() *metricsv3.StatsConfig {
	var patterns []*matcherv3.StringMatcher
	for _, prefix := range []string{
		"server.", "listener.", "listener_manager.", "cluster_manager.", "control_plane.", "runtime.", "overload.", "http.", "tcp.",
		"cluster." + ADSCluster + ".", "cluster." + SDSCluster + ".",
	} {
		patterns = append(patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}})
	}
	for _, suffix := range []string{
		".upstream_cx_active", ".upstream_cx_total", ".upstream_cx_connect_fail",
		".upstream_cx_rx_bytes_total", ".upstream_cx_tx_bytes_total",
		".upstream_rq_total", ".upstream_rq_active", ".upstream_rq_time", ".upstream_rq_timeout", ".upstream_rq_pending_overflow",
		".upstream_rq_2xx", ".upstream_rq_3xx", ".upstream_rq_4xx", ".upstream_rq_5xx",
		".membership_healthy", ".membership_total",
	} {
		patterns = append(patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: suffix}})
	}
	return &metricsv3.StatsConfig{StatsMatcher: &metricsv3.StatsMatcher{
		StatsMatcher: &metricsv3.StatsMatcher_InclusionList{InclusionList: &matcherv3.ListStringMatcher{Patterns: patterns}},
	}}
}

// overload bounds connections, and memory if there is a limit.
func overload(o Options) (*overloadv3.OverloadManager, error) {
	connections := o.MaxConnections
	if connections == 0 {
		connections = 100_000
	}
	m := &overloadv3.OverloadManager{}
	add := func(name string, config proto.Message) error {
		body, err := anypb.New(config)
		if err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
		m.ResourceMonitors = append(m.ResourceMonitors, &overloadv3.ResourceMonitor{
			Name: name, ConfigType: &overloadv3.ResourceMonitor_TypedConfig{TypedConfig: body},
		})
		return nil
	}
	if err := add("envoy.resource_monitors.global_downstream_max_connections",
		&downstreamv3.DownstreamConnectionsConfig{MaxActiveDownstreamConnections: connections}); err != nil {
		return nil, err
	}
	if o.MaxHeap == 0 {
		return m, nil
	}
	const heap = "envoy.resource_monitors.fixed_heap"
	if err := add(heap, &heapv3.FixedHeapConfig{MaxHeapSizeBytes: o.MaxHeap}); err != nil {
		return nil, err
	}
	m.RefreshInterval = durationpb.New(250 * time.Millisecond)
	for _, action := range []struct {
		name  string
		above float64
	}{{"envoy.overload_actions.shrink_heap", 0.90}, {"envoy.overload_actions.stop_accepting_requests", 0.97}} {
		m.Actions = append(m.Actions, &overloadv3.OverloadAction{
			Name: action.name,
			Triggers: []*overloadv3.Trigger{{
				Name:         heap,
				TriggerOneof: &overloadv3.Trigger_Threshold{Threshold: &overloadv3.ThresholdTrigger{Value: action.above}},
			}},
		})
	}
	return m, nil
}
