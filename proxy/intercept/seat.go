package intercept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
)

// Port is the port of DNS, the only one that is intercepted.
const Port = 53

// The internal addresses. They are local to every node, and nobody ever sees them
// but the rules and the server.
var internal = map[proxy.Family]netip.Prefix{
	proxy.IPv4: netip.MustParsePrefix("169.254.20.128/26"),
	proxy.IPv6: netip.MustParsePrefix("fd73:6c75:6963:6500::20:80/122"),
}

const (
	seats      = 4  // processes that may be there at a time
	seatSize   = 16 // addresses of a seat, per family
	maxSlots   = 8  // intercepted addresses, per family
	proberSlot = 15
)

// address returns an address of a seat.
func address(family proxy.Family, seat, slot int) netip.Addr {
	b := internal[family].Addr().AsSlice()
	b[len(b)-1] += byte(seat*seatSize + slot)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// seatOf returns the seat that an address belongs to.
func seatOf(a netip.Addr) (seat int, ok bool) {
	for _, p := range internal {
		if p.Contains(a) {
			b, first := a.AsSlice(), p.Addr().AsSlice()
			return int(b[len(b)-1]-first[len(first)-1]) / seatSize, true
		}
	}
	return 0, false
}

// server is where the queries to an address go.
func server(family proxy.Family, seat, slot int) netip.Addr { return address(family, seat, slot) }

// prober is where the server of a seat is asked from whether it is alive.
func prober(family proxy.Family, seat int) netip.Addr { return address(family, seat, proberSlot) }

// claimPort is the port of the sockets that stand for seats, and that servers are asked
// from. It is not that of DNS, which a server may have on all addresses.
const claimPort = 20053

// claim is a seat that this process has. Its sockets are bound to no other's
// addresses, so the kernel frees it with the process.
type claim struct {
	seat int
	conn map[proxy.Family]*net.UDPConn
}

// claimSeat takes a free seat.
func claimSeat(families []proxy.Family) (*claim, error) {
	for seat := range seats {
		c := &claim{seat: seat, conn: map[proxy.Family]*net.UDPConn{}}
		var err error
		for _, f := range families {
			if c.conn[f], err = bind(f, seat); err != nil {
				delete(c.conn, f)
				break
			}
		}
		if err == nil {
			return c, nil
		}
		c.close()
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, errSeats
}

var errSeats = fmt.Errorf("intercept: %d other processes intercept DNS on this node already; stop the oldest of them", seats)

// taken reports whether a process has a seat.
func taken(family proxy.Family, seat int) bool {
	c, err := bind(family, seat)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, unix.EADDRINUSE)
}

// bind opens the socket that stands for a seat.
func bind(family proxy.Family, seat int) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			if family == proxy.IPv6 {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
			} else {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
			}
		})
		return errors.Join(err, os.NewSyscallError("setsockopt", failed))
	}}
	network := "udp4"
	if family == proxy.IPv6 {
		network = "udp6"
	}
	c, err := lc.ListenPacket(context.Background(), network, netip.AddrPortFrom(prober(family, seat), claimPort).String())
	if err != nil {
		return nil, fmt.Errorf("intercept: %w", err)
	}
	return c.(*net.UDPConn), nil
}

func (c *claim) close() {
	for _, conn := range c.conn {
		_ = conn.Close()
	}
}

// addRoute makes the internal addresses of a family local. It is one route for all
// seats and stays: without the rules nothing leads there.
func addRoute(family proxy.Family) error {
	r, err := localRoute(family)
	if err == nil {
		err = netlink.RouteReplace(r)
	}
	if err != nil {
		return fmt.Errorf("intercept: make %v local: %w", internal[family], err)
	}
	return nil
}

// routeLost reports whether an internal address is not local any more.
func routeLost(a netip.Addr) bool {
	routes, err := netlink.RouteGet(a.AsSlice())
	return err != nil || len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL
}

// deleteRoute is the reverse.
func deleteRoute(family proxy.Family) error {
	r, err := localRoute(family)
	if err == nil {
		err = netlink.RouteDel(r)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("intercept: remove the route of %v: %w", internal[family], err)
	}
	return nil
}

func localRoute(family proxy.Family) (*netlink.Route, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	p := internal[family]
	return &netlink.Route{
		LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
	}, nil
}
