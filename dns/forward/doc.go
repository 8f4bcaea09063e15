// Package forward asks other name servers: over UDP from random ports with random
// IDs, over TCP and TLS with several questions under way on each of a few
// connections (RFC 7766, RFC 7858), and the next server where one fails or is
// slow. What it learns of a server's health it learns from the queries themselves;
// one that failed is left out, and asked now and then whether it is back.
package forward

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Errors that a caller may want to tell apart.
var (
	// ErrNoUpstream indicates that there is no server to ask.
	ErrNoUpstream = errors.New("no upstream name server")
	// ErrUnanswered indicates that no server gave an answer in time.
	ErrUnanswered = errors.New("no upstream name server answered")
	// ErrBusy indicates that too many questions are under way.
	ErrBusy = errors.New("too many questions to upstream name servers")
)

// LoopError indicates that queries sent to an upstream would come back.
type LoopError struct {
	Upstream netip.AddrPort
	Where    string // the file that names it, if any
	Why      string
	Remedy   string // if there is one that is better than the usual
}

// Error names the upstream, the reason and the remedy.
func (e *LoopError) Error() string {
	where := ""
	if e.Where != "" {
		where = " of " + e.Where
	}
	remedy := e.Remedy
	if remedy == "" {
		remedy = "name another one as upstream, or another resolv.conf"
	}
	return fmt.Sprintf("upstream name server %v%s %s: %s", e.Upstream, where, e.Why, remedy)
}

// Options are what a forwarder works with; zero values mean the defaults.
type Options struct {
	// Zones are whom to ask for which names; the longest zone that a name is in
	// wins.
	Zones []Zone
	// Self are the addresses of this server, to which nothing is forwarded.
	Self []netip.AddrPort

	Timeout time.Duration // for one server, by default 2 s
	Total   time.Duration // for all, by default 4 s: less than a resolver's usual 5
	// Hedge is how long one server may take before the next is asked too. By
	// default it follows what the server usually takes. The first answer counts.
	Hedge    time.Duration
	Attempts int // times that one server is asked one question, by default 2

	MaxConns     int // over TCP and TLS to one server, by default 4
	MaxPipelined int // questions under way on one connection, by default 64
	MaxQueries   int // questions under way to all servers, by default 1,024

	// RandomCase asks with letters in random case, which an answer over UDP has
	// to repeat: bits that a forger has to guess (draft-vixie-dnsext-dns0x20).
	RandomCase bool
	// RootCAs verify servers over TLS; nil: the system's.
	RootCAs *x509.CertPool
	Log     *slog.Logger // by default slog.Default

	dial dialFunc // for tests
}

type dialFunc func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)

func (o *Options) complete() {
	setDefault(&o.Timeout, 2*time.Second)
	setDefault(&o.Total, 4*time.Second)
	setDefault(&o.Attempts, 2)
	setDefault(&o.MaxConns, 4)
	setDefault(&o.MaxPipelined, 64)
	setDefault(&o.MaxQueries, 1024)
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.dial == nil {
		o.dial = dial
	}
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

func dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	if network == "udp" {
		return net.DialUDP(network, nil, net.UDPAddrFromAddrPort(addr)) // does not wait
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr.String())
}

// CheckSelf returns a [*LoopError] if a server is one of these addresses, which are
// this server's own.
func CheckSelf(s Server, self []netip.AddrPort) error {
	if loop := checkSelf(s.Addr, self, ""); loop != nil {
		return loop
	}
	return nil
}

// checkSelf returns a LoopError if the upstream is one of our own addresses.
func checkSelf(u netip.AddrPort, self []netip.AddrPort, where string) *LoopError {
	for _, l := range self {
		if l.Port() != u.Port() {
			continue
		}
		if l.Addr() == u.Addr() || l.Addr().IsUnspecified() && (u.Addr().IsLoopback() || isLocal(u.Addr())) {
			return &LoopError{Upstream: u, Where: where, Why: "is this server itself"}
		}
	}
	return nil
}

// isLocal reports whether the machine has the address.
func isLocal(addr netip.Addr) bool {
	// Without the list only the loop probes are left to find out.
	addrs, _ := net.InterfaceAddrs()
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		p, ok := a.(*net.IPNet)
		if !ok {
			return false
		}
		ip, ok := netip.AddrFromSlice(p.IP)
		return ok && ip.Unmap() == addr.WithZone("")
	})
}
