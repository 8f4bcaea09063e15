package dns

import (
	"bufio"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/dns/dnstap"
)

// stream is one connection. Answers go out as they are ready, in any order (RFC
// 7766 §6.2.1.1).
type stream struct {
	conn           net.Conn
	raw            net.Conn // conn, without TLS
	client, server netip.AddrPort
	protocol       dnstap.Protocol
	patience       time.Duration // for a client to read
	pending        sync.WaitGroup
	slots          chan struct{}
	unread         int          // octets of answers that the client has not taken yet; guarded by conns.mu
	idle           atomic.Int64 // since when nothing is under way, in nanoseconds of Unix time; 0: something is

	mu  sync.Mutex // guards out
	out *bufio.Writer
}

// rest says that the connection waits for a query.
func (c *stream) rest() {
	if len(c.slots) == 0 {
		c.idle.Store(time.Now().UnixNano())
	}
}

// work says that something is under way on the connection.
func (c *stream) work() { c.idle.Store(0) }

// conns are the connections that there are. Where one too many comes, one that has
// nothing under way makes room, first one of the client that has most (RFC 7766
// §6.2.3 lets a server close idle connections at any time): who fills the table
// pushes out himself.
type conns struct {
	counts *limitCounts
	number atomic.Int64

	mu      sync.Mutex // guards all below
	all     map[*stream]struct{}
	clients map[netip.Addr]int
	unread  int // of all
}

// maxUnread bounds the answers that clients have not taken yet, in octets of memory.
const maxUnread = 32 << 20

// admit takes in a connection, or returns nil if there are too many.
func (s *conns) admit(conn *net.TCPConn, most, perClient int) *stream {
	c := &stream{conn: conn, raw: conn, slots: make(chan struct{}, maxPipelined)}
	c.client = addrPort(conn.RemoteAddr())
	c.server = addrPort(conn.LocalAddr())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all, s.clients = map[*stream]struct{}{}, map[netip.Addr]int{}
	}
	who := c.client.Addr()
	if s.clients[who] >= perClient {
		s.counts.clientRefused.Add(1)
		return nil
	}
	if len(s.all) >= most && !s.evictLocked() {
		s.counts.refused.Add(1)
		return nil
	}
	s.all[c] = struct{}{}
	s.clients[who]++
	s.number.Store(int64(len(s.all)))
	return c
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// evict closes an idle connection, for one that the process has no descriptor for.
func (s *conns) evict() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.evictLocked()
}

func (s *conns) evictLocked() bool {
	var victim *stream
	most, since := 0, int64(0)
	for c := range s.all {
		idle := c.idle.Load()
		if idle == 0 {
			continue
		}
		if n := s.clients[c.client.Addr()]; n > most || n == most && idle < since {
			victim, most, since = c, n, idle
		}
	}
	if victim == nil {
		return false
	}
	s.counts.evicted.Add(1)
	s.remove(victim)
	_ = victim.raw.Close() // its goroutine finds out
	return true
}

// owe takes in that an answer needs so many octets until the client has taken it. Where
// that is too much, the connection with most is closed: who fills the memory pushes out
// himself. It reports whether this one is still open.
func (s *conns) owe(c *stream, octets int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.all[c]; !ok {
		return false
	}
	c.unread += octets
	s.unread += octets
	if s.unread <= maxUnread {
		return true
	}
	victim := c
	for o := range s.all {
		if o.unread > victim.unread {
			victim = o
		}
	}
	s.counts.unread.Add(1)
	s.remove(victim)
	_ = victim.raw.Close() // who writes finds out
	return victim != c
}

// paid is the end of owe.
func (s *conns) paid(c *stream, octets int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.all[c]; ok {
		c.unread -= octets
		s.unread -= octets
	}
}

// leave takes a connection out.
func (s *conns) leave(c *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(c)
}

func (s *conns) remove(c *stream) {
	if _, ok := s.all[c]; !ok {
		return // evicted before
	}
	delete(s.all, c)
	s.unread -= c.unread
	who := c.client.Addr()
	if s.clients[who]--; s.clients[who] == 0 {
		delete(s.clients, who)
	}
	s.number.Store(int64(len(s.all)))
}
