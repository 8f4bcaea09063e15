package lab

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// up sets a link of the namespace up.
func (n *Namespace) up(name string) error {
	link, err := n.link.LinkByName(name)
	if err == nil {
		err = n.link.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("set %s of %s up: %w", name, n.name, err)
	}
	return nil
}

// ready waits until a link that is up can carry packets: what is sent before the
// kernel has noticed both ends of a cable is lost, and sent again a second later.
func (n *Namespace) ready(name string) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		link, err := n.link.LinkByName(name)
		switch {
		case err != nil:
			return fmt.Errorf("link %s of %s: %w", name, n.name, err)
		case link.Attrs().OperState == netlink.OperUp:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("link %s of %s is %v and not up", name, n.name, link.Attrs().OperState)
		}
	}
}

// veth makes a cable: name here, eth0 in the peer.
func (n *Namespace) veth(name string, peer *Namespace) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	cable := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(peer.net)}
	if err := n.link.LinkAdd(cable); err != nil {
		return fmt.Errorf("cable from %s to %s: %w", n.name, peer.name, err)
	}
	return nil
}

// address adds an address to a link of the namespace, usable at once. IPv4
// link-local addresses get the link's scope, so that they are never a source of
// packets that leave it.
func (n *Namespace) address(link string, prefix netip.Prefix) error {
	l, err := n.link.LinkByName(link)
	if err != nil {
		return fmt.Errorf("address %s of %s: %w", prefix, n.name, err)
	}
	addr := &netlink.Addr{IPNet: ipNet(prefix)}
	switch {
	case prefix.Addr().Is6():
		addr.Flags = unix.IFA_F_NODAD
	case prefix.Addr().IsLinkLocalUnicast():
		addr.Scope = unix.RT_SCOPE_LINK
	}
	if err := n.link.AddrAdd(l, addr); err != nil {
		return fmt.Errorf("address %s of %s: %w", prefix, n.name, err)
	}
	return nil
}

// AddAddress gives the namespace one more address, on its eth0.
func (n *Namespace) AddAddress(prefix netip.Prefix) error { return n.address("eth0", prefix) }

// Route adds or replaces a route by a gateway on eth0's network.
func (n *Namespace) Route(to netip.Prefix, via netip.Addr) error {
	route := &netlink.Route{Dst: ipNet(to.Masked()), Gw: via.AsSlice(), Family: family(via)}
	if err := n.link.RouteReplace(route); err != nil {
		return fmt.Errorf("route of %s to %s via %s: %w", n.name, to, via, err)
	}
	return nil
}

// routeDev adds a route to a link of the namespace, with the source address that
// the namespace's own packets have there.
func (n *Namespace) routeDev(to netip.Prefix, link string, source netip.Addr) error {
	l, err := n.link.LinkByName(link)
	if err == nil {
		route := &netlink.Route{
			Dst: ipNet(to), LinkIndex: l.Attrs().Index, Family: family(to.Addr()), Src: source.AsSlice(),
		}
		if to.Addr().Is4() {
			route.Scope = unix.RT_SCOPE_LINK
		}
		err = n.link.RouteReplace(route)
	}
	if err != nil {
		return fmt.Errorf("route of %s to %s by %s: %w", n.name, to, link, err)
	}
	return nil
}

// routeVia adds a route by a link-local gateway of a link.
func (n *Namespace) routeVia(to netip.Prefix, via netip.Addr, link string) error {
	l, err := n.link.LinkByName(link)
	if err == nil {
		err = n.link.RouteReplace(&netlink.Route{
			Dst: ipNet(to), Gw: via.AsSlice(), LinkIndex: l.Attrs().Index, Family: family(via),
			Flags: int(netlink.FLAG_ONLINK),
		})
	}
	if err != nil {
		return fmt.Errorf("route of %s to %s via %s: %w", n.name, to, via, err)
	}
	return nil
}

// forward makes a router of the namespace. ICMP redirects are off: they would
// tell a pod the way past its node.
func (n *Namespace) forward() error {
	for _, s := range []struct{ name, value string }{
		{"net/ipv4/ip_forward", "1"},
		{"net/ipv6/conf/all/forwarding", "1"},
		{"net/ipv6/conf/default/forwarding", "1"},
		{"net/ipv4/conf/all/send_redirects", "0"},
		{"net/ipv4/conf/default/send_redirects", "0"},
	} {
		if err := n.Sysctl(s.name, s.value); err != nil {
			return err
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func defaultRoute(like netip.Addr) netip.Prefix {
	if like.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
