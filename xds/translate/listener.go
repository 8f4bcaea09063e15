package translate

import (
	"errors"
	"fmt"
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	directv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/direct_response/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
)

// listener makes the listeners of one of route's, and the clusters that only
// they use.
func listener(l *route.Listener) ([]delta.Resource, error) {
	kinds := 0
	for _, set := range []bool{l.Gateway != nil, l.Inbound != nil, l.Outbound != nil} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return nil, fmt.Errorf("listener %s: %d of gateway, inbound and outbound are set, not one", l.Name, kinds)
	case l.Gateway != nil:
		r, err := gateway(l.Name, l.Gateway)
		if err != nil {
			return nil, fmt.Errorf("listener %s: %w", l.Name, err)
		}
		return []delta.Resource{r}, nil
	case l.Inbound != nil:
		return inbound(l.Name, l.Inbound)
	}
	return outbound(l.Name, l.Outbound)
}

// gateway makes a listener whose shape does not depend on routes.
func gateway(name string, g *route.GatewayListener) (delta.Resource, error) {
	if g.Port == 0 {
		return delta.Resource{}, errors.New("it has no port")
	}
	var p packer
	out := &listenerv3.Listener{Name: name, TrafficDirection: corev3.TrafficDirection_INBOUND}
	listenOn(out, g.Addresses, g.Port)
	var needs []delta.Ref
	switch g.Protocol {
	case route.HTTP:
		if err := checkSpace(g.Space); err != nil {
			return delta.Resource{}, err
		}
		out.FilterChains = []*listenerv3.FilterChain{{
			Name:    "http",
			Filters: []*listenerv3.Filter{p.http(edge(p.hosts(name, g.Space)))},
		}}
	case route.HTTPS:
		if len(g.Chains) == 0 {
			return delta.Resource{}, errors.New("HTTPS without a certificate")
		}
		out.ListenerFilters = []*listenerv3.ListenerFilter{p.tlsInspector()}
		if err := checkChains(g.Chains); err != nil {
			return delta.Resource{}, err
		}
		for _, c := range g.Chains {
			out.FilterChains = append(out.FilterChains, p.tlsChain(name, c))
			for _, s := range c.Secrets {
				needs = append(needs, secretRef(s))
			}
		}
	case route.TCP:
		if g.Cluster == "" {
			return delta.Resource{}, errors.New("TCP without a cluster")
		}
		needs = append(needs, clusterRef(g.Cluster))
		out.FilterChains = []*listenerv3.FilterChain{{
			Name:    "tcp",
			Filters: []*listenerv3.Filter{p.tcp(name, g.Cluster)},
		}}
	default:
		return delta.Resource{}, fmt.Errorf("it cannot speak %q", g.Protocol)
	}
	if p.err != nil {
		return delta.Resource{}, p.err
	}
	return resource(listenerRef(name), out, needs...)
}

// checkChains returns why chains cannot be those of one listener: Envoy refuses
// a listener in which two match the same.
func checkChains(chains []route.TLSChain) error {
	owners := map[string]string{}
	for _, c := range chains {
		if len(c.Secrets) == 0 {
			return fmt.Errorf("chain %s: no certificate", c.Name)
		}
		if err := checkSpace(c.Space); err != nil {
			return fmt.Errorf("chain %s: %w", c.Name, err)
		}
		names := serverNames(c)
		if len(names) == 0 {
			names = []string{"*"}
		}
		for _, name := range names {
			if other, taken := owners[name]; taken {
				return fmt.Errorf("two chains are for %s: %s and %s", name, other, c.Name)
			}
			owners[name] = c.Name
		}
	}
	return nil
}

func (p *packer) tlsChain(listener string, c route.TLSChain) *listenerv3.FilterChain {
	out := &listenerv3.FilterChain{
		Name:                          c.Name,
		TransportSocket:               p.tlsSocket(gatewayTLS(c.Secrets)),
		TransportSocketConnectTimeout: durationpb.New(handshakeTime),
		Filters:                       []*listenerv3.Filter{p.http(edge(p.hosts(listener, c.Space)))},
	}
	if names := serverNames(c); len(names) > 0 {
		out.FilterChainMatch = &listenerv3.FilterChainMatch{ServerNames: names}
	}
	return out
}

// listenOn sets a listener's addresses; none means all of both families.
func listenOn(out *listenerv3.Listener, addrs []netip.Addr, port uint16) {
	if len(addrs) == 0 {
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	out.Address = socketAddress(addrs[0], port)
	for _, a := range addrs[1:] {
		out.AdditionalAddresses = append(out.AdditionalAddresses, &listenerv3.AdditionalAddress{Address: socketAddress(a, port)})
	}
}

// tcp is a proxy of connections to one cluster.
func (p *packer) tcp(statPrefix, cluster string) *listenerv3.Filter {
	return p.filter("envoy.filters.network.tcp_proxy", &tcpv3.TcpProxy{
		StatPrefix:       statPrefix,
		ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster},
	})
}

func (p *packer) listenerFilter(name string, config message) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: p.any(config)}}
}

// tlsInspector tells TLS from clear text, and reads the server's name and the
// application protocols that a client asks for.
func (p *packer) tlsInspector() *listenerv3.ListenerFilter {
	return p.listenerFilter("envoy.filters.listener.tls_inspector", &tlsinspectorv3.TlsInspector{})
}

// httpInspector tells HTTP from other protocols.
func (p *packer) httpInspector() *listenerv3.ListenerFilter {
	return p.listenerFilter("envoy.filters.listener.http_inspector", &httpinspectorv3.HttpInspector{})
}

// originalDst finds out where a redirected connection was addressed.
func (p *packer) originalDst() *listenerv3.ListenerFilter {
	return p.listenerFilter("envoy.filters.listener.original_dst", &originaldstv3.OriginalDst{})
}

// loopGuard closes connections to a listener's own port, whose original
// destination is the listener itself.
func (p *packer) loopGuard(port uint16) *listenerv3.FilterChain {
	return &listenerv3.FilterChain{
		Name:             "loop",
		FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(uint32(port))},
		Filters:          []*listenerv3.Filter{p.filter("envoy.filters.network.direct_response", &directv3.Config{})},
	}
}

// cidrs are prefixes in Envoy's terms.
func cidrs(prefixes ...netip.Prefix) []*corev3.CidrRange {
	out := make([]*corev3.CidrRange, 0, len(prefixes))
	for _, p := range prefixes {
		p = p.Masked()
		out = append(out, &corev3.CidrRange{
			AddressPrefix: p.Addr().String(),
			PrefixLen:     wrapperspb.UInt32(uint32(p.Bits())),
		})
	}
	return out
}
