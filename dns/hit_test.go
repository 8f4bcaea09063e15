package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/dns/wire"
)

// newServer returns one that is not run but has the cluster's zone, and
// "web.example.com A" in its cache.
func newServer(t testing.TB) *Server {
	t.Helper()
	store := dnstest.Cluster()
	s, err := New(Options{
		Store: store, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
		Forward: forward.Options{Zones: forward.Root(forward.Plain(netip.MustParseAddrPort("192.0.2.53:53"))...)}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	w := store.Watch()
	defer w.Stop()
	u, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	z, _ := s.planner.Update(u)
	s.publish(z)

	for _, edns := range []bool{true, false} {
		for _, do := range []bool{true, false} {
			var q wire.Query
			q.Parse(query("web.example.com", wire.TypeA, edns, do), false)
			s.cache.Put(cache.AppendKey(nil, q.Name, &q), response(t, "web.example.com", 60), netip.AddrPort{}, time.Now())
		}
	}
	return s
}

func query(name string, typ uint16, edns, do bool) []byte {
	n, err := wire.ParseName(name)
	if err != nil {
		panic(err)
	}
	return wire.AppendQuery(nil, 7, 0, n, typ, edns, do)
}

// response is what an upstream says of a name: one address.
func response(t testing.TB, name string, ttl uint32) *wire.Response {
	t.Helper()
	n, err := wire.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	msg := wire.AppendQuery(nil, 0, wire.FlagQR, n, wire.TypeA, false, false)
	msg[7] = 1
	r, err := wire.ParseResponse(wire.AppendPacked(msg, wire.TypeA, ttl, []byte{192, 0, 2, 1}), n, wire.TypeA)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var hitCases = []struct {
	name string
	typ  uint16
}{
	{"svc1.testns.svc.cluster.local", wire.TypeA},
	{"SVC1.testns.svc.cluster.local", wire.TypeAAAA},
	{"hdls.testns.svc.cluster.local", wire.TypeA},
	{"_http._tcp.hdls.testns.svc.cluster.local", wire.TypeSRV},
	{"http.tcp.svc1.testns.svc.cluster.local", wire.TypeA},
	{"1.0.0.10.in-addr.arpa", wire.TypePTR},
	{"nope.testns.svc.cluster.local", wire.TypeA},
	{"ext-in.testns.svc.cluster.local", wire.TypeA},
	{"web.example.com", wire.TypeA},
}

// TestHitsDoNotAllocate guards the way of a query that needs no other server.
func TestHitsDoNotAllocate(t *testing.T) {
	s := newServer(t)
	out := make([]byte, 0, wire.MaxMessage)
	w := &worker{counters: &counters{}}
	for _, c := range hitCases {
		for _, edns := range []bool{true, false} {
			msg := query(c.name, c.typ, edns, edns)
			if allocs := testing.AllocsPerRun(100, func() {
				reply, _ := s.answer(w, msg, out, false, nil)
				if len(reply) == 0 {
					t.Fatal("no answer")
				}
				s.observe(w, msg, reply, time.Time{})
			}); allocs != 0 {
				t.Errorf("%s %d: %v allocations", c.name, c.typ, allocs)
			}
		}
	}
}

// TestBatchesDoNotAllocate guards the system calls around it.
func TestBatchesDoNotAllocate(t *testing.T) {
	s := newServer(t)
	server := s.sockets[0].udp[0]
	for _, other := range s.sockets[0].udp[1:] { // so that this one gets all
		_ = other.Close()
	}
	b, err := newBatch(server, true)
	if err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	deadline := time.Now().Add(time.Minute)
	if err := client.SetDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	w := &worker{counters: &counters{}}
	msg, buf := query(hitCases[0].name, wire.TypeA, true, false), make([]byte, 4096)
	work := t.Context()
	if allocs := testing.AllocsPerRun(100, func() {
		for range 3 {
			if _, err := client.Write(msg); err != nil {
				t.Fatal(err)
			}
		}
		for left := 3; left > 0; {
			n, err := b.receive(false)
			if err != nil || s.answerBatch(work, w, b, n) != nil {
				t.Fatal(err)
			}
			left -= n
		}
		for range 3 {
			if n, err := client.Read(buf); err != nil || n < wire.HeaderLen {
				t.Fatal(n, err)
			}
		}
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func BenchmarkAnswer(b *testing.B) {
	s := newServer(b)
	w := &worker{counters: &counters{}}
	out := make([]byte, 0, wire.MaxMessage)
	for _, c := range hitCases {
		msg := query(c.name, c.typ, true, false)
		b.Run(fmt.Sprintf("%s/%d", c.name, c.typ), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if reply, _ := s.answer(w, msg, out, false, nil); len(reply) == 0 {
					b.Fatal("no answer")
				}
			}
		})
	}
}

// BenchmarkUDP asks a running server over loopback, with queries of a window
// under way. It counts the time of both ends, and of the kernel between them.
func BenchmarkUDP(b *testing.B) {
	s := newServer(b)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	conn, err := net.Dial("udp", s.Addrs()[0].String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if err := s.WaitRevision(ctx, 1); err != nil {
		b.Fatal(err)
	}
	const window = 32
	msg, buf := query(hitCases[0].name, wire.TypeA, true, false), make([]byte, 4096)
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		b.Fatal(err)
	}
	sent, got := 0, 0
	b.ReportAllocs()
	b.ResetTimer()
	for got < b.N {
		for sent < b.N && sent-got < window {
			if _, err := conn.Write(msg); err != nil {
				b.Fatal(err)
			}
			sent++
		}
		if _, err := conn.Read(buf); err != nil {
			b.Fatal(err)
		}
		got++
	}
}
