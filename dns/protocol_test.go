package dns_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/model"
)

// TestQuestionKeepsItsCase covers C15, for the cluster's names and for others.
func TestQuestionKeepsItsCase(t *testing.T) {
	s := start(t, func(o *sluicedns.Options) { o.Forward.Zones = forward.Root(forward.Plain(examples(t).Addr)...) })
	for _, name := range []string{"KUBERNETES.default.SVC.Cluster.Local.", "Web.EXAMPLE.com.", "wEb.example.com."} {
		r := ask(t, s.Addrs()[0], "udp", name, "A")
		if r.Question[0].Name != name || len(r.Answer) != 1 || r.Answer[0].Header().Name != name {
			t.Errorf("%s: question %v, answer %v", name, r.Question, r.Answer)
		}
	}
}

// TestNotReady covers C6: before the source has delivered everything nothing can
// be said not to exist.
func TestNotReady(t *testing.T) {
	store := model.NewStore()
	store.Update(func(tx *model.Txn) {
		model.Services.Put(tx, dnstest.Service("testns", "svc1", dnstest.Addrs("10.0.0.1")))
		tx.MarkSynced(model.KindService)
	})
	s := start(t, func(o *sluicedns.Options) { o.Store = store })
	for _, name := range []string{"svc1.testns.svc.cluster.local.", "nope.testns.svc.cluster.local.", "1.0.0.10.in-addr.arpa."} {
		if r := ask(t, s.Addrs()[0], "udp", name, "A"); r.Rcode != dns.RcodeServerFailure || len(r.Ns) > 0 {
			t.Errorf("%s before everything is there: %v", name, r)
		}
	}
	store.Update(dnstest.Synced)
	if err := s.WaitRevision(t.Context(), store.Snapshot().Revision()); err != nil {
		t.Fatal(err)
	}
	if r := ask(t, s.Addrs()[0], "udp", "svc1.testns.svc.cluster.local.", "A"); len(r.Answer) != 1 {
		t.Errorf("afterwards: %v", r)
	}
}

// TestQueue proves that a burst that comes while the server has no turn is answered:
// here, before it is run.
func TestQueue(t *testing.T) {
	const burst = 400
	s, err := sluicedns.New(sluicedns.Options{
		Store: dnstest.Cluster(), Listen: []netip.AddrPort{loopback}, Sockets: 1, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conn, err := net.Dial("udp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var asked, answered []uint16
	for i := range uint16(burst) {
		q := new(dns.Msg).SetQuestion(svc1, dns.TypeA)
		q.Id = i
		b, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
		asked = append(asked, i)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	// All answers have to fit the client's queue, which is as short by default.
	if err := conn.(*net.UDPConn).SetReadBuffer(1 << 20); err != nil {
		t.Fatal(err)
	}
	go func() { done <- s.Run(ctx) }()
	room := make([]byte, 4096)
	for len(answered) < burst {
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(room); err != nil {
			t.Fatalf("%d of %d are answered: %v", len(answered), burst, err)
		}
		answered = append(answered, binary.BigEndian.Uint16(room))
	}
	if slices.Sort(answered); !slices.Equal(asked, answered) {
		t.Errorf("answered: %v", answered)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestRefusals covers C13 and C16.
func TestRefusals(t *testing.T) {
	s := start(t, nil)
	const name = "svc1.testns.svc.cluster.local."
	for _, c := range []struct {
		what, name, typ string
		change          func(*dns.Msg)
		want            int
	}{
		{"no upstream", "www.example.com.", "A", nil, dns.RcodeRefused},
		{"no upstream, reverse", "1.2.0.192.in-addr.arpa.", "PTR", nil, dns.RcodeNameError},
		{"class CH", name, "A", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		{"AXFR", clusterZone, "AXFR", nil, dns.RcodeRefused},
		{"IXFR", clusterZone, "IXFR", nil, dns.RcodeRefused},
		{"EDNS 1", name, "A", func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
		{"no question", name, "A", func(m *dns.Msg) { m.Question = nil }, dns.RcodeServerFailure},
		{"two questions", name, "A", func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		{"NOTIFY", name, "A", func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		{"two OPT records", name, "A", func(m *dns.Msg) { m.Extra = append(m.Extra, m.Extra[0]) }, dns.RcodeFormatError},
	} {
		t.Run(c.what, func(t *testing.T) {
			var change []func(*dns.Msg)
			if c.change != nil {
				change = append(change, c.change)
			}
			if r := ask(t, s.Addrs()[0], "tcp", c.name, c.typ, change...); r.Rcode != c.want || len(r.Answer) > 0 {
				t.Errorf("code %s, %d answers: want %s", dns.RcodeToString[r.Rcode], len(r.Answer), dns.RcodeToString[c.want])
			}
		})
	}
}

// TestGarbageIsDropped sends what is not a query, and a query after it.
func TestGarbageIsDropped(t *testing.T) {
	s := start(t, nil)
	conn, err := net.Dial("udp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	response := new(dns.Msg).SetQuestion("svc1.testns.svc.cluster.local.", dns.TypeA)
	response.Response = true
	packed, err := response.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range [][]byte{{}, {1}, make([]byte, 11), packed} {
		if _, err := conn.Write(msg); err != nil {
			t.Fatal(err)
		}
	}
	binary.BigEndian.PutUint16(packed[2:], 0)
	if _, err := conn.Write(packed); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(buf)
	if err != nil || n < 12 || !bytes.Equal(buf[:2], packed[:2]) || buf[7] != 1 {
		t.Errorf("first answer %x, %v: want the last query's", buf[:n], err)
	}
}

// TestTruncation covers C18: what does not fit into the client's size is cut to
// whole records and marked, and is whole over TCP.
func TestTruncation(t *testing.T) {
	long := make([]string, 60)
	for i := range long {
		long[i] = fmt.Sprintf("long.example.com. 60 IN A 192.0.2.%d", i+1)
	}
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, tcp bool) *dns.Msg {
		r := dnstest.Reply(q, dns.RcodeSuccess, long...)
		if !tcp {
			r.Truncate(512)
		}
		return r
	})
	s := start(t, func(o *sluicedns.Options) { o.Forward.Zones = forward.Root(forward.Plain(upstream.Addr)...) })
	for name, all := range map[string]int{"crowd.testns.svc.cluster.local.": 100, "long.example.com.": 60} {
		for _, c := range []struct {
			size    uint16 // 0: no EDNS
			network string
			limit   int
		}{{0, "udp", 512}, {100, "udp", 512}, {700, "udp", 700}, {4096, "udp", 1232}, {4096, "tcp", 65535}} {
			r := ask(t, s.Addrs()[0], c.network, name, "A", func(m *dns.Msg) {
				if m.Extra = nil; c.size > 0 {
					m.SetEdns0(c.size, false)
				}
			})
			r.Compress = true
			whole := len(r.Answer) == all
			if len(r.Answer) < 10 || r.Truncated == whole || r.Len() > c.limit {
				t.Errorf("%s with size %d over %s: %d answers in %d octets, truncated %v", name, c.size, c.network, len(r.Answer), r.Len(), r.Truncated)
			}
			if c.network == "tcp" && !whole {
				t.Errorf("%s over TCP: %d answers, want %d", name, len(r.Answer), all)
			}
			if opt := r.IsEdns0(); (opt != nil) != (c.size > 0) || opt != nil && opt.UDPSize() != 1232 {
				t.Errorf("%s with size %d: OPT %v", name, c.size, opt)
			}
		}
	}
	// A truncated answer is the start of a rotation, so that all get a part.
	first := map[string]bool{}
	for range 50 {
		first[ask(t, s.Addrs()[0], "udp", "crowd.testns.svc.cluster.local.", "A").Answer[0].String()] = true
	}
	if len(first) < 5 {
		t.Errorf("50 queries got only %d first addresses", len(first))
	}
}

// TestPipelining sends many queries before it reads the first answer: those of
// the cluster do not wait for one that an upstream is slow with.
func TestPipelining(t *testing.T) {
	release := make(chan struct{})
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		if strings.Contains(q.Question[0].Name, "slow") {
			<-release
		}
		return dnstest.Reply(q, dns.RcodeSuccess, q.Question[0].Name+" 60 IN A 192.0.2.9")
	})
	s := start(t, func(o *sluicedns.Options) { o.Forward.Zones = forward.Root(forward.Plain(upstream.Addr)...) })
	conn, err := dns.DialTimeout("tcp", s.Addrs()[0].String(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const count = 200
	for id := range uint16(count) {
		q := new(dns.Msg).SetQuestion("svc1.testns.svc.cluster.local.", dns.TypeA)
		if q.Id = id; id == 0 {
			q.SetQuestion("slow.example.com.", dns.TypeA)
			q.Id = 0
		}
		if err := conn.WriteMsg(q); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[uint16]bool{}
	for range count {
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		r, err := conn.ReadMsg()
		if err != nil {
			t.Fatalf("after %d answers: %v", len(seen), err)
		}
		if len(r.Answer) != 1 || seen[r.Id] {
			t.Errorf("answer %v", r)
		}
		if seen[r.Id] = true; len(seen) == count-1 {
			if seen[0] {
				t.Error("the slow name was answered before the others")
			}
			close(release)
		}
	}
}

// TestTCPLimits proves that idle connections and too many are closed.
func TestTCPLimits(t *testing.T) {
	s := start(t, func(o *sluicedns.Options) { o.MaxConnections, o.IdleTimeout = 2, time.Second })
	addr := s.Addrs()[0].String()
	conns := make([]net.Conn, 4)
	for i := range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
	}
	for i, c := range conns {
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		// Those above the limit are closed at once, the rest when idle.
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("connection %d: %d octets, %v: want the end", i, n, err)
		}
	}
	ask(t, s.Addrs()[0], "tcp", "svc1.testns.svc.cluster.local.", "A")
}

// TestSourceAddress asks a server that is bound to no address by several of the
// machine's: the answers come from the one asked, or a connected socket would not
// take them.
func TestSourceAddress(t *testing.T) {
	upstream := examples(t)
	s := start(t, func(o *sluicedns.Options) {
		o.Listen = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("[::]:0")}
		o.Forward.Zones = forward.Root(forward.Plain(upstream.Addr)...)
	})
	port4, port6 := s.Addrs()[0].Port(), s.Addrs()[1].Port()
	servers := []string{fmt.Sprintf("127.0.0.1:%d", port4), fmt.Sprintf("127.3.2.1:%d", port4)}
	if l, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		_ = l.Close()
		servers = append(servers, fmt.Sprintf("[::1]:%d", port6))
	}
	for _, server := range servers {
		for _, name := range []string{"svc1.testns.svc.cluster.local.", "www.example.com."} {
			if r := ask(t, netip.MustParseAddrPort(server), "udp", name, "A"); len(r.Answer) == 0 {
				t.Errorf("%s asked of %s: %v", name, server, r)
			}
		}
	}
}

// TestBindBeforeTheAddressExists proves that an address that the machine does not
// have can be listened on.
func TestBindBeforeTheAddressExists(t *testing.T) {
	start(t, func(o *sluicedns.Options) {
		o.Listen = []netip.AddrPort{netip.MustParseAddrPort("169.254.20.10:0"), netip.MustParseAddrPort("[fd00:20::10]:0")}
	})
}

// TestChangesFollow proves that an answer is the new one once the revision is
// served.
func TestChangesFollow(t *testing.T) {
	store := dnstest.Cluster()
	s := start(t, func(o *sluicedns.Options) { o.Store = store })
	for i := range 20 {
		addr := fmt.Sprintf("10.7.0.%d", i+1)
		store.Update(func(tx *model.Txn) {
			model.Services.Put(tx, dnstest.Service("testns", "svc1", dnstest.Addrs(addr)))
		})
		if err := s.WaitRevision(t.Context(), store.Snapshot().Revision()); err != nil {
			t.Fatal(err)
		}
		r := ask(t, s.Addrs()[0], "udp", "svc1.testns.svc.cluster.local.", "A")
		if len(r.Answer) != 1 || r.Answer[0].(*dns.A).A.String() != addr {
			t.Fatalf("change %d: %v", i, r.Answer)
		}
	}
}
