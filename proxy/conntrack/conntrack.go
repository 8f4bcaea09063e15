// Package conntrack removes flows of UDP Services from the kernel's connection
// tracking when they go to endpoints that are gone. The kernel remembers a
// translation for as long as packets come, whatever the rules say since.
package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// Cleaner is the [proxy.Flows] of a network namespace.
type Cleaner struct{ netns int }

// New returns a cleaner of the process's own network namespace.
func New() *Cleaner { return &Cleaner{-1} }

// NewAt returns a cleaner of another network namespace, by a descriptor that
// must stay open.
func NewAt(netns int) *Cleaner { return &Cleaner{netns} }

// wanted says where flows to the frontends of changed Services may go.
type wanted struct {
	frontends map[netip.AddrPort]target
	nodePorts map[nodePort]target
}

type nodePort struct {
	family proxy.Family
	port   uint16
}

// target is where flows to a frontend may go. A frontend that is gone has no
// endpoints.
type target struct {
	gone      bool
	endpoints []netip.AddrPort
}

// Clean implements [proxy.Flows]. It lists the UDP flows if an endpoint of a UDP
// port is gone, or a frontend is new or gone, and does nothing otherwise.
func (c *Cleaner) Clean(ctx context.Context, changes []proxy.Change) (int, error) {
	w := collect(changes)
	if len(w.frontends) == 0 && len(w.nodePorts) == 0 {
		return 0, nil
	}
	local, err := c.localAddrs(w)
	if err != nil {
		return 0, err
	}
	s, err := nfnl.Dial(c.netns)
	if err != nil {
		return 0, fmt.Errorf("conntrack: %w", err)
	}
	defer s.Close()
	deleted := 0
	for family, number := range map[proxy.Family]byte{proxy.IPv4: unix.AF_INET, proxy.IPv6: unix.AF_INET6} {
		if !w.has(family) {
			continue
		}
		stale, err := list(ctx, s, number, func(f *flow) bool { return w.stale(f, local) })
		if err != nil {
			return deleted, fmt.Errorf("conntrack: list: %w", err)
		}
		for _, f := range stale {
			switch err := remove(ctx, s, number, f); {
			case err == nil:
				deleted++
			case !errors.Is(err, unix.ENOENT):
				return deleted, fmt.Errorf("conntrack: delete: %w", err)
			}
		}
	}
	return deleted, nil
}

// collect returns what is wanted of the frontends of changes that can have left
// stale flows behind.
func collect(changes []proxy.Change) *wanted {
	w := &wanted{frontends: map[netip.AddrPort]target{}, nodePorts: map[nodePort]target{}}
	// Of several changes of one Service, the last says what is in force.
	last := map[model.Name]*proxy.Service{}
	for _, c := range changes {
		last[c.Name] = c.New
	}
	for _, c := range changes {
		each(c.Old, func(p *proxy.Port, f *proxy.Frontend) {
			if before, now := p, find(last[c.Name], p); now == nil || !harmless(before, now) {
				w.set(p, f, target{gone: true})
			}
		})
		if c.Old == nil {
			each(last[c.Name], func(p *proxy.Port, f *proxy.Frontend) { w.set(p, f, target{gone: true}) })
		}
	}
	for _, s := range last {
		each(s, func(p *proxy.Port, f *proxy.Frontend) {
			if w.mentions(p, f) || !known(changes, p, f) {
				w.set(p, f, target{endpoints: p.Established})
			}
		})
	}
	return w
}

// each calls f for every UDP frontend of a Service.
func each(s *proxy.Service, f func(*proxy.Port, *proxy.Frontend)) {
	if s == nil {
		return
	}
	for _, p := range s.Ports {
		if p.Protocol != proxy.UDP {
			continue
		}
		for i := range p.Frontends {
			f(p, &p.Frontends[i])
		}
	}
}

// find returns the same port of another plan of the Service.
func find(s *proxy.Service, like *proxy.Port) *proxy.Port {
	if s == nil {
		return nil
	}
	for _, p := range s.Ports {
		if p.Family == like.Family && p.Protocol == like.Protocol && p.Port == like.Port {
			return p
		}
	}
	return nil
}

// harmless reports whether a change of a port leaves no stale flows: all
// endpoints that flows could have are still there, and so are the frontends.
func harmless(before, now *proxy.Port) bool {
	for _, e := range before.Established {
		if _, ok := slices.BinarySearchFunc(now.Established, e, netip.AddrPort.Compare); !ok {
			return false
		}
	}
	for i := range before.Frontends {
		if !hasFrontend(now, before.Frontends[i].Addr, before.Frontends[i].Port) {
			return false
		}
	}
	return true
}

func hasFrontend(p *proxy.Port, addr netip.Addr, port uint16) bool {
	return slices.ContainsFunc(p.Frontends, func(f proxy.Frontend) bool { return f.Addr == addr && f.Port == port })
}

// known reports whether a frontend was there before any of the changes.
func known(changes []proxy.Change, p *proxy.Port, f *proxy.Frontend) bool {
	for _, c := range changes {
		if old := find(c.Old, p); old != nil && hasFrontend(old, f.Addr, f.Port) {
			return true
		}
	}
	return false
}

func (w *wanted) set(p *proxy.Port, f *proxy.Frontend, t target) {
	if f.Kind == proxy.NodePort {
		w.nodePorts[nodePort{p.Family, f.Port}] = t
	} else {
		w.frontends[netip.AddrPortFrom(f.Addr, f.Port)] = t
	}
}

func (w *wanted) mentions(p *proxy.Port, f *proxy.Frontend) bool {
	if f.Kind == proxy.NodePort {
		_, ok := w.nodePorts[nodePort{p.Family, f.Port}]
		return ok
	}
	_, ok := w.frontends[netip.AddrPortFrom(f.Addr, f.Port)]
	return ok
}

func (w *wanted) has(family proxy.Family) bool {
	for f := range w.frontends {
		if proxy.FamilyOf(f.Addr()) == family {
			return true
		}
	}
	for f := range w.nodePorts {
		if f.family == family {
			return true
		}
	}
	return false
}

// stale reports whether a flow goes to a Service and not to one of its
// endpoints. A flow to a frontend that is gone is only ours if it is translated.
func (w *wanted) stale(f *flow, local map[netip.Addr]struct{}) bool {
	t, ok := w.frontends[f.destination]
	if !ok {
		if _, mine := local[f.destination.Addr()]; mine {
			t, ok = w.nodePorts[nodePort{proxy.FamilyOf(f.destination.Addr()), f.destination.Port()}]
		}
	}
	if !ok || t.gone && f.answers == f.destination {
		return false
	}
	_, serves := slices.BinarySearchFunc(t.endpoints, f.answers, netip.AddrPort.Compare)
	return !serves
}

// localAddrs returns the addresses of the namespace, if they are needed.
func (c *Cleaner) localAddrs(w *wanted) (map[netip.Addr]struct{}, error) {
	if len(w.nodePorts) == 0 {
		return nil, nil
	}
	// -1 is the handle of the current namespace, for both.
	handle, err := netlink.NewHandleAt(netns.NsHandle(c.netns), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("conntrack: local addresses: %w", err)
	}
	defer handle.Close()
	addrs, err := handle.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("conntrack: local addresses: %w", err)
	}
	out := make(map[netip.Addr]struct{}, len(addrs))
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			out[addr.Unmap()] = struct{}{}
		}
	}
	return out, nil
}

var _ proxy.Flows = (*Cleaner)(nil)

func port(b []byte) uint16 {
	if len(b) != 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}
