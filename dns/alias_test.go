package dns_test

import (
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
