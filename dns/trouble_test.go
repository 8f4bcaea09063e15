package dns_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// TestExplainFailure names the servers that did not answer, and with what they failed.
func TestExplainFailure(t *testing.T) {
	upstream := examples(t)
	dead := netip.MustParseAddrPort("127.0.0.1:1")
	s := start(t, func(o *sluicedns.Options) {
		o.Forward.Zones = append(forward.Root(forward.Plain(dead)...), forward.Zone{Name: "example.com", Servers: forward.Plain(upstream.Addr)})
	})
	refused := "no upstream answered: 127.0.0.1:1: connection refused"
	for _, c := range []struct{ name, typ, rcode, source, upstream, reason string }{
		{"a.example.org", "A", "SERVFAIL", "forward", "", refused},
		{"a.example.org", "A", "SERVFAIL", "cache", "", refused},
		{"fails.example.com", "A", "SERVFAIL", "forward", upstream.Addr.String(), upstream.Addr.String() + " answered SERVFAIL"},
		{"fails.example.com", "A", "SERVFAIL", "cache", upstream.Addr.String(), upstream.Addr.String() + " answered SERVFAIL"},
		{"www.example.com", "type28", "NOERROR", "forward", upstream.Addr.String(), "asked of an upstream"},
		{"svc1.testns.svc.cluster.local", "TYPE65", "NOERROR", "zone", "", "without records of this type"},
	} {
		e, err := s.Explain(t.Context(), netip.Addr{}, c.name, c.typ)
		if err != nil {
			t.Fatal(err)
		}
		if e.Rcode != c.rcode || e.Source != c.source || e.Upstream != c.upstream || !strings.Contains(e.Reason, c.reason) {
			t.Errorf("%s %s: %+v, want %+v", c.name, c.typ, e, c)
		}
	}
	for _, typ := range []string{"TYPE", "TYPE65536", "TYPE-1", "TYPE6x"} {
		if _, err := s.Explain(t.Context(), netip.Addr{}, "a.example.org", typ); err == nil {
			t.Errorf("type %s is taken", typ)
		}
	}
}

// TestUpstreams says on the node that no upstream answers, for as long as that is so.
func TestUpstreams(t *testing.T) {
	var on atomic.Bool
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		if !on.Load() {
			return nil
		}
		return dnstest.Reply(q, dns.RcodeSuccess)
	})
	board := status.NewBoard()
	s := start(t, func(o *sluicedns.Options) {
		o.Forward.Zones, o.Status, o.Node = forward.Root(forward.Plain(upstream.Addr)...), board, "here"
	})
	key := model.Key{Kind: model.KindNode, Name: "here"}
	if err := s.Upstreams(); err != nil || len(board.Get(key)) > 0 {
		t.Errorf("at first: %v, %v", err, board.Get(key))
	}
	for i := range 2 { // a server is not left out for one datagram
		ask(t, s.Addrs()[0], "udp", fmt.Sprintf("a%d.example.com.", i), "A")
	}
	want := "no upstream for . answers: " + upstream.Addr.String() + ": no answer in time"
	waitFor(t, "the report", func() bool {
		c := board.Get(key)["dns"].Conditions
		return len(c) == 1 && c[0].Type == "UpstreamsAnswer" && c[0].Status == "False" && c[0].Message == want
	})
	if err := s.Upstreams(); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	on.Store(true)
	waitFor(t, "the report to go", func() bool { return len(board.Get(key)) == 0 && s.Upstreams() == nil })
}

// TestUpstreamsOfNoFile says that the file which names the upstreams cannot be read,
// until it can.
func TestUpstreamsOfNoFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	s := start(t, func(o *sluicedns.Options) { o.ResolvConf = file })
	if err := s.Upstreams(); err == nil || !strings.Contains(err.Error(), "there is no upstream for .: ") || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(file, []byte("nameserver 192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the file to be read", func() bool { return s.Upstreams() == nil })
}
