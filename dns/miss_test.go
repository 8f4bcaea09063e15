package dns

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/dns/wire"
)

// plain is a socket that blocks its thread, so that nothing of Go's network poller
// is counted for who uses it.
type plain int

func newPlain(t testing.TB) (plain, netip.AddrPort) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return plain(fd), netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*unix.SockaddrInet4).Port))
}

// answerAll gives every query the same address, until it gets one without a name.
func (p plain) answerAll(done chan<- error) {
	room := make([]byte, 4096)
	record := wire.AppendPacked(nil, wire.TypeA, 300, []byte{192, 0, 2, 1})
	for {
		n, from, err := unix.Recvfrom(int(p), room, 0)
		if err != nil || n < wire.HeaderLen+8 {
			done <- err
			return
		}
		var q wire.Query
		q.Parse(room[:n], false)
		r := q.Start(make([]byte, 0, 1232))
		r.Answer(record, wire.QuestionOffset)
		if err := unix.Sendto(int(p), r.Finish(wire.FlagRA, wire.RcodeSuccess), 0, from); err != nil {
			done <- err
			return
		}
	}
}

// BenchmarkMiss asks a running server for names that it has to ask another one for,
// with queries of a window under way. It counts the time of all three, and what the
// server allocates.
func BenchmarkMiss(b *testing.B) {
	upstream, at := newPlain(b)
	answering := make(chan error, 1)
	go upstream.answerAll(answering)
	s, err := New(Options{
		Store: dnstest.Cluster(), Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Sockets: 1,
		Forward: forward.Options{Zones: forward.Root(forward.Plain(at)...)}, Cache: cache.Options{Bytes: 4 << 20}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	serving := make(chan error, 1)
	go func() { serving <- s.Run(ctx) }()
	if err := s.WaitRevision(ctx, 1); err != nil {
		b.Fatal(err)
	}
	client, _ := newPlain(b)
	to := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(s.Addrs()[0].Port())}
	const window = 64
	msg, room := query("miss-00000000.example.com", wire.TypeA, true, false), make([]byte, 4096)
	digits := msg[wire.HeaderLen+6 : wire.HeaderLen+14]
	sent, got := 0, 0
	b.ReportAllocs()
	b.ResetTimer()
	for got < b.N {
		for sent < b.N && sent-got < window {
			sent++
			for i := range digits {
				digits[i] = 'a' + byte(sent>>(4*i)&15)
			}
			binary.BigEndian.PutUint16(msg, uint16(sent))
			if err := unix.Sendto(int(client), msg, 0, to); err != nil {
				b.Fatal(err)
			}
		}
		if n, _, err := unix.Recvfrom(int(client), room, 0); err != nil || room[3]&0xf != 0 || n < 40 {
			b.Fatal(n, err)
		}
		got++
	}
	b.StopTimer()
	cancel()
	if err := <-serving; err != nil {
		b.Error(err)
	}
	if err := unix.Sendto(int(upstream), []byte{0}, 0, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(at.Port())}); err != nil {
		b.Fatal(err)
	}
	if err := <-answering; err != nil {
		b.Error(err)
	}
}
