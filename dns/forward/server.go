package forward

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

// Protocol is how a server is asked.
type Protocol uint8

// The protocols.
const (
	UDP Protocol = iota // and TCP for answers that are too big
	TCP                 // and UDP while TCP stalls
	TLS                 // and nothing else (RFC 7858, strict profile of RFC 8310)
)

var protocols = [...]string{"udp", "tcp", "tls"}

// String returns "udp", "tcp" or "tls".
func (p Protocol) String() string { return protocols[p] }

const (
	defaultPort    = 53
	defaultTLSPort = 853
)

// Server is one name server.
type Server struct {
	Addr     netip.AddrPort
	Protocol Protocol
	// Name is what a certificate has to be for; empty: for the address.
	Name string
}

// String returns the server as [ParseServer] reads it.
func (s Server) String() string {
	switch {
	case s.Protocol == UDP:
		return s.Addr.String()
	case s.Name != "":
		return s.Protocol.String() + "://" + s.Addr.String() + "#" + s.Name
	}
	return s.Protocol.String() + "://" + s.Addr.String()
}

// ParseServer reads "10.0.0.1", "[fd00::1]:5353", "tcp://10.0.0.1" or
// "tls://10.0.0.1:853#dns.example".
func ParseServer(text string) (Server, error) {
	s, rest := Server{}, text
	if scheme, after, ok := strings.Cut(text, "://"); ok {
		i := slices.Index(protocols[:], scheme)
		if i < 0 {
			return s, fmt.Errorf("expected udp://, tcp:// or tls:// before the address, found %q", text)
		}
		s.Protocol, rest = Protocol(i), after
	}
	if addr, name, ok := strings.Cut(rest, "#"); ok {
		if s.Protocol != TLS || !isName(name, "") {
			return s, fmt.Errorf("expected tls:// at the start and a server's name after the #, found %q", text)
		}
		rest, s.Name = addr, strings.TrimSuffix(name, ".")
	}
	port := uint16(defaultPort)
	if s.Protocol == TLS {
		port = defaultTLSPort
	}
	if inner, ok := strings.CutPrefix(rest, "["); ok && strings.HasSuffix(inner, "]") {
		rest = strings.TrimSuffix(inner, "]")
	}
	addr, err := netip.ParseAddr(rest)
	if err == nil {
		s.Addr = netip.AddrPortFrom(addr.Unmap(), port)
	} else if ap, withPort := netip.ParseAddrPort(rest); withPort == nil && ap.Port() != 0 {
		s.Addr, err = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
	}
	if err != nil || strings.ContainsAny(s.Addr.Addr().Zone(), "[]%#/") {
		return s, fmt.Errorf("expected an address, as 10.0.0.1 or [fd00::1]:53, found %q", text)
	}
	if s.Addr.Addr().IsUnspecified() || s.Addr.Addr().IsMulticast() {
		return s, fmt.Errorf("expected the address of one machine, found %q", text)
	}
	return s, nil
}

// Plain returns servers that are asked over UDP.
func Plain(addrs ...netip.AddrPort) []Server {
	servers := make([]Server, len(addrs))
	for i, a := range addrs {
		servers[i].Addr = a
	}
	return servers
}

// Policy says in which order the servers of a zone are asked.
type Policy uint8

// The policies, as CoreDNS' forward plugin has them. Whichever it is, servers that
// failed come last.
const (
	Sequential Policy = iota // in order; the next only if one fails or is slow
	RoundRobin               // each begins with the next
	Random
)

var policies = [...]string{"sequential", "round-robin", "random"}

// String returns the policy as [ParsePolicy] reads it.
func (p Policy) String() string { return policies[p] }

// ParsePolicy reads "sequential", "round-robin" or "random".
func ParsePolicy(s string) (Policy, error) {
	if i := slices.Index(policies[:], strings.ReplaceAll(s, "_", "-")); i >= 0 {
		return Policy(i), nil
	}
	return 0, fmt.Errorf("expected one of %q, found %q", policies, s)
}

// Zone is whom to ask for the names below one.
type Zone struct {
	Name    string // such as corp.example; empty or "." for all names
	Servers []Server
	Policy  Policy
	// Timeout and Attempts, unless 0, hold instead of those of [Options].
	Timeout  time.Duration
	Attempts int
}

// Root returns the zone of all names.
func Root(servers ...Server) []Zone { return []Zone{{Name: ".", Servers: servers}} }

// ParseZones reads servers as a user writes them: what [ParseServer] reads, or for
// the names of one zone "corp.example=10.0.0.1"; and policies: "random", or for one
// zone "corp.example=random". Zones are in the order in which they are named first.
// The error joins what is wrong with each entry, beginning with its place, such as
// "upstreams[1]" or "policies[0]".
func ParseZones(servers, policies []string) ([]Zone, error) {
	var zones []Zone
	var errs []error
	for at, text := range servers {
		name, s, err := ParseUpstream(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("upstreams[%d]: %w", at, err))
			continue
		}
		i := indexZone(zones, name)
		if i < 0 {
			i, zones = len(zones), append(zones, Zone{Name: name})
		}
		if !slices.Contains(zones[i].Servers, s) {
			zones[i].Servers = append(zones[i].Servers, s)
		}
	}
	for at, text := range policies {
		name, policy, err := cutZone(text)
		var p Policy
		if err == nil {
			p, err = ParsePolicy(policy)
		}
		i := indexZone(zones, name)
		if err == nil && i < 0 && name != "." {
			err = fmt.Errorf("expected a zone that has upstreams, found %q", name)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("policies[%d]: %w", at, err))
			continue
		}
		if i < 0 { // its servers come from resolv.conf
			i, zones = len(zones), append(zones, Zone{Name: name})
		}
		zones[i].Policy = p
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return zones, nil
}

// ParseUpstream reads one of the servers of [ParseZones], and the zone whose names
// it is asked for: "." for all.
func ParseUpstream(text string) (zone string, s Server, err error) {
	zone, server, err := cutZone(text)
	if err != nil {
		return "", s, err
	}
	s, err = ParseServer(server)
	return zone, s, err
}

func indexZone(zones []Zone, name string) int {
	return slices.IndexFunc(zones, func(z Zone) bool { return z.Name == name })
}

// cutZone splits zone=value; without zone it is the root.
func cutZone(text string) (zone, value string, err error) {
	zone, value, ok := strings.Cut(text, "=")
	if !ok {
		return ".", text, nil
	}
	if !isName(zone, "/") { // RFC 2317 §4 has it in the names of reverse zones
		return "", "", fmt.Errorf("expected the name of a zone before the =, found %q", text)
	}
	return strings.ToLower(strings.TrimSuffix(zone, ".")), value, nil
}

// isName reports whether a text is a name below the root, of letters, digits,
// hyphens, underscores and the further characters. Any octet may be in a name, but
// most of those that a user writes there are slips.
func isName(text, further string) bool {
	for _, c := range text {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("-_."+further, c) {
			return false
		}
	}
	name, err := wire.ParseName(text)
	return err == nil && len(name) > 1
}
