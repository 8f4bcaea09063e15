// Package localhost serves NodePorts on 127.0.0.1 and ::1, as kube-proxy's
// KEP-6032 does, and UDP besides. The kernel routes no packet of a loopback
// address off the node, so no engine translates one: connections are relayed.
package localhost

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/proxy"
)

// Options of a [Relay]; all may be left out.
type Options struct {
	Status *status.Board // gets ports that are taken, as part "localhost"
	Log    *slog.Logger
	// Engine is the name of the node's engine, for the names of metrics.
	Engine string
	// Listen and ListenPacket open a port, and Dial connects to a backend, all
	// with the arguments of package net; nil: in the process's network
	// namespace.
	Listen       func(ctx context.Context, network, address string) (net.Listener, error)
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)
	Dial         func(ctx context.Context, network, address string) (net.Conn, error)
	// Retry is how often a port that is taken is tried again; 0: 5 s.
	Retry time.Duration
	// Connections and Sessions bound how many TCP connections and UDP flows
	// there are at a time; 0: 16,384 and 4,096.
	Connections, Sessions int
	// Idle ends a UDP flow without datagrams; 0: 2 minutes, the kernel's own
	// timeout of UDP streams.
	Idle time.Duration
}

// Relay listens on loopback for the NodePorts of a plan. A NodePort without
// backends is not listened on, so that connections to it are refused.
type Relay struct {
	Options
	metrics *metrics
	wake    chan struct{} // holds a token while there may be something to do

	mu     sync.Mutex // guards all below
	on     bool       // the plan wants NodePorts on loopback
	node   string
	wanted map[port]*target
	dirty  map[port]struct{} // what Run has to look at
}

// port is where a NodePort is.
type port struct {
	family   proxy.Family
	protocol proxy.Protocol
	number   uint16
}

// address returns the loopback address with the port.
func (p port) address() netip.AddrPort {
	if p.family == proxy.IPv6 {
		return netip.AddrPortFrom(netip.IPv6Loopback(), p.number)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.number)
}

// target is where connections to a NodePort go. It does not change.
type target struct {
	service     model.Name
	backends    []proxy.Backend
	established []netip.AddrPort // that flows may go on to
	affinity    time.Duration
}

// New returns a relay of nothing.
func New(o Options) *Relay {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	config := net.ListenConfig{Control: shared}
	if o.Listen == nil {
		o.Listen = config.Listen
	}
	if o.ListenPacket == nil {
		o.ListenPacket = config.ListenPacket
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	o.Retry = cmp.Or(o.Retry, 5*time.Second)
	o.Idle = cmp.Or(o.Idle, 2*time.Minute)
	o.Connections = cmp.Or(o.Connections, 1<<14)
	o.Sessions = cmp.Or(o.Sessions, 1<<12)
	return &Relay{Options: o, metrics: newMetrics(o.Engine), wake: make(chan struct{}, 1), wanted: map[port]*target{}, dirty: map[port]struct{}{}}
}

// shared lets the next process listen before the last one ends.
func shared(_, _ string, c syscall.RawConn) error {
	var err error
	if failed := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); failed != nil {
		return failed
	}
	return err
}

// Applied tells of a plan that is in force; it fits [proxy.Options]. Ports are
// opened and closed by Run.
func (r *Relay) Applied(plan *proxy.Plan, changes []proxy.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	toggled := r.on != plan.Node.Localhost
	r.on, r.node = plan.Node.Localhost, plan.Node.Name
	switch {
	case changes == nil || toggled:
		for p := range r.wanted {
			r.dirty[p] = struct{}{}
		}
		clear(r.wanted)
		if r.on {
			for s := range plan.Services() {
				r.add(s)
			}
		}
	case r.on:
		// All that go, then all that come: a port may pass between Services.
		for _, c := range changes {
			r.remove(c.Old)
		}
		for _, c := range changes {
			r.add(c.New)
		}
	}
	if len(r.dirty) > 0 {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// add wants the NodePorts of a Service that lead anywhere. The relay's clients
// are on this node, so what is inside holds for them.
func (r *Relay) add(s *proxy.Service) {
	each(s, func(at port, p *proxy.Port, f *proxy.Frontend) {
		if backends := p.Backends(f.Inside); len(backends) > 0 {
			r.wanted[at] = &target{s.Name, backends, p.Established(), p.Affinity}
			r.dirty[at] = struct{}{}
		}
	})
}

func (r *Relay) remove(s *proxy.Service) {
	each(s, func(at port, _ *proxy.Port, _ *proxy.Frontend) {
		delete(r.wanted, at)
		r.dirty[at] = struct{}{}
	})
}

// each calls f for every NodePort of a Service that can be relayed: Go has no
// SCTP, whose packets nobody answers.
func each(s *proxy.Service, f func(port, *proxy.Port, *proxy.Frontend)) {
	if s == nil {
		return
	}
	for _, p := range s.Ports {
		if p.Protocol != proxy.TCP && p.Protocol != proxy.UDP {
			continue
		}
		for i := range p.Frontends {
			if p.Frontends[i].Kind == proxy.NodePort {
				f(port{p.Family, p.Protocol, p.Frontends[i].Port}, p, &p.Frontends[i])
			}
		}
	}
}

// take returns what is wanted of the ports that Run has to look at; nil: nothing.
func (r *Relay) take(more []port) (wanted map[port]*target, node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wanted = make(map[port]*target, len(r.dirty)+len(more))
	for p := range r.dirty {
		wanted[p] = r.wanted[p]
	}
	for _, p := range more {
		wanted[p] = r.wanted[p]
	}
	clear(r.dirty)
	return wanted, r.node
}

// sorted returns ports in an order for logs and tests.
func sorted(ports map[port]*target) []port {
	out := make([]port, 0, len(ports))
	for p := range ports {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b port) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.family, b.family))
	})
	return out
}

func networkOf(p port) string { return strings.ToLower(p.protocol.String()) + digit(p.family) }

func digit(f proxy.Family) string {
	if f == proxy.IPv6 {
		return "6"
	}
	return "4"
}
