package forward

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ResolvedConf is where systemd-resolved names the servers that it asks itself,
// when resolv.conf names only its stub.
const ResolvedConf = "/run/systemd/resolve/resolv.conf"

// stubs of systemd-resolved (systemd-resolved.service(8)).
var resolvedStubs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 53}), netip.AddrFrom4([4]byte{127, 0, 0, 54})}

// ResolvConf is what a resolv.conf(5) says to a forwarder.
type ResolvConf struct {
	Servers  []Server
	Rotate   bool          // spread queries among the servers
	Timeout  time.Duration // for one server; 0: not said
	Attempts int           // 0: not said
	// Skipped says which servers are left out: each is a [*LoopError] if queries to
	// it would come back, or tells what is no address.
	Skipped []error
}

// ReadResolvConf reads a resolv.conf. self are this server's own addresses, which
// are left out. Where the file names systemd-resolved's stub, which may well ask
// us, the servers behind it are taken. If that leaves none, the error is the first
// of those in Skipped.
func ReadResolvConf(path string, self []netip.AddrPort) (*ResolvConf, error) {
	return readResolvConf(path, ResolvedConf, self)
}

func readResolvConf(path, behind string, self []netip.AddrPort) (*ResolvConf, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("upstream name servers: %w", err)
	}
	c := parseResolvConf(string(b), path)
	found := c.Servers
	c.Servers = nil
	for _, s := range found {
		if !slices.Contains(resolvedStubs, s.Addr.Addr()) {
			if loop := checkSelf(s.Addr, self, path); loop != nil {
				c.Skipped = append(c.Skipped, loop)
			} else if !slices.Contains(c.Servers, s) {
				c.Servers = append(c.Servers, s)
			}
			continue
		}
		loop := &LoopError{
			Upstream: s.Addr, Where: path, Why: "is systemd-resolved's stub, which may ask this server",
			Remedy: "name another one as upstream, or " + ResolvedConf + " as resolv.conf, which has the servers behind the stub",
		}
		if path == behind {
			c.Skipped = append(c.Skipped, loop)
			continue
		}
		real, err := readResolvConf(behind, behind, self)
		if errors.Is(err, fs.ErrNotExist) {
			c.Skipped = append(c.Skipped, loop)
			continue
		}
		if err != nil {
			return nil, err
		}
		c.Servers = append(c.Servers, slices.DeleteFunc(real.Servers, func(s Server) bool { return slices.Contains(c.Servers, s) })...)
		c.Skipped = append(c.Skipped, real.Skipped...)
	}
	if len(c.Servers) == 0 && len(c.Skipped) > 0 {
		return nil, c.Skipped[0]
	}
	return c, nil
}

// The limits of the C library (resolv.conf(5)).
const (
	maxTimeout  = 30
	maxAttempts = 5
)

// parseResolvConf reads the nameserver and options lines (resolv.conf(5)) of the file
// where. As in the C library, what is not understood is passed over.
func parseResolvConf(text, where string) *ResolvConf {
	c := &ResolvConf{}
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		f := strings.Fields(line)
		switch {
		case len(f) < 2:
		case f[0] == "nameserver":
			addr, err := netip.ParseAddr(f[1])
			if err != nil || addr.IsUnspecified() || addr.IsMulticast() {
				c.Skipped = append(c.Skipped, fmt.Errorf("nameserver in %s: expected the address of a server, found %q", where, f[1]))
				continue
			}
			c.Servers = append(c.Servers, Server{Addr: netip.AddrPortFrom(addr.Unmap(), defaultPort)})
		case f[0] == "options":
			for _, o := range f[1:] {
				c.option(o)
			}
		}
	}
	return c
}

func (c *ResolvConf) option(o string) {
	name, value, _ := strings.Cut(o, ":")
	n, err := strconv.Atoi(value)
	switch {
	case o == "rotate":
		c.Rotate = true
	case err != nil || n <= 0:
	case name == "timeout":
		c.Timeout = time.Duration(min(n, maxTimeout)) * time.Second
	case name == "attempts":
		c.Attempts = min(n, maxAttempts)
	}
}
