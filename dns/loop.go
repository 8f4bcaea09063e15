package dns

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// loop is what one loop tells of itself.
type loop struct {
	// turns is odd while a batch is being answered.
	turns atomic.Uint64
}

func (l *loop) begin() { l.turns.Add(1) }
func (l *loop) end()   { l.turns.Add(1) }

func (s *Server) newLoop() *loop {
	l := &loop{}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loops = append(s.loops, l)
	return l
}

// stuckAfter is how long a loop may take for one batch, which mostly takes well
// below a millisecond.
const stuckAfter = 500 * time.Millisecond

// Liveness tells whether the loops of a server go round. It is to be used by one
// goroutine.
type Liveness struct {
	server *Server
	turns  []uint64
	since  []time.Time
}

// Liveness returns what watches the server's loops.
func (s *Server) Liveness() *Liveness { return &Liveness{server: s} }

// Alive reports whether no loop has been at the same batch at every look of the
// last half second. A server that is not run yet is not alive.
func (l *Liveness) Alive(now time.Time) bool {
	l.server.mu.Lock()
	loops := l.server.loops
	l.server.mu.Unlock()
	alive := len(loops) > 0
	for i, loop := range loops {
		turns := loop.turns.Load()
		if i == len(l.turns) {
			l.turns, l.since = append(l.turns, turns), append(l.since, now)
		}
		if turns != l.turns[i] || turns%2 == 0 {
			l.turns[i], l.since[i] = turns, now
		}
		alive = alive && now.Sub(l.since[i]) < stuckAfter
	}
	return alive
}

// isProber reports whether a message came from one of the probers.
func (s *Server) isProber(peer *unix.RawSockaddrInet6) bool {
	return len(s.Probers) > 0 && slices.Contains(s.Probers, peerAddr(peer))
}

// peerAddrPort returns the address and port of a received message's sender.
func peerAddrPort(peer *unix.RawSockaddrInet6) netip.AddrPort {
	// The port is at the same place in both families, in the network's order.
	port := (*[2]byte)(unsafe.Pointer(&peer.Port))
	return netip.AddrPortFrom(peerAddr(peer), uint16(port[0])<<8|uint16(port[1]))
}

// peerAddr returns the address of a received message's sender.
func peerAddr(peer *unix.RawSockaddrInet6) netip.Addr {
	if peer.Family == unix.AF_INET {
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(peer)).Addr)
	}
	return netip.AddrFrom16(peer.Addr)
}
