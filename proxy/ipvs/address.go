package ipvs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
)

// linkName is the interface that addresses are bound on, each by a route of the
// table "local" and not as an address of the interface: a route can say with what
// source this machine connects to it. Of an address it would be the address itself,
// so that all such connections were lost when another engine takes over and the
// address goes. Nor can the kernel or somebody's tool take a Service's address for
// one of the node's, and many cost no more each than few.
const linkName = "sluice-ipvs"

func (s *system) prepareLink() error {
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: linkName}}
	if err := s.route.LinkAdd(link); err != nil && !errors.Is(err, unix.EEXIST) {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return &proxy.UnsupportedError{Engine: "ipvs", Feature: "the kernel has no dummy interfaces", Err: err,
				Remedy: "run \"modprobe dummy\", or use a kernel that is built with CONFIG_DUMMY"}
		}
		return denied(fmt.Errorf("ipvs: make interface %s: %w", linkName, err))
	}
	dummy, err := s.route.LinkByName(linkName)
	if err != nil {
		return fmt.Errorf("ipvs: find interface %s: %w", linkName, err)
	}
	if dummy.Attrs().Flags&net.FlagUp == 0 {
		// It needs no address of its own. Kernels without IPv6 know nothing of that.
		_ = s.route.LinkSetIP6AddrGenMode(dummy, nl.IN6_ADDR_GEN_MODE_NONE)
		// IPv6 has routes only on interfaces that are up.
		if err := s.route.LinkSetUp(dummy); err != nil {
			return denied(fmt.Errorf("ipvs: set interface %s up: %w", linkName, err))
		}
	}
	s.dummy = dummy
	s.sources = map[proxy.Family]net.IP{}
	for family, far := range faraway {
		if routes, err := s.route.RouteGet(far); err == nil && len(routes) > 0 {
			s.sources[family] = routes[0].Src
		}
	}
	return nil
}

// faraway are addresses of documentation (RFC 5737, RFC 3849), for which the kernel
// says from what address it sends to what is not near.
var faraway = map[proxy.Family]net.IP{
	proxy.IPv4: net.IPv4(192, 0, 2, 1),
	proxy.IPv6: net.ParseIP("2001:db8::1"),
}

// local returns the route that makes an address one of this machine's. Without a
// source, the kernel takes the address itself for IPv4. Its protocol is that of the
// routes of addresses, which programs that keep routes leave alone.
func (s *system) local(a netip.Addr) *netlink.Route {
	return &netlink.Route{
		LinkIndex: s.dummy.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Protocol: unix.RTPROT_KERNEL,
		Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
		Src: s.sources[proxy.FamilyOf(a)],
	}
}

func (s *system) bind(a netip.Addr) error {
	// Appended, it neither replaces nor hides the route of an address that the
	// machine has got meanwhile.
	if err := s.route.RouteAppend(s.local(a)); err != nil && !errors.Is(err, unix.EEXIST) {
		return denied(fmt.Errorf("ipvs: bind %s on %s: %w", a, linkName, err))
	}
	return nil
}

func (s *system) unbind(a netip.Addr) error {
	route := s.local(a)
	route.Src = nil // whatever it is
	if err := s.route.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
		return denied(fmt.Errorf("ipvs: remove %s from %s: %w", a, linkName, err))
	}
	return nil
}

func (s *system) addresses() (bound, error) {
	out := bound{map[netip.Addr]bool{}, map[netip.Addr]bool{}}
	index := -1
	link, err := s.route.LinkByName(linkName)
	var gone netlink.LinkNotFoundError
	switch {
	case err == nil:
		index = link.Attrs().Index
	case !errors.As(err, &gone):
		return out, fmt.Errorf("ipvs: find interface %s: %w", linkName, err)
	}
	list, err := whole(func() ([]netlink.Addr, error) { return s.route.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return out, fmt.Errorf("ipvs: list addresses: %w", err)
	}
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && a.LinkIndex != index && !addr.Unmap().IsLinkLocalUnicast() {
			out.others[addr.Unmap()] = true
		}
	}
	if index < 0 {
		return out, nil
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := whole(func() ([]netlink.Route, error) {
			return s.route.RouteListFiltered(family, &netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL},
				netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF|netlink.RT_FILTER_TYPE)
		})
		if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return out, fmt.Errorf("ipvs: list routes: %w", err)
		}
		for _, r := range routes {
			if addr, ok := netip.AddrFromSlice(r.Dst.IP); ok && !addr.Unmap().IsLinkLocalUnicast() {
				out.ours[addr.Unmap()] = true
			}
		}
	}
	return out, nil
}

// whole asks for a list again if it changed meanwhile.
func whole[T any](list func() ([]T, error)) (out []T, err error) {
	for range 5 {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}

func (s *system) deleteLink() error {
	link, err := s.route.LinkByName(linkName)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil
	}
	if err == nil {
		err = s.route.LinkDel(link)
	}
	if err != nil && !errors.Is(err, syscall.ENODEV) {
		return denied(fmt.Errorf("ipvs: delete interface %s: %w", linkName, err))
	}
	return nil
}
