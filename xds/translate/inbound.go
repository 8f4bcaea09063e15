package translate

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
)

// inspectTime is how long a listener waits for a client's first bytes where it
// has to know what they are. In protocols in which the server speaks first it
// delays the first byte of each connection; a client of TLS that takes longer
// is mistaken for one of clear text.
const inspectTime = 500 * time.Millisecond

// inbound makes the listener of what was addressed to a Pod. Each port that is
// known has its chains, so that a change of one leaves the connections of the
// others alone.
func inbound(name string, in *route.Inbound) ([]delta.Resource, error) {
	if in.Port == 0 {
		return nil, fmt.Errorf("listener %s: it has no port", name)
	}
	b := &inboundBuilder{}
	out := &listenerv3.Listener{
		Name:                             name,
		TrafficDirection:                 corev3.TrafficDirection_INBOUND,
		ListenerFiltersTimeout:           durationpb.New(inspectTime),
		ContinueOnListenerFiltersTimeout: true,
	}
	listenOn(out, nil, in.Port)
	seen := map[uint16]bool{in.Port: true}
	var plain []uint16
	for _, port := range in.Ports {
		if port.Port == 0 || seen[port.Port] {
			return nil, fmt.Errorf("listener %s: port %d is there twice", name, port.Port)
		}
		seen[port.Port] = true
		if err := b.port(port.Port, port.Protocol, port.Mode); err != nil {
			return nil, fmt.Errorf("listener %s: port %d: %w", name, port.Port, err)
		}
		if port.Mode == route.Disable && port.Protocol == route.TCP {
			plain = append(plain, port.Port)
		}
	}
	if err := b.port(0, route.TCP, in.Default); err != nil {
		return nil, fmt.Errorf("listener %s: other ports: %w", name, err)
	}
	out.FilterChains = append(b.chains, b.loopGuard(in.Port))
	out.ListenerFilters = []*listenerv3.ListenerFilter{b.originalDst(), except(b.tlsInspector(), plain)}
	if b.err != nil {
		return nil, fmt.Errorf("listener %s: %w", name, b.err)
	}
	clusterResource, err := originalDst(InboundCluster, inboundSource())
	if err != nil {
		return nil, err
	}
	listenerResource, err := resource(listenerRef(name), out, clusterRef(InboundCluster))
	if err != nil {
		return nil, fmt.Errorf("listener %s: %w", name, err)
	}
	return []delta.Resource{clusterResource, listenerResource}, nil
}

// inboundSource is where connections to the application come from: see
// [route.InboundSource4].
func inboundSource() *corev3.BindConfig {
	at := func(a netip.Addr) *corev3.SocketAddress {
		return &corev3.SocketAddress{Address: a.String(), PortSpecifier: &corev3.SocketAddress_PortValue{}}
	}
	return &corev3.BindConfig{
		SourceAddress:        at(route.InboundSource4),
		ExtraSourceAddresses: []*corev3.ExtraSourceAddress{{Address: at(route.InboundSource6)}},
	}
}

// inboundBuilder makes the chains of ports.
type inboundBuilder struct {
	packer
	chains []*listenerv3.FilterChain
}

// port adds the chains of a port, 0 for all others.
//
// STRICT takes the mesh's TLS and nothing else. PERMISSIVE takes the mesh's
// TLS, which is known by its application protocol, and clear text; other TLS
// is the application's own and passes as it is. DISABLE takes all as it is.
func (b *inboundBuilder) port(port uint16, protocol route.Protocol, mode route.MTLSMode) error {
	if protocol != route.HTTP && protocol != route.TCP {
		return fmt.Errorf("a port cannot speak %q", protocol)
	}
	mtls := func(m *listenerv3.FilterChainMatch) {
		chain := b.add("mtls", port, m, protocol)
		chain.TransportSocket = b.tlsSocket(serverTLS(protocol))
		chain.TransportSocketConnectTimeout = durationpb.New(handshakeTime)
	}
	switch mode {
	case route.Strict:
		mtls(&listenerv3.FilterChainMatch{})
		return nil
	case route.Permissive:
		mtls(&listenerv3.FilterChainMatch{TransportProtocol: "tls", ApplicationProtocols: []string{route.ALPNMesh}})
	case route.Disable:
	default:
		return errors.New("no mode of mutual TLS: " + string(mode))
	}
	// Envoy does not go back to a chain for any transport once it has found
	// those for TLS, so other TLS has its own.
	if protocol == route.HTTP || mode == route.Permissive {
		b.add("tls", port, &listenerv3.FilterChainMatch{TransportProtocol: "tls"}, route.TCP)
	}
	b.add("plain", port, &listenerv3.FilterChainMatch{}, protocol)
	return nil
}

func (b *inboundBuilder) add(kind string, port uint16, match *listenerv3.FilterChainMatch, protocol route.Protocol) *listenerv3.FilterChain {
	chain := &listenerv3.FilterChain{Name: "other/" + kind, FilterChainMatch: match}
	if port != 0 {
		chain.Name = fmt.Sprintf("%d/%s", port, kind)
		match.DestinationPort = wrapperspb.UInt32(uint32(port))
	}
	if protocol == route.HTTP {
		chain.Filters = []*listenerv3.Filter{b.http(b.server())}
	} else {
		chain.Filters = []*listenerv3.Filter{b.tcp("inbound", InboundCluster)}
	}
	b.chains = append(b.chains, chain)
	return chain
}

// server is the connection manager before the application. It tells the
// application who the peer is, by x-forwarded-client-cert, and drops what
// anybody else says of that.
func (b *inboundBuilder) server() *hcmv3.HttpConnectionManager {
	m := sidecar(b.manager("inbound"))
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
	m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true}
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: allTo("inbound", InboundCluster)}
	return m
}

// except switches a listener filter off for some ports.
func except(f *listenerv3.ListenerFilter, ports []uint16) *listenerv3.ListenerFilter {
	var rules []*listenerv3.ListenerFilterChainMatchPredicate
	for _, port := range ports {
		rules = append(rules, &listenerv3.ListenerFilterChainMatchPredicate{
			Rule: &listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange{
				DestinationPortRange: &typev3.Int32Range{Start: int32(port), End: int32(port) + 1},
			},
		})
	}
	switch len(rules) {
	case 0:
	case 1:
		f.FilterDisabled = rules[0]
	default:
		f.FilterDisabled = &listenerv3.ListenerFilterChainMatchPredicate{
			Rule: &listenerv3.ListenerFilterChainMatchPredicate_OrMatch{
				OrMatch: &listenerv3.ListenerFilterChainMatchPredicate_MatchSet{Rules: rules},
			},
		}
	}
	return f
}
