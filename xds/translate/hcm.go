package translate

import (
	_ "embed" // for the filter's script
	"time"

	mutationrules "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/early_header_mutation/header_mutation/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// scopeFilter is the filter that looks a host up again that was not found.
const scopeFilter = "sluice.scope"

//go:embed scope.lua
var scopeScript string

// manager is what the connection managers of all listeners have in common.
func (p *packer) manager(statPrefix string, filters ...*hcmv3.HttpFilter) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		StatPrefix: statPrefix,
		CodecType:  hcmv3.HttpConnectionManager_AUTO,
		HttpFilters: append(filters, &hcmv3.HttpFilter{
			Name: "envoy.filters.http.router",
			ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: p.any(&routerv3.Router{
				SuppressEnvoyHeaders: true,
			})},
		}),
		// The backend's own Server header goes to the client.
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		NormalizePath:              wrapperspb.Bool(true),
		UpgradeConfigs:             []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
	}
}

// hosts makes a connection manager that looks the routes of hosts up in a
// space. The scope's key is made of the authority by a header mutation that
// comes before the look-up; a filter, which exact hosts switch off, asks again
// for what was not found.
func (p *packer) hosts(statPrefix, space string) *hcmv3.HttpConnectionManager {
	out := p.manager(statPrefix, &hcmv3.HttpFilter{
		Name: scopeFilter,
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: p.any(&luav3.Lua{
			DefaultSourceCode: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: scopeScript}},
		})},
	})
	out.EarlyHeaderMutationExtensions = []*corev3.TypedExtensionConfig{{
		Name: "envoy.http.early_header_mutation.header_mutation",
		TypedConfig: p.any(&mutationv3.HeaderMutation{Mutations: []*mutationrules.HeaderMutation{{
			Action: &mutationrules.HeaderMutation_Append{Append: &corev3.HeaderValueOption{
				Header: &corev3.HeaderValue{
					Key:   ScopeHeader,
					Value: scopeKey(space, "") + "%REQ(:AUTHORITY)%",
				},
				AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
			}},
		}}}),
	}}
	out.RouteSpecifier = &hcmv3.HttpConnectionManager_ScopedRoutes{ScopedRoutes: &hcmv3.ScopedRoutes{
		// All listeners that say the same share one subscription, and with
		// it the memory that the routes take.
		Name: "hosts",
		ScopeKeyBuilder: &hcmv3.ScopedRoutes_ScopeKeyBuilder{Fragments: []*hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder{{
			Type: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_{
				HeaderValueExtractor: &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor{
					Name: ScopeHeader,
					// The first of what colons separate: the port is left
					// out of the key, while the backend gets to see it.
					ElementSeparator: ":",
					ExtractType:      &hcmv3.ScopedRoutes_ScopeKeyBuilder_FragmentBuilder_HeaderValueExtractor_Index{},
				},
			},
		}}},
		ConfigSpecifier: &hcmv3.ScopedRoutes_ScopedRds{ScopedRds: &hcmv3.ScopedRds{
			ScopedRdsConfigSource: adsSource(),
		}},
	}}
	return out
}

// edge hardens a connection manager that faces clients of any kind.
func edge(m *hcmv3.HttpConnectionManager) *hcmv3.HttpConnectionManager {
	m.UseRemoteAddress = wrapperspb.Bool(true)
	m.MergeSlashes = true
	m.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT
	m.RequestHeadersTimeout = durationpb.New(10 * time.Second)
	m.Http2ProtocolOptions = &corev3.Http2ProtocolOptions{
		MaxConcurrentStreams:        wrapperspb.UInt32(100),
		InitialStreamWindowSize:     wrapperspb.UInt32(64 << 10),
		InitialConnectionWindowSize: wrapperspb.UInt32(1 << 20),
	}
	return m
}

// sidecar leaves a request as it is: what it says of the client's address was
// said by the application or by a gateway.
func sidecar(m *hcmv3.HttpConnectionManager) *hcmv3.HttpConnectionManager {
	m.UseRemoteAddress = wrapperspb.Bool(false)
	m.SkipXffAppend = true
	m.GenerateRequestId = wrapperspb.Bool(false)
	// The application decides how long it keeps a stream.
	m.StreamIdleTimeout = durationpb.New(0)
	return m
}

// allTo is a route configuration that sends all requests to one cluster.
func allTo(name, cluster string) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{
		Name: name,
		VirtualHosts: []*routev3.VirtualHost{{
			Name: name, Domains: []string{"*"}, Routes: []*routev3.Route{passRoute(name, cluster)},
		}},
	}
}

// passRoute sends all requests to a cluster, for as long as they take.
func passRoute(name, cluster string) *routev3.Route {
	return &routev3.Route{
		Name:  name,
		Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
			Timeout:          durationpb.New(0),
		}},
	}
}

// filter makes a network filter.
func (p *packer) filter(name string, config message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: p.any(config)}}
}

func (p *packer) http(m *hcmv3.HttpConnectionManager) *listenerv3.Filter {
	return p.filter("envoy.filters.network.http_connection_manager", m)
}
