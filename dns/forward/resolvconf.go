package forward

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"github.com/sluicenet/sluice/dns/wire"
)

const defaultPort = 53

// ResolvedConf is where systemd-resolved names the servers that it asks itself,
// when resolv.conf names only its stub.
const ResolvedConf = "/run/systemd/resolve/resolv.conf"

// stubs of systemd-resolved (systemd-resolved.service(8)).
var resolvedStubs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 53}), netip.AddrFrom4([4]byte{127, 0, 0, 54})}

// FromResolvConf returns the name servers of a resolv.conf, in order. listen are
// this server's own addresses. Where the file names systemd-resolved's stub,
// which may well ask us, the servers behind it are taken; where those are not to
// be found, or one of them is this server, the error is a [LoopError].
func FromResolvConf(path string, listen []netip.AddrPort) ([]netip.AddrPort, error) {
	return fromResolvConf(path, ResolvedConf, listen)
}

func fromResolvConf(path, behind string, listen []netip.AddrPort) ([]netip.AddrPort, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("upstream name servers: %w", err)
	}
	var servers []netip.AddrPort
	for _, s := range parseResolvConf(string(b)) {
		for _, stub := range resolvedStubs {
			if s.Addr() != stub {
				continue
			}
			loop := &LoopError{s, path, "is systemd-resolved's stub, which may ask this server"}
			if path == behind {
				return nil, loop
			}
			real, err := fromResolvConf(behind, behind, listen)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, loop
			}
			return real, err
		}
		if err := checkSelf(s, listen, path); err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	return servers, nil
}

// parseResolvConf reads the nameserver lines (resolv.conf(5)). As in the C
// library, what is not understood is passed over.
func parseResolvConf(text string) []netip.AddrPort {
	var servers []netip.AddrPort
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(f[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr.Unmap(), defaultPort))
		}
	}
	return servers
}

// ParseUpstreams reads servers as a user writes them: "10.0.0.1", "[fd00::1]:5353",
// or for the names of one zone "corp.example=10.0.0.1".
func ParseUpstreams(list []string) (upstreams []netip.AddrPort, stubs map[string][]netip.AddrPort, err error) {
	for _, text := range list {
		zone, server, ok := strings.Cut(text, "=")
		if !ok {
			server, zone = text, ""
		}
		addr, err := parseServer(server)
		if err != nil {
			return nil, nil, fmt.Errorf("upstream %q: expected address, address:port or zone=address: %w", text, err)
		}
		if !ok {
			upstreams = append(upstreams, addr)
			continue
		}
		if name, err := wire.ParseName(zone); err != nil || len(name) == 1 {
			return nil, nil, fmt.Errorf("upstream %q: expected the name of a zone before the =, found %q", text, zone)
		}
		if stubs == nil {
			stubs = map[string][]netip.AddrPort{}
		}
		stubs[zone] = append(stubs[zone], addr)
	}
	return upstreams, stubs, nil
}

func parseServer(s string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return netip.AddrPortFrom(addr.Unmap(), defaultPort), nil
	}
	ap, err := netip.ParseAddrPort(s)
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), err
}
