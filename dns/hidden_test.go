package dns_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"
	"k8s.io/apimachinery/pkg/labels"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/dns/zone"
)

// TestHidden has names asked for that a filter hides: they do not exist, and an
// address that has none is asked of others, as any that is not the cluster's.
func TestHidden(t *testing.T) {
	upstream := dnstest.NewUpstream(t, dnstest.Names(map[string][]string{"1.0.0.10.in-addr.arpa. PTR": {"1.0.0.10.in-addr.arpa. 60 IN PTR elsewhere.example."}}))
	back, err := labels.Parse("tier=back")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, func(o *sluicedns.Options) {
		askOnce(o, upstream)
		o.Filter = zone.Filter{Labels: back}
		o.Addresses = []netip.Addr{dnstest.DNSAddress}
	})
	for _, c := range []struct {
		name, typ string
		rcode     int
		want      []string
	}{
		{"svc1.testns.svc.cluster.local.", "A", dns.RcodeNameError, nil},
		{"svc1.testns.svc.cluster.local.", "SRV", dns.RcodeNameError, nil},
		{"1.0.0.10.in-addr.arpa.", "PTR", 0, []string{"1.0.0.10.in-addr.arpa. 60 IN PTR elsewhere.example."}},
		{"kube-dns.kube-system.svc.cluster.local.", "A", 0, []string{"kube-dns.kube-system.svc.cluster.local. 5 IN A 10.96.0.10"}},
		{"cluster.local.", "NS", 0, []string{"cluster.local. 5 IN NS kube-dns.kube-system.svc.cluster.local."}},
	} {
		if r := ask(t, s.Addrs()[0], "udp", c.name, c.typ); r.Rcode != c.rcode || !slices.Equal(texts(r.Answer), normal(t, c.want)) {
			t.Errorf("%s %s: %v", c.name, c.typ, r)
		}
	}
}
