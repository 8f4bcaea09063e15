package enginetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
)

// hostNames are the machines of the world: pods a and b on the node under test,
// c and d on the other one, the two nodes, and two machines outside.
var hostNames = []string{"a", "b", "c", "d", "node", "other", "client", "stranger"}

// host is a machine that connects and answers.
type host struct {
	*lab.Namespace
	name  string
	node  string // where it runs; empty outside
	addrs [2]netip.Addr
	ports sync.Map // the latest source port, by protocol and destination
	sctp  sync.Mutex
}

// addr returns the host's address of a family.
func (h *host) addr(family int) netip.Addr {
	if family == 6 {
		return h.addrs[1]
	}
	return h.addrs[0]
}

// sourcePort returns a port that was not used for long to connect there, so that
// no connection meets what the kernel remembers of an earlier one. It keeps away
// from NodePorts.
func (h *host) sourcePort(protocol string, to netip.AddrPort) uint16 {
	const first, count = 33000, 32000
	next, ok := h.ports.Load(protocol + to.String())
	if !ok {
		start := new(atomic.Uint32)
		start.Store(rand.Uint32N(count))
		next, _ = h.ports.LoadOrStore(protocol+to.String(), start)
	}
	return first + uint16(next.(*atomic.Uint32).Add(1)%count)
}

// The ports that every host answers on; the last one is that of random walks.
var served = []uint16{8080, 8081, 5353}

// serve answers on all protocols with the host's name, the port, and the source
// address that it sees. The function ends it.
func (h *host) serve() (func(), error) {
	var closers []func() error
	end := func() {
		for _, c := range closers {
			_ = c()
		}
	}
	for _, port := range served {
		at := fmt.Sprintf("[::]:%d", port)
		ln, err := h.Listen("tcp", at)
		if err != nil {
			return end, err
		}
		closers = append(closers, ln.Close)
		go h.acceptAll(ln, port)
		pc, err := h.ListenPacket("udp", at)
		if err != nil {
			return end, err
		}
		closers = append(closers, pc.Close)
		go h.answerAll(pc, port)
	}
	for _, family := range []int{4, 6} {
		pc, err := h.ListenPacket(fmt.Sprintf("ip%d:132", family), "")
		if err != nil {
			return end, fmt.Errorf("raw socket of %s: %w", h.name, err)
		}
		closers = append(closers, pc.Close)
		go h.associateAll(pc)
	}
	return end, nil
}

func (h *host) answer(port uint16, from net.Addr) []byte {
	text := from.String()
	if ap, err := netip.ParseAddrPort(text); err == nil {
		text = ap.Addr().Unmap().String()
	}
	return fmt.Appendf(nil, "%s:%d %s\n", h.name, port, text)
}

func (h *host) acceptAll(ln net.Listener, port uint16) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			buf := make([]byte, 64)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
				if _, err := c.Write(h.answer(port, c.RemoteAddr())); err != nil {
					return
				}
			}
		}()
	}
}

func (h *host) answerAll(pc net.PacketConn, port uint16) {
	buf := make([]byte, 64)
	for {
		_, from, err := pc.ReadFrom(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			continue // an ICMP error of an answer that went nowhere
		}
		_, _ = pc.WriteTo(h.answer(port, from), from)
	}
}

// outcome is what came of a connection.
type outcome struct {
	by     string // "b:8080", or Refused, Silence, denied, or an error
	source string // the source address that the answering one saw
}

// denied is the outcome of a packet that the node itself sends and that a rule
// rejects or drops: the kernel gives the sender the same error.
const denied = "denied"

// errOutcome says what an error means.
func errOutcome(err error) outcome {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return outcome{by: Refused}
	case errors.Is(err, syscall.EPERM):
		return outcome{by: denied}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return outcome{by: Silence}
	}
	return outcome{by: err.Error()}
}

// dial connects by TCP or UDP.
func (h *host) dial(protocol string, to netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for {
		unspecified := netip.IPv4Unspecified()
		if to.Addr().Is6() {
			unspecified = netip.IPv6Unspecified()
		}
		conn, err := h.DialFrom(ctx, protocol, netip.AddrPortFrom(unspecified, h.sourcePort(protocol, to)), to.String())
		if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EADDRNOTAVAIL) {
			continue
		}
		if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
			_ = tcp.SetLinger(0) // leaves no port waiting
		}
		return conn, err
	}
}

// exchange asks once on a connection.
func exchange(conn net.Conn, timeout time.Duration) outcome {
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if _, err := conn.Write([]byte("?")); err != nil {
		return errOutcome(err)
	}
	buf := make([]byte, 128)
	n, err := conn.Read(buf)
	if err != nil {
		return errOutcome(err)
	}
	by, source, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), " ")
	return outcome{by, source}
}

// ask connects, asks once and ends the connection.
func (h *host) ask(protocol string, to netip.AddrPort, timeout time.Duration) outcome {
	if protocol == "sctp" {
		return h.associate(to, timeout)
	}
	conn, err := h.dial(protocol, to, timeout)
	if err != nil {
		return errOutcome(err)
	}
	defer func() { _ = conn.Close() }()
	return exchange(conn, timeout)
}
