package dns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// sockets are what one address is served on.
type sockets struct {
	addr netip.AddrPort
	udp  []*net.UDPConn
	tcp  *net.TCPListener
	tls  *tls.Config // of what comes over TCP; nil: none
}

// tries is how often a free port is looked for that both UDP and TCP have.
const tries = 16

// listen opens the sockets of an address: as many of UDP as asked for, among which
// the kernel spreads clients, and one of TCP.
func listen(addr netip.AddrPort, udp int) (*sockets, error) {
	var err error
	for range tries {
		var s *sockets
		if s, err = listenOnce(addr, udp); err == nil {
			return s, nil
		}
		if addr.Port() != 0 || !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return nil, fmt.Errorf("dns: listen on %v: %w", addr, err)
}

func listenOnce(addr netip.AddrPort, udp int) (*sockets, error) {
	s := &sockets{addr: addr}
	network := "4"
	if addr.Addr().Is6() {
		network = "6"
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return control(c, addr.Addr()) }}
	for range udp {
		conn, err := config.ListenPacket(context.Background(), "udp"+network, s.addr.String())
		if err != nil {
			s.close()
			return nil, err
		}
		c := conn.(*net.UDPConn)
		growQueue(c)
		s.udp = append(s.udp, c)
		s.addr = netip.AddrPortFrom(addr.Addr(), conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	}
	l, err := config.Listen(context.Background(), "tcp"+network, s.addr.String())
	if err != nil {
		s.close()
		return nil, err
	}
	s.tcp = l.(*net.TCPListener)
	s.addr = netip.AddrPortFrom(addr.Addr(), l.Addr().(*net.TCPAddr).AddrPort().Port())
	return s, nil
}

// control sets the options of a socket before it is bound.
func control(c syscall.RawConn, addr netip.Addr) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		set := func(name string, level, option int) {
			if err := unix.SetsockoptInt(int(fd), level, option, 1); err != nil && failed == nil {
				failed = fmt.Errorf("socket option %s: %w", name, err)
			}
		}
		// Several sockets share the address: one a core, and for the time
		// of an upgrade those of the old process and of the new.
		set("SO_REUSEPORT", unix.SOL_SOCKET, unix.SO_REUSEPORT)
		v6 := addr.Is6()
		if v6 {
			set("IPV6_V6ONLY", unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		}
		switch { // for an address that the machine has later
		case addr.IsUnspecified():
		case v6:
			set("IPV6_FREEBIND", unix.IPPROTO_IPV6, unix.IPV6_FREEBIND)
		default:
			set("IP_FREEBIND", unix.IPPROTO_IP, unix.IP_FREEBIND)
		}
		switch { // answers come from the address that was asked
		case !addr.IsUnspecified():
		case v6:
			set("IPV6_RECVPKTINFO", unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO)
		default:
			set("IP_PKTINFO", unix.IPPROTO_IP, unix.IP_PKTINFO)
		}
	})
	return errors.Join(err, failed)
}

// queue is the room in octets for queries that have arrived, of which the kernel
// counts about 400 for a short one (half of what it takes). Its own default holds
// less than 300 of them. A server that waits for its turn on a processor, or one that
// starts or drains beside another on a busy machine, may get thousands meanwhile.
const queue = 4 << 20

// growQueue makes room for queries that wait. Without the right to exceed the
// machine's limit it is that, which is enough for most loads.
func growQueue(conn *net.UDPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queue) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, queue)
		}
	})
}

func (s *sockets) close() {
	for _, c := range s.udp {
		_ = c.Close() // nothing is lost that was not lost before
	}
	if s.tcp != nil {
		_ = s.tcp.Close()
	}
}

// leaveGroup takes a UDP socket out of those among which the kernel spreads the
// clients of an address, without losing what is in its queue, as closing it would.
// A socket that is connected gets nothing from others than its peer, and the peer
// here is nobody.
func leaveGroup(conn *net.UDPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	// Without success the queue is emptied all the same, only that more may come
	// until the socket is closed.
	_ = raw.Control(func(fd uintptr) {
		if domain, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && domain == unix.AF_INET6 {
			_ = unix.Connect(int(fd), &unix.SockaddrInet6{Port: discard, Addr: netip.IPv6Loopback().As16()})
		} else {
			_ = unix.Connect(int(fd), &unix.SockaddrInet4{Port: discard, Addr: [4]byte{127, 0, 0, 1}})
		}
	})
}

// discard is a port that nobody sends DNS from (RFC 863).
const discard = 9

// yieldConnections has the kernel give new connections to the second listener of
// an address, if there is one: that of the process that takes over, because ours
// was there before. What is in our backlog stays there.
func yieldConnections(l *net.TCPListener) {
	raw, err := l.SyscallConn()
	if err != nil {
		return
	}
	second := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 1}}
	// Without success a connection may be begun with us until we close.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
			&unix.SockFprog{Len: uint16(len(second)), Filter: &second[0]})
	})
}
