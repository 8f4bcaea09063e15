package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/internal/envoy"
)

// role says which parts a process runs.
type role struct{ node, control, dns bool }

// succeeds names the processes of which one takes over from another while both
// run: node agents, and name servers that run alone; empty for those that are the
// only one.
func (r role) succeeds() string {
	switch {
	case r.control:
		return ""
	case r.node:
		return "node"
	case r.dns:
		return "dns"
	}
	return ""
}

// preflight sees whether a process could run as it is configured, before
// anything is changed: one that can only half start must not touch the rules.
func preflight(ctx context.Context, c *config.Configuration, r role) []finding {
	var out []finding
	add := func(what string, err error) { out = append(out, finding{what: what, err: err}) }
	if c.Manifests != "" {
		add("manifests "+c.Manifests, manifests(c.Manifests))
	}
	if r.node && c.Proxy.Mode != "none" {
		kind, err := engineFor(ctx, c.Proxy)
		what := "proxy.mode " + c.Proxy.Mode
		if kind.name != "" && kind.name != c.Proxy.Mode {
			what += " (" + kind.name + ")"
		}
		add(what, err)
	}
	if r.control && c.Envoy != "" {
		_, err := envoy.Find(c.Envoy)
		add("envoy "+c.Envoy, err)
	}
	if r.control && c.Manifests != "" {
		add("stateDir "+c.StateDir, writable("stateDir", c.StateDir))
	}
	// Another agent lets this one take over.
	part := r.succeeds()
	share := part != "" && hasPredecessor(ctx, part)
	if c.Socket != "" {
		if answers(ctx, c.Socket) && !share {
			add("socket "+c.Socket, fmt.Errorf("socket: another sluice answers on %s; stop it, or choose another with --socket", c.Socket))
			return out // it has the ports
		}
		add("socket "+c.Socket, writable("socket", filepath.Dir(c.Socket)))
	}
	if c.Metrics != "" {
		err := free(ctx, "metrics", "tcp", c.Metrics, share)
		out = append(out, finding{what: "metrics " + c.Metrics, err: err, minor: heldByAnother(err) && !metricsMustListen(c)})
	}
	if r.node && c.Proxy.Mode != "none" && c.Proxy.Healthz != "" {
		err := free(ctx, "proxy.healthz", "tcp", c.Proxy.Healthz, share)
		// Whoever has it may be about to go: it is tried again.
		out = append(out, finding{what: "proxy.healthz " + c.Proxy.Healthz, err: err, minor: heldByAnother(err) && !c.Proxy.HealthzHardFail})
	}
	if r.node || r.dns {
		out = append(out, dnsMistakes(c)...)
		out = append(out, dnsAddresses(ctx, &c.DNS, share)...)
	}
	if r.control && c.XDS.Address != "" {
		add("xds.address "+c.XDS.Address, free(ctx, "xds.address", "tcp", c.XDS.Address, false))
	}
	return out
}

// heldByAnother tells of no error, or of one that may pass by itself.
func heldByAnother(err error) bool { return err == nil || errors.Is(err, syscall.EADDRINUSE) }

// metricsMustListen tells whether it is an end if another process has the address
// of metrics. On a cluster that is a kube-proxy which is about to go.
func metricsMustListen(c *config.Configuration) bool {
	return c.Manifests != "" || c.Proxy.HealthzHardFail
}

func manifests(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("manifests: there is no directory %s; make it, or name another with --manifests", dir)
	case err != nil:
		return fmt.Errorf("manifests: %w", err)
	case !info.IsDir():
		return fmt.Errorf("manifests: %s is a file; name the directory that holds it", dir)
	case unix.Access(dir, unix.R_OK|unix.X_OK) != nil:
		return fmt.Errorf("manifests: %s may not be read by this user", dir)
	}
	return nil
}

// writable tells whether a directory can be written to, or made.
func writable(field, dir string) error {
	at, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	for {
		info, err := os.Stat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist) && at != "/":
			at = filepath.Dir(at)
			continue
		case err != nil:
			return fmt.Errorf("%s: %w", field, err)
		case !info.IsDir():
			return fmt.Errorf("%s: %s is a file, not a directory", field, at)
		}
		var system unix.Statfs_t
		if unix.Access(at, unix.W_OK|unix.X_OK) != nil || unix.Statfs(at, &system) == nil && system.Type == unix.PROC_SUPER_MAGIC {
			return fmt.Errorf("%s: %s may not be written to by this user; choose another with --%s, or run as root", field, at, config.FlagName(field))
		}
		return nil
	}
}

func answers(ctx context.Context, socket string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// bindShared tells whether a TCP port can be shared with those that have it, without
// taking one of their connections.
func bindShared(address string) error {
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return err
	}
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: a.Port})
	if v4 := a.IP.To4(); v4 != nil {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(v4)}
	} else if a.IP != nil {
		to = &unix.SockaddrInet6{Port: a.Port, Addr: [16]byte(a.IP.To16())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	return unix.Bind(fd, to)
}

// heldError says that another process has an address.
type heldError string

func (e heldError) Error() string        { return string(e) }
func (e heldError) Is(target error) bool { return target == syscall.EADDRINUSE }

// free tells whether nobody has an address, or with share nobody but one that
// shares it. The node's DNS server may answer on one that is not there yet.
func free(ctx context.Context, field, network, address string, share bool) error {
	var lc net.ListenConfig
	var err error
	switch {
	case share && network == "udp":
		return nil // a socket here would take queries; who has the one port has the other
	case share:
		err = bindShared(address)
	case network == "udp":
		var c net.PacketConn
		if c, err = lc.ListenPacket(ctx, network, address); err == nil {
			return c.Close()
		}
	default:
		var l net.Listener
		if l, err = lc.Listen(ctx, network, address); err == nil {
			return l.Close()
		}
	}
	if err == nil {
		return nil
	}
	flag := config.FlagName(field)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return heldError(fmt.Sprintf("%s: another process has %s (%s); stop it, or choose another address with --%s", field, address, network, flag))
	case errors.Is(err, syscall.EADDRNOTAVAIL) && strings.HasPrefix(field, "dns."):
		return nil
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s: %s is no address of this machine; choose another with --%s", field, address, flag)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s: only root, or a process with the capability CAP_NET_BIND_SERVICE, may have %s", field, address)
	}
	return fmt.Errorf("%s: expected HOST:PORT, found %q: %w", field, address, err)
}
