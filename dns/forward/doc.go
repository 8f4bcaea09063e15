// Package forward asks other name servers: over UDP from a new port with a random
// ID each time, again over TCP where the answer was truncated, and the next
// server where one fails or is slow. What it learns of a server's health it
// learns from the queries themselves.
package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

// Errors that a caller may want to tell apart.
var (
	// ErrNoUpstream indicates that there is no server to ask.
	ErrNoUpstream = errors.New("no upstream name server")
	// ErrUnanswered indicates that no server gave an answer in time.
	ErrUnanswered = errors.New("no upstream name server answered")
)

// LoopError indicates that queries sent to an upstream would come back.
type LoopError struct {
	Upstream netip.AddrPort
	Where    string // the file that names it, if any
	Why      string
}

// Error names the upstream, the reason and the remedy.
func (e *LoopError) Error() string {
	where := ""
	if e.Where != "" {
		where = " of " + e.Where
	}
	return fmt.Sprintf("upstream name server %v%s %s: name another one as upstream, or another resolv.conf", e.Upstream, where, e.Why)
}

// Options are what a forwarder works with; zero values mean the defaults.
type Options struct {
	Upstreams []netip.AddrPort // in order of preference
	// Stubs are the servers for certain zones, by name; the longest name that
	// fits wins.
	Stubs map[string][]netip.AddrPort
	// Listen are the addresses of this server, to which nothing is forwarded.
	Listen  []netip.AddrPort
	Timeout time.Duration // for one server, by default 2 s
	Total   time.Duration // for all, by default 4 s: less than a resolver's usual 5
	// Hedge is how long one server may take before the next is asked too, by
	// default 400 ms. The first answer counts.
	Hedge time.Duration
}

func (o *Options) complete() error {
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	if o.Total == 0 {
		o.Total = 4 * time.Second
	}
	if o.Hedge == 0 {
		o.Hedge = 400 * time.Millisecond
	}
	all := slices.Clone(o.Upstreams)
	for _, s := range o.Stubs {
		all = append(all, s...)
	}
	for _, u := range all {
		if err := checkSelf(u, o.Listen, ""); err != nil {
			return err
		}
	}
	return nil
}

// checkSelf returns a LoopError if the upstream is one of our own addresses.
func checkSelf(u netip.AddrPort, listen []netip.AddrPort, where string) error {
	for _, l := range listen {
		if l.Port() != u.Port() {
			continue
		}
		if l.Addr() == u.Addr() || l.Addr().IsUnspecified() && u.Addr().IsLoopback() {
			return &LoopError{u, where, "is this server itself"}
		}
	}
	return nil
}

// stub is the servers of one zone.
type stub struct {
	zone    []byte
	servers []*upstream
}

func newStubs(o *Options, get func(netip.AddrPort) *upstream) ([]stub, error) {
	stubs := make([]stub, 0, len(o.Stubs)+1)
	for zone, addrs := range o.Stubs {
		name, err := wire.ParseName(zone)
		if err != nil {
			return nil, fmt.Errorf("stub domain: %w", err)
		}
		stubs = append(stubs, newStub(wire.AppendLower(nil, name), addrs, get))
	}
	if len(o.Upstreams) > 0 {
		stubs = append(stubs, newStub([]byte{0}, o.Upstreams, get))
	}
	slices.SortStableFunc(stubs, func(a, b stub) int { return len(b.zone) - len(a.zone) })
	return stubs, nil
}

func newStub(zone []byte, addrs []netip.AddrPort, get func(netip.AddrPort) *upstream) stub {
	s := stub{zone: zone}
	for _, a := range addrs {
		s.servers = append(s.servers, get(a))
	}
	return s
}
