package dns_test

import (
	"slices"
	"testing"

	"github.com/miekg/dns"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/model"
)

// TestAliasOfNothing proves that the answer for an alias whose target does not
// exist, or has no such record, can be kept by who gets it (RFC 2308 §5), and that
// an alias of itself is one record.
func TestAliasOfNothing(t *testing.T) {
	const soa = "example.com. 60 IN SOA ns.example.com. root.example.com. 1 2 3 4 30"
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		if q.Question[0].Name == "nodata.example.com." {
			return dnstest.Reply(q, dns.RcodeSuccess, soa)
		}
		return dnstest.Reply(q, dns.RcodeNameError, soa)
	})
	store := dnstest.Cluster()
	store.Update(func(tx *model.Txn) {
		for name, target := range map[string]string{
			"nothing": "nothing.example.com", "nodata": "nodata.example.com", "circle": "circle.testns.svc.cluster.local",
		} {
			model.Services.Put(tx, dnstest.External("testns", name, target))
		}
	})
	s := start(t, func(o *sluicedns.Options) {
		o.Store = store
		o.Forward.Zones = forward.Root(forward.Plain(upstream.Addr)...)
	})
	for _, c := range []struct {
		name  string
		rcode int
		soas  int
	}{
		{"nothing", dns.RcodeNameError, 1}, {"nodata", dns.RcodeSuccess, 1}, {"circle", dns.RcodeSuccess, 0},
	} {
		for range 2 { // from the upstream, then kept
			r := ask(t, s.Addrs()[0], "udp", c.name+".testns.svc.cluster.local.", "A")
			if r.Rcode != c.rcode || len(r.Answer) != 1 || len(r.Ns) != c.soas {
				t.Errorf("%s: %v", c.name, r)
			}
		}
	}
}

// TestAliasOfRewritten proves that the target of an alias is rewritten as it would be
// if it were asked for, to a name of the cluster and to another.
func TestAliasOfRewritten(t *testing.T) {
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		if q.Question[0].Name != "new.example.com." {
			return dnstest.Reply(q, dns.RcodeNameError)
		}
		return dnstest.Reply(q, dns.RcodeSuccess, "new.example.com. 60 IN CNAME end.example.com.", "end.example.com. 60 IN A 192.0.2.7")
	})
	store := dnstest.Cluster()
	store.Update(func(tx *model.Txn) {
		model.Services.Put(tx, dnstest.External("testns", "inside", "inside.example.com"))
		model.Services.Put(tx, dnstest.External("testns", "outside", "outside.example.com"))
	})
	s := start(t, func(o *sluicedns.Options) {
		o.Store = store
		o.Forward.Zones = forward.Root(forward.Plain(upstream.Addr)...)
		o.Rewrites = []sluicedns.Rewrite{
			{From: "inside.example.com", To: "svc1.testns.svc.cluster.local"}, {From: "outside.example.com", To: "new.example.com"},
		}
	})
	for name, want := range map[string][]string{
		"inside":  {"inside.testns.svc.cluster.local.", "inside.example.com."},
		"outside": {"outside.testns.svc.cluster.local.", "outside.example.com.", "end.example.com."},
	} {
		for range 2 {
			r := ask(t, s.Addrs()[0], "udp", name+".testns.svc.cluster.local.", "A")
			var owners []string
			for _, rr := range r.Answer {
				owners = append(owners, rr.Header().Name)
			}
			if r.Rcode != dns.RcodeSuccess || !slices.Equal(owners, want) {
				t.Errorf("%s: %v", name, r)
			}
		}
	}
}

// TestDelegated proves that a zone that is forwarded wins over the cluster's that it
// is a part of, also as the end of an alias, and that it is no other name's.
func TestDelegated(t *testing.T) {
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		return dnstest.Reply(q, dns.RcodeSuccess, q.Question[0].Name+" 60 IN A 192.0.2.9")
	})
	store := dnstest.Cluster()
	store.Update(func(tx *model.Txn) {
		model.Services.Put(tx, dnstest.External("testns", "far", "a.other.cluster.local"))
	})
	s := start(t, func(o *sluicedns.Options) {
		o.Store = store
		o.Forward.Zones = []forward.Zone{{Name: "Other.cluster.local", Servers: forward.Plain(upstream.Addr)}}
	})
	for name, want := range map[string]string{
		"a.other.cluster.local.": "192.0.2.9", "far.testns.svc.cluster.local.": "192.0.2.9",
		"svc1.testns.svc.cluster.local.": "10.0.0.1", "another.cluster.local.": "",
	} {
		got := ""
		for _, rr := range ask(t, s.Addrs()[0], "udp", name, "A").Answer {
			if a, ok := rr.(*dns.A); ok {
				got += a.A.String()
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
