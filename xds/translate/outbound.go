package translate

import (
	"fmt"
	"net/netip"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	statev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
)

// outbound makes the listeners of what a Pod's application connects to: one
// that all connections come to, and for each port of HTTP one that is handed
// the connections to that port. A port that is added or removed thereby
// touches no connection of any other.
func outbound(name string, o *route.Outbound) ([]delta.Resource, error) {
	if o.Port == 0 {
		return nil, fmt.Errorf("listener %s: it has no port", name)
	}
	for _, r := range o.ServiceRanges {
		if !r.IsValid() {
			return nil, fmt.Errorf("listener %s: a range of Services is not valid", name)
		}
	}
	clusterResource, err := originalDst(OutboundCluster, nil)
	if err != nil {
		return nil, err
	}
	out := []delta.Resource{clusterResource}
	var p packer
	main := &listenerv3.Listener{
		Name:             name,
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		UseOriginalDst:   wrapperspb.Bool(true),
		ListenerFilters:  []*listenerv3.ListenerFilter{p.originalDst()},
		FilterChains:     append(p.tcpChains(o.ServiceRanges), p.loopGuard(o.Port)),
	}
	listenOn(main, nil, o.Port)
	if p.err != nil {
		return nil, fmt.Errorf("listener %s: %w", name, p.err)
	}
	r, err := resource(listenerRef(name), main, clusterRef(OutboundCluster))
	if err != nil {
		return nil, fmt.Errorf("listener %s: %w", name, err)
	}
	out = append(out, r)
	seen := map[uint16]bool{o.Port: true}
	for _, port := range o.HTTPPorts {
		if port == 0 || seen[port] {
			return nil, fmt.Errorf("listener %s: port %d is there twice, or is its own", name, port)
		}
		seen[port] = true
		r, err := outboundHTTP(name, port, o)
		if err != nil {
			return nil, fmt.Errorf("listener %s: port %d: %w", name, port, err)
		}
		out = append(out, r)
	}
	return out, nil
}

// outboundHTTP makes the listener of a port of HTTP. It is bound to no socket.
// A connection to a Service's address is HTTP without a look, so that one on
// which the client takes its time is not mistaken; of what goes elsewhere only
// that is taken which is HTTP.
func outboundHTTP(name string, port uint16, o *route.Outbound) (delta.Resource, error) {
	space := route.OutboundSpace(o.Space, port)
	if err := checkSpace(space); err != nil {
		return delta.Resource{}, err
	}
	var p packer
	http := func() []*listenerv3.Filter {
		return []*listenerv3.Filter{p.http(sidecar(p.hosts("outbound", space)))}
	}
	out := &listenerv3.Listener{
		Name:             fmt.Sprintf("%s/%d", name, port),
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		BindToPort:       wrapperspb.Bool(false),
		// No inspector of TLS: what a client offers inside its own TLS would
		// be taken for what it speaks here.
		ListenerFilters:                  []*listenerv3.ListenerFilter{p.httpInspector()},
		ListenerFiltersTimeout:           durationpb.New(inspectTime),
		ContinueOnListenerFiltersTimeout: true,
		FilterChains: []*listenerv3.FilterChain{{
			Name:             "http",
			FilterChainMatch: &listenerv3.FilterChainMatch{ApplicationProtocols: []string{"http/1.0", "http/1.1", "h2c"}},
			Filters:          http(),
		}, {
			Name:    "passthrough",
			Filters: []*listenerv3.Filter{p.tcp("outbound", OutboundCluster)},
		}},
	}
	listenOn(out, nil, port)
	if len(o.ServiceRanges) > 0 {
		out.FilterChains = append(out.FilterChains, &listenerv3.FilterChain{
			Name:             "services",
			FilterChainMatch: &listenerv3.FilterChainMatch{PrefixRanges: cidrs(o.ServiceRanges...)},
			Filters:          http(),
		})
	}
	var exceptions []netip.Prefix
	for _, service := range o.TCPServices {
		if service.Port() == port {
			exceptions = append(exceptions, netip.PrefixFrom(service.Addr(), service.Addr().BitLen()))
		}
	}
	if len(exceptions) > 0 {
		slices.SortFunc(exceptions, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		out.FilterChains = append(out.FilterChains, &listenerv3.FilterChain{
			Name:             "tcp",
			FilterChainMatch: &listenerv3.FilterChainMatch{PrefixRanges: cidrs(slices.Compact(exceptions)...)},
			Filters:          p.byAddress(),
		})
	}
	if p.err != nil {
		return delta.Resource{}, p.err
	}
	return resource(listenerRef(out.Name), out, clusterRef(OutboundCluster))
}

// tcpChains send connections to Services by their addresses, and others on.
func (p *packer) tcpChains(services []netip.Prefix) []*listenerv3.FilterChain {
	chains := []*listenerv3.FilterChain{{
		Name:    "passthrough",
		Filters: []*listenerv3.Filter{p.tcp("outbound", OutboundCluster)},
	}}
	if len(services) > 0 {
		chains = append(chains, &listenerv3.FilterChain{
			Name:             "services",
			FilterChainMatch: &listenerv3.FilterChainMatch{PrefixRanges: cidrs(services...)},
			Filters:          p.byAddress(),
		})
	}
	return chains
}

// byAddress sends a connection to the cluster named by the address that it was
// made to: see [route.TCPClusterName]. So the chain is the same for any number
// of Services.
func (p *packer) byAddress() []*listenerv3.Filter {
	return []*listenerv3.Filter{
		p.filter("envoy.filters.network.set_filter_state", &setstatev3.Config{
			OnNewConnection: []*statev3.FilterStateValue{{
				Key: &statev3.FilterStateValue_ObjectKey{ObjectKey: "envoy.tcp_proxy.cluster"},
				Value: &statev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
					Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
						Specifier: &corev3.DataSource_InlineString{InlineString: "tcp/%DOWNSTREAM_LOCAL_ADDRESS%"},
					}},
				}},
			}},
		}),
		// The cluster here counts only if the state were not set.
		p.tcp("outbound", OutboundCluster),
	}
}
