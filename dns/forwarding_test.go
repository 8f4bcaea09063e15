package dns_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// TestMissesAreCoalesced asks for one cold name a hundred times at once.
func TestMissesAreCoalesced(t *testing.T) {
	release := make(chan struct{})
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		if q.Question[0].Name == "cold.example.com." {
			<-release
		}
		return dnstest.Reply(q, dns.RcodeSuccess, "cold.example.com. 0 IN A 192.0.2.7")
	})
	s := start(t, func(o *sluicedns.Options) { askOnce(o, upstream) })
	const count = 100
	var wg sync.WaitGroup
	for i := range count {
		network := "udp"
		if i%4 == 0 {
			network = "tcp"
		}
		wg.Go(func() {
			if r := ask(t, s.Addrs()[0], network, "cold.example.com.", "A"); len(r.Answer) != 1 || r.Answer[0].Header().Ttl != 0 {
				t.Errorf("answer %v", r)
			}
		})
	}
	waitFor(t, "all to wait for one", func() bool { return metric(t, s, "sluice_dns_forward_coalesced_total") == count-1 })
	close(release)
	wg.Wait()
	if n := upstream.Asked("cold.example.com.", "A"); n != 1 {
		t.Errorf("%d queries were asked of the upstream %d times", count, n)
	}
	// A TTL of 0 is not raised: the next one is asked for again.
	ask(t, s.Addrs()[0], "udp", "cold.example.com.", "A")
	if n := upstream.Asked("cold.example.com.", "A"); n != 2 {
		t.Errorf("asked %d times, want 2: an answer with TTL 0 was kept", n)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

func metric(t *testing.T, s *sluicedns.Server, name string) float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(s)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// TestDNSSECIsKeptApart proves that answers with and without signatures do not
// mix.
func TestDNSSECIsKeptApart(t *testing.T) {
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		records := []string{"signed.example.com. 60 IN A 192.0.2.7"}
		if opt := q.IsEdns0(); opt != nil && opt.Do() {
			records = append(records, "signed.example.com. 60 IN RRSIG A 8 3 60 20300101000000 20200101000000 1 example.com. c2lnbmF0dXJl")
		}
		r := dnstest.Reply(q, dns.RcodeSuccess, records...)
		r.AuthenticatedData = true
		return r
	})
	s := start(t, func(o *sluicedns.Options) { askOnce(o, upstream) })
	for range 2 {
		for _, do := range []bool{true, false} {
			r := ask(t, s.Addrs()[0], "udp", "signed.example.com.", "A", func(m *dns.Msg) { m.IsEdns0().SetDo(do) })
			want := 1
			if do {
				want = 2
			}
			if len(r.Answer) != want || r.IsEdns0().Do() != do || r.AuthenticatedData != do {
				t.Errorf("DO %v: %v", do, r)
			}
		}
	}
	if n := upstream.Asked("signed.example.com.", "A"); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
}

// TestStubDomain sends the names of one zone elsewhere.
func TestStubDomain(t *testing.T) {
	answer := func(addr string) dnstest.Handler {
		return func(q *dns.Msg, _ bool) *dns.Msg {
			return dnstest.Reply(q, dns.RcodeSuccess, q.Question[0].Name+" 60 IN A "+addr)
		}
	}
	def, corp := dnstest.NewUpstream(t, answer("192.0.2.1")), dnstest.NewUpstream(t, answer("192.0.2.2"))
	s := start(t, func(o *sluicedns.Options) {
		o.Forward.Zones = forward.Root(forward.Plain(def.Addr)...)
		o.Forward.Zones = append(o.Forward.Zones, forward.Zone{Name: "Corp.example", Servers: forward.Plain(corp.Addr)})
	})
	for name, want := range map[string]string{"a.corp.example.": "192.0.2.2", "corp.EXAMPLE.": "192.0.2.2", "acorp.example.": "192.0.2.1"} {
		if r := ask(t, s.Addrs()[0], "udp", name, "A"); len(r.Answer) != 1 || r.Answer[0].(*dns.A).A.String() != want {
			t.Errorf("%s: %v, want %s", name, r.Answer, want)
		}
	}
}

// TestLoop has a server forward to one that forwards back: the probe finds it,
// and the name says whom not to ask.
func TestLoop(t *testing.T) {
	if _, err := sluicedns.New(sluicedns.Options{
		Store: model.NewStore(), Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:15353")},
		Forward: forward.Options{Zones: forward.Root(forward.Plain(netip.MustParseAddrPort("127.0.0.1:15353"))...)},
	}); !isLoop(err) || !strings.Contains(err.Error(), "127.0.0.1:15353") {
		t.Errorf("upstream is the server itself: %v", err)
	}

	var mu sync.Mutex
	var back netip.AddrPort
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		mu.Lock()
		to := back
		mu.Unlock()
		r, _, err := (&dns.Client{Timeout: 5 * time.Second}).Exchange(q, to.String())
		if err != nil {
			return nil
		}
		return r
	})
	mu.Lock()
	s := start(t, func(o *sluicedns.Options) { o.Forward.Zones = forward.Root(forward.Plain(upstream.Addr)...) })
	back = s.Addrs()[0]
	mu.Unlock()
	waitFor(t, "the loop to be found", func() bool { return metric(t, s, "sluice_dns_forward_healthy") == 0 })
	if r := ask(t, s.Addrs()[0], "udp", "www.example.com.", "A"); r.Rcode != dns.RcodeServerFailure {
		t.Errorf("answer %v", r)
	}
	if n := upstream.Asked("www.example.com.", "A"); n != 0 {
		t.Errorf("the upstream that loops was asked %d times", n)
	}
}

func isLoop(err error) bool {
	_, ok := errors.AsType[*forward.LoopError](err)
	return ok
}

// TestExplain says where answers come from.
func TestExplain(t *testing.T) {
	upstream := examples(t)
	s := start(t, func(o *sluicedns.Options) { o.Forward.Zones = forward.Root(forward.Plain(upstream.Addr)...) })
	for _, c := range []struct{ name, typ, source, object, rcode string }{
		{"svc1.testns.svc.cluster.local", "a", "zone", "Service testns/svc1", "NOERROR"},
		{"SVC1.testns.svc.cluster.local", "AAAA", "zone", "Service testns/svc1", "NOERROR"},
		{"_http._tcp.hdls.testns.svc.cluster.local", "SRV", "zone", "Service testns/hdls", "NOERROR"},
		{"hdls-none.testns.svc.cluster.local", "A", "zone", "Service testns/hdls-none", "NXDOMAIN"},
		{"nope.testns.svc.cluster.local", "A", "zone", "", "NXDOMAIN"},
		{"2.0.1.172.in-addr.arpa", "PTR", "zone", "Service testns/hdls", "NOERROR"},
		{"empty.svc.cluster.local", "A", "zone", "Namespace empty", "NOERROR"},
		{"ext.testns.svc.cluster.local", "A", "zone", "Service testns/ext", "NOERROR"},
		{"web.example.com", "A", "forward", "", "NOERROR"},
		{"web.example.com", "A", "cache", "", "NOERROR"},
		{"gone.example.com", "A", "forward", "", "NXDOMAIN"},
	} {
		e, err := s.Explain(t.Context(), netip.Addr{}, c.name, c.typ)
		if err != nil {
			t.Fatal(err)
		}
		if e.Source != c.source || e.Object != c.object || e.Rcode != c.rcode || e.Reason == "" {
			t.Errorf("%s %s: %+v, want %s from %s by %q", c.name, c.typ, e, c.rcode, c.source, c.object)
		}
		if e.Source != "zone" && e.Upstream != upstream.Addr.String() {
			t.Errorf("%s %s: from %s, want %v", c.name, c.typ, e.Upstream, upstream.Addr)
		}
	}
	if _, err := s.Explain(t.Context(), netip.Addr{}, "web.example.com", "NOTYPE"); !errors.Is(err, sluicedns.ErrType) {
		t.Errorf("unknown type: %v", err)
	}
}

// TestMetrics lints the names and counts some queries.
func TestMetrics(t *testing.T) {
	s := start(t, func(o *sluicedns.Options) { o.Forward.Zones = forward.Root(forward.Plain(examples(t).Addr)...) })
	if problems, err := testutil.CollectAndLint(s); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	for range 3 {
		ask(t, s.Addrs()[0], "udp", "web.example.com.", "A")
	}
	ask(t, s.Addrs()[0], "tcp", "gone.testns.svc.cluster.local.", "A")
	for name, want := range map[string]float64{
		"sluice_dns_requests_total": 4, "sluice_dns_responses_total": 4,
		"sluice_dns_cache_hits_total": 2, "sluice_dns_cache_misses_total": 1, "sluice_dns_cache_entries": 1,
		"sluice_dns_zone_ready": 1,
	} {
		// The loop that sent an answer counts it before, but another core may
		// see it later.
		waitFor(t, name, func() bool { return metric(t, s, name) == want })
	}
}

// TestStaleIsCounted gives an old answer after a failure, and again while the
// servers rest: both are told.
func TestStaleIsCounted(t *testing.T) {
	var down atomic.Bool
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		if down.Load() {
			return dnstest.Reply(q, dns.RcodeServerFailure)
		}
		return dnstest.Reply(q, dns.RcodeSuccess, "old.example.com. 1 IN A 192.0.2.7")
	})
	s := start(t, func(o *sluicedns.Options) { askOnce(o, upstream); o.CoreDNSMetrics = true })
	for range 2 { // of the upstream, and of the cache
		ask(t, s.Addrs()[0], "udp", "old.example.com.", "A")
	}
	down.Store(true)
	time.Sleep(1100 * time.Millisecond) // the least TTL that is kept
	for range 2 {
		if r := ask(t, s.Addrs()[0], "udp", "old.example.com.", "A"); len(r.Answer) != 1 || r.Answer[0].Header().Ttl != 30 {
			t.Errorf("answer %v", r)
		}
	}
	waitFor(t, "a fresh and two stale answers", func() bool { return metric(t, s, "sluice_dns_cache_hits_total") == 3 })
	// CoreDNS counts all that its cache answers together.
	if problems, err := testutil.CollectAndLint(s, "coredns_dns_responses_total"); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// TestMistakeIsOnTheObject proves that a bad ExternalName is said on its Service,
// and taken back.
func TestMistakeIsOnTheObject(t *testing.T) {
	board, store := status.NewBoard(), dnstest.Cluster()
	s := start(t, func(o *sluicedns.Options) { o.Status, o.Store = board, store })
	key := model.Key{Kind: model.KindService, Namespace: "testns", Name: "ext-ip"}
	waitFor(t, "the report", func() bool {
		c := board.Get(key)["dns"].Conditions
		return len(c) == 1 && c[0].Reason == "ExternalNameIsAddress"
	})
	store.Update(func(tx *model.Txn) { model.Services.Put(tx, dnstest.External("testns", "ext-ip", "web.example.com")) })
	if err := s.WaitRevision(t.Context(), store.Snapshot().Revision()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the report to go", func() bool { return len(board.Get(key)) == 0 })
}

// TestDrain ends a server while a query waits for an upstream: it is answered.
func TestDrain(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		asked, release := make(chan struct{}), make(chan struct{})
		upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
			if q.Question[0].Name == "late.example.com." {
				close(asked)
				<-release
			}
			return dnstest.Reply(q, dns.RcodeSuccess, "late.example.com. 60 IN A 192.0.2.7")
		})
		s, err := sluicedns.New(sluicedns.Options{
			Store: dnstest.Cluster(), Listen: []netip.AddrPort{loopback},
			Forward: forward.Options{Zones: forward.Root(forward.Plain(upstream.Addr)...)}, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		answered := make(chan *dns.Msg, 1)
		go func() { answered <- ask(t, s.Addrs()[0], network, "late.example.com.", "A") }()
		<-asked
		cancel()
		time.AfterFunc(50*time.Millisecond, func() { close(release) })
		if r := <-answered; len(r.Answer) != 1 {
			t.Errorf("%s: %v", network, r)
		}
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}
