package translate

import (
	"net/netip"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/bootstrap"
)

// Application protocols of TLS, RFC 7301.
const (
	alpnHTTP1 = "http/1.1"
	alpnHTTP2 = "h2"
)

// handshakeTime is how long a client may take for its handshake.
const handshakeTime = 10 * time.Second

func (p *packer) tlsSocket(context message) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: p.any(context)},
	}
}

// gatewayTLS terminates TLS with certificates of the ADS stream.
func gatewayTLS(secrets []string) *tlsv3.DownstreamTlsContext {
	common := &tlsv3.CommonTlsContext{
		TlsParams:     &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2},
		AlpnProtocols: []string{alpnHTTP2, alpnHTTP1},
	}
	for _, name := range secrets {
		common.TlsCertificateSdsSecretConfigs = append(common.TlsCertificateSdsSecretConfigs,
			&tlsv3.SdsSecretConfig{Name: name, SdsConfig: adsSource()})
	}
	return &tlsv3.DownstreamTlsContext{CommonTlsContext: common}
}

// serverTLS terminates mutual TLS of the mesh. The client offers the mesh's
// protocol as the mark, and beside it the one that is then spoken.
func serverTLS(protocol route.Protocol) *tlsv3.DownstreamTlsContext {
	common := meshTLS(nil)
	if protocol == route.HTTP {
		common.AlpnProtocols = []string{alpnHTTP2, alpnHTTP1, route.ALPNMesh}
	} else {
		common.AlpnProtocols = []string{route.ALPNMesh}
	}
	return &tlsv3.DownstreamTlsContext{
		CommonTlsContext:         common,
		RequireClientCertificate: wrapperspb.Bool(true),
	}
}

// clientTLS speaks mutual TLS to a cluster's endpoints.
func clientTLS(c *route.Cluster) *tlsv3.UpstreamTlsContext {
	common := meshTLS(c.MTLS.PeerIDs)
	if c.MTLS.ALPN != "" {
		common.AlpnProtocols = append(common.AlpnProtocols, c.MTLS.ALPN)
	}
	switch c.Protocol {
	case route.HTTP2:
		common.AlpnProtocols = append(common.AlpnProtocols, alpnHTTP2)
	case route.HTTP:
		common.AlpnProtocols = append(common.AlpnProtocols, alpnHTTP1)
	}
	return &tlsv3.UpstreamTlsContext{CommonTlsContext: common}
}

// meshTLS shows the workload's certificate and accepts those peers whose
// certificate the mesh's roots have signed and that has one of the IDs.
func meshTLS(peers []string) *tlsv3.CommonTlsContext {
	return &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{bootstrap.LocalSecret(bootstrap.WorkloadSecret)},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: &tlsv3.CertificateValidationContext{
					MatchTypedSubjectAltNames: bootstrap.PeerMatcher(peers...),
				},
				ValidationContextSdsSecretConfig: bootstrap.LocalSecret(bootstrap.RootsSecret),
			},
		},
	}
}

func socketAddress(addr netip.Addr, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       addr.Unmap().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}
