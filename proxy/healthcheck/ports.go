package healthcheck

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/proxy"
)

// part is who speaks on the status board.
const part = "healthcheck"

// listeners are the open ports. They belong to Run's goroutine.
type listeners struct {
	*Server
	ctx    context.Context
	http   *http.Server
	open   map[uint16]map[string]*socket // by port and address
	addrs  []string                      // on which every port is open
	failed map[uint16]string             // why a port is not open everywhere
	// told are the Services that the status board says something of, by port.
	told map[uint16]map[model.Name]string
}

// socket is one that listens.
type socket struct {
	net.Listener
	ended atomic.Bool // by itself
}

// retry has the ports looked at that could not be opened or that have ended, and
// all where the node's addresses have changed.
func (l *listeners) retry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for port := range l.failed {
		l.dirty[port] = struct{}{}
	}
	for port, sockets := range l.open {
		for _, s := range sockets {
			if s.ended.Load() {
				l.dirty[port] = struct{}{}
			}
		}
	}
	l.again = l.again || len(l.node.NodePorts) > 0 && len(l.ports) > 0
}

// step does what the newest plan wants: it opens ports before it closes others.
func (l *listeners) step() {
	l.mu.Lock()
	dirty, again, node := l.dirty, l.again, l.node
	l.dirty, l.again = map[uint16]struct{}{}, false
	if again {
		for port := range l.ports {
			dirty[port] = struct{}{}
		}
	}
	wanted := map[uint16]portState{}
	for port := range dirty {
		if p := l.ports[port]; p != nil {
			wanted[port] = portState{claims: maps.Clone(p.claims), owner: p.owner}
		}
	}
	l.mu.Unlock()
	if again || l.addrs == nil {
		addrs, err := listenOn(node.NodePorts, node.Localhost, l.Addrs)
		if err != nil {
			l.Log.Error("cannot find the addresses that answer health checks, so all do", "error", err)
			addrs = []string{""}
		}
		l.addrs = addrs
	}
	for port := range wanted {
		if problem := l.openPort(port); problem == "" {
			delete(l.failed, port)
		} else {
			l.failed[port] = problem
		}
	}
	for port := range dirty {
		if _, ok := wanted[port]; !ok {
			l.closePort(port, nil)
			delete(l.failed, port)
		}
		l.report(port, wanted[port], node.Name)
	}
}

// openPort opens a port on all addresses and closes it on others. It returns what
// went wrong, or "".
func (l *listeners) openPort(port uint16) string {
	sockets := l.open[port]
	if sockets == nil {
		sockets = map[string]*socket{}
		l.open[port] = sockets
	}
	problem := ""
	for _, addr := range l.addrs {
		if s := sockets[addr]; s != nil && !s.ended.Load() {
			continue
		}
		ln, err := l.Listen(l.ctx, network(addr), net.JoinHostPort(addr, strconv.Itoa(int(port))))
		if err != nil {
			problem = err.Error()
			continue
		}
		s := &socket{Listener: ln}
		sockets[addr] = s
		go func() {
			_ = l.http.Serve(ln) // it ends when the listener is closed
			s.ended.Store(true)
		}()
	}
	l.closePort(port, l.addrs)
	return problem
}

// closePort closes a port, other than on some addresses.
func (l *listeners) closePort(port uint16, but []string) {
	for addr, s := range l.open[port] {
		if !slices.Contains(but, addr) {
			_ = s.Close()
			delete(l.open[port], addr)
		}
	}
	if len(l.open[port]) == 0 {
		delete(l.open, port)
	}
}

// report tells the owners of Services whose checks nobody answers.
func (l *listeners) report(port uint16, p portState, node string) {
	now := map[model.Name]string{}
	for name := range p.claims {
		if name != p.owner {
			now[name] = fmt.Sprintf("healthCheckNodePort %d belongs to Service %s", port, p.owner)
		} else if problem := l.failed[port]; problem != "" {
			now[name] = fmt.Sprintf("node %s cannot listen on healthCheckNodePort %d: %s", node, port, problem)
		}
	}
	before := l.told[port]
	for name := range before {
		if now[name] == "" {
			l.tell(name, port, "")
		}
	}
	for name, message := range now {
		if before[name] != message {
			l.tell(name, port, message)
		}
	}
	if l.told[port] = now; len(now) == 0 {
		delete(l.told, port)
	}
}

func (l *listeners) tell(name model.Name, port uint16, message string) {
	key := model.Key{Kind: model.KindService, Namespace: name.Namespace, Name: name.Name}
	if message != "" {
		l.Log.Error("health checks of a Service are not answered", "service", name, "port", port, "problem", message)
	}
	if l.Status == nil {
		return
	}
	if message == "" {
		// Another port's message may stand by now.
		for other, told := range l.told {
			if other != port && told[name] != "" {
				return
			}
		}
		l.Status.Clear(part, key)
		return
	}
	l.Status.Set(part, key, status.Report{Conditions: []metav1.Condition{{
		Type: "HealthCheckNodePortOpen", Status: metav1.ConditionFalse, Reason: "PortInUse", Message: message,
	}}})
}

// listenOn returns the addresses on which the ports are to be open, of the node's
// addresses: "" is all of both families. Loopback is among all, and otherwise has
// to be asked for.
func listenOn(restrict []netip.Prefix, localhost bool, addrs func() ([]netip.Addr, error)) ([]string, error) {
	four, six := ofFamily(restrict, proxy.IPv4), ofFamily(restrict, proxy.IPv6)
	if len(four) == 0 && len(six) == 0 {
		return []string{""}, nil
	}
	var out []string
	if len(four) == 0 {
		out = append(out, "0.0.0.0")
	}
	if len(six) == 0 {
		out = append(out, "::")
	}
	all, err := addrs()
	if err != nil {
		return nil, err
	}
	for _, addr := range all {
		text := addr.String()
		wanted := localhost && addr.IsLoopback() || slices.ContainsFunc(restrict, func(p netip.Prefix) bool { return p.Contains(addr) })
		open := addr.Is4() && len(four) == 0 || addr.Is6() && len(six) == 0
		if wanted && !open && !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out, nil
}

func ofFamily(prefixes []netip.Prefix, family proxy.Family) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		if proxy.FamilyOf(p.Addr()) == family {
			out = append(out, p)
		}
	}
	return out
}

// network returns that of an address; an IPv6 wildcard has to be told that it is
// not for IPv4 too.
func network(addr string) string {
	a, err := netip.ParseAddr(addr)
	switch {
	case err != nil:
		return "tcp"
	case a.Is4():
		return "tcp4"
	}
	return "tcp6"
}

func portOf(a net.Addr) uint16 {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return uint16(tcp.Port)
	}
	return 0
}

// interfaceAddrs returns the addresses of the process's network namespace. Those
// of one link alone answer nobody else.
func interfaceAddrs() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, nil
}
