package forward

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// network is one in memory: servers by address, reached through [Options.dial].
type network struct {
	mu      sync.Mutex // guards all below
	servers map[netip.AddrPort]*server
}

// server is a name server in memory.
type server struct {
	// answer may take its time, and says nothing with nil. conn is the number of
	// the connection, 0 for UDP.
	answer func(q *dns.Msg, conn int) *dns.Msg
	refuse func(network string) error // nil: it takes connections
	serial bool                       // answers the questions of one connection in turn
	after  int                        // unless 0, it closes a connection after so many answers

	mu    sync.Mutex // guards all below
	conns int        // over TCP, of all time
	open  int
	most  int // open at a time
	udp   int // questions
	tcp   int
}

var errRefused = errors.New("refused")

func newNetwork() *network { return &network{servers: map[netip.AddrPort]*server{}} }

// add makes a server of the address 192.0.2.n.
func (n *network) add(last byte, s *server) netip.AddrPort {
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, last}), 53)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.servers[addr] = s
	return addr
}

func (n *network) dial(_ context.Context, proto string, addr netip.AddrPort) (net.Conn, error) {
	n.mu.Lock()
	s := n.servers[addr]
	n.mu.Unlock()
	if s == nil {
		return nil, errRefused
	}
	if s.refuse != nil {
		if err := s.refuse(proto); err != nil {
			return nil, err
		}
	}
	near, far := net.Pipe()
	go s.serve(far, proto == "tcp")
	return near, nil
}

func (s *server) serve(conn net.Conn, tcp bool) {
	defer conn.Close()
	number := 0
	if tcp {
		s.mu.Lock()
		s.conns++
		number = s.conns
		s.open++
		s.most = max(s.most, s.open)
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.open--
		}()
	}
	var write sync.Mutex // guards written
	written := 0
	for {
		msg, err := read(conn, tcp)
		if err != nil {
			return
		}
		s.mu.Lock()
		if tcp {
			s.tcp++
		} else {
			s.udp++
		}
		s.mu.Unlock()
		reply := func() {
			var q dns.Msg
			if q.Unpack(msg) != nil {
				return
			}
			r := s.answer(&q, number)
			if r == nil {
				return
			}
			b, err := r.Pack()
			if err != nil {
				return
			}
			if tcp {
				b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
			}
			write.Lock()
			defer write.Unlock()
			_, _ = conn.Write(b)
			s.mu.Lock()
			defer s.mu.Unlock()
			if written++; tcp && written == s.after {
				_ = conn.Close()
			}
		}
		if s.serial {
			reply()
		} else {
			go reply()
		}
	}
}

func read(conn net.Conn, tcp bool) ([]byte, error) {
	buf := make([]byte, 4096)
	if !tcp {
		n, err := conn.Read(buf)
		return buf[:n], err
	}
	if _, err := io.ReadFull(conn, buf[:2]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(buf)
	_, err := io.ReadFull(conn, buf[:n])
	return buf[:n], err
}

// counts returns how many questions came over UDP and over TCP, and by how many
// connections in all and at a time.
func (s *server) counts() (udp, tcp, conns, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.udp, s.tcp, s.conns, s.most
}

// forwarder returns one in the network; it must be closed before the test's bubble
// ends.
func (n *network) forwarder(t testing.TB, o Options) *Forwarder {
	t.Helper()
	o.dial = n.dial
	o.Log = slog.New(slog.DiscardHandler)
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// named answers with the question's name as text, so that a mix-up shows.
func named(q *dns.Msg, _ int) *dns.Msg {
	r := new(dns.Msg).SetReply(q)
	name := q.Question[0].Name
	r.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 60}, Txt: []string{strings.ToLower(name)}}}
	return r
}

func nothing(*dns.Msg, int) *dns.Msg { return nil }
