package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Listen listens on a TCP or Unix socket of the namespace, as [net.Listen]; the
// address is a literal one.
func (n *Namespace) Listen(network, address string) (net.Listener, error) {
	var ln net.Listener
	err := n.Do(func() (err error) {
		var config net.ListenConfig
		config.SetMultipathTCP(false) // plain TCP on the wire, as captures show it
		ln, err = config.Listen(context.Background(), network, address)
		return err
	})
	return ln, err
}

// ListenPacket listens on a UDP socket of the namespace, as [net.ListenPacket];
// the address is a literal one.
func (n *Namespace) ListenPacket(network, address string) (net.PacketConn, error) {
	var conn net.PacketConn
	err := n.Do(func() (err error) {
		conn, err = net.ListenPacket(network, address)
		return err
	})
	return conn, err
}

// DialContext connects from inside the namespace. The address is a literal one:
// the resolver of Go's runtime would ask from outside. It fits
// [http.Transport.DialContext] and grpc.WithContextDialer.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return n.DialFrom(ctx, network, netip.AddrPort{}, address)
}

// DialFrom is DialContext from the given source address; the zero AddrPort
// leaves the choice to the kernel, as does port 0 for the port.
func (n *Namespace) DialFrom(ctx context.Context, network string, source netip.AddrPort, address string) (net.Conn, error) {
	var dialer net.Dialer
	switch {
	case network == "unix":
	case !isLiteral(address):
		return nil, fmt.Errorf("dial from %s: %q is not a literal address and port", n.name, address)
	case source.IsValid() && network[:3] == "udp":
		dialer.LocalAddr = net.UDPAddrFromAddrPort(source)
	case source.IsValid():
		dialer.LocalAddr = net.TCPAddrFromAddrPort(source)
	}
	var conn net.Conn
	err := n.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func isLiteral(address string) bool {
	_, err := netip.ParseAddrPort(address)
	return err == nil
}

// Transport is an HTTP transport from inside the namespace. Every host of an
// URL must be a literal address; set the request's Host to ask for a name.
func (n *Namespace) Transport() *http.Transport {
	return &http.Transport{
		DialContext:         n.DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 64,
	}
}

// HTTPClient is an HTTP client from inside the namespace that follows no
// redirect and keeps no connection, so that every request is a new one.
func (n *Namespace) HTTPClient() *http.Client {
	transport := n.Transport()
	transport.DisableKeepAlives = true
	return &http.Client{
		Transport:     transport,
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
