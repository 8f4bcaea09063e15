package dns_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/model"
)

// TestOptionsStayHere proves that upstreams learn nothing of a client but its
// question: its cookie, its subnet and its private options end here, unless the
// subnet is to be kept, and then answers for two subnets are two.
func TestOptionsStayHere(t *testing.T) {
	for _, keep := range []bool{false, true} {
		var mu sync.Mutex
		var seen []string
		upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
			if q.Question[0].Name == "www.example.com." {
				mu.Lock()
				defer mu.Unlock()
				var options []string
				for _, o := range q.IsEdns0().Option {
					options = append(options, o.String())
				}
				seen = append(seen, strings.Join(options, " "))
			}
			return dnstest.Reply(q, dns.RcodeSuccess, "www.example.com. 60 IN A 192.0.2.1")
		})
		s := start(t, func(o *sluicedns.Options) {
			o.Forward.Zones = forward.Root(forward.Plain(upstream.Addr)...)
			o.KeepSubnet = keep
		})
		for _, subnet := range []string{"203.0.113.0", "198.51.100.0", "203.0.113.0", ""} {
			ask(t, s.Addrs()[0], "udp", "www.example.com.", "A", func(m *dns.Msg) {
				opt := m.IsEdns0()
				opt.Option = append(opt.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"},
					&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("private")})
				if subnet != "" {
					opt.Option = append(opt.Option, &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: netip.MustParseAddr(subnet).AsSlice()})
				}
			})
		}
		want := ""
		if keep {
			want = "203.0.113.0/24/0,198.51.100.0/24/0,"
		}
		mu.Lock()
		if got := strings.Join(seen, ","); got != want {
			t.Errorf("keep %v: upstream saw %q, want %q", keep, got, want)
		}
		mu.Unlock()
	}
}

// TestSubnetScope proves that a client that tells its subnet is told for which clients
// the answer holds (RFC 7871 §7.2.2), however the answer came about, if subnets are
// kept.
func TestSubnetScope(t *testing.T) {
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		r := dnstest.Reply(q, dns.RcodeSuccess, q.Question[0].Name+" 60 IN A 192.0.2.1")
		for _, o := range q.IsEdns0().Option {
			if e, ok := o.(*dns.EDNS0_SUBNET); ok {
				told := *e
				told.SourceScope = 20
				if r.IsEdns0() == nil {
					r.SetEdns0(1232, false)
				}
				r.IsEdns0().Option = append(r.IsEdns0().Option, &told)
			}
		}
		return r
	})
	store := dnstest.Cluster()
	store.Update(func(tx *model.Txn) {
		model.Services.Put(tx, dnstest.External("testns", "outside", "alias.example.com"))
	})
	for _, keep := range []bool{false, true} {
		s := start(t, func(o *sluicedns.Options) {
			o.Store, o.KeepSubnet = store, keep
			o.Forward.Zones = forward.Root(forward.Plain(upstream.Addr)...)
			o.Rewrites = []sluicedns.Rewrite{{From: "old.example.com", To: "new.example.com"}}
		})
		for name, scope := range map[string]string{
			"www.example.com.": "203.0.113.0/24/20", "old.example.com.": "203.0.113.0/24/20",
			"outside.testns.svc.cluster.local.": "203.0.113.0/24/20", "svc1.testns.svc.cluster.local.": "203.0.113.0/24/0",
		} {
			if !keep {
				scope = ""
			}
			for _, network := range []string{"udp", "tcp"} { // from the upstream, then kept
				r := ask(t, s.Addrs()[0], network, name, "A", func(m *dns.Msg) {
					m.IsEdns0().Option = append(m.IsEdns0().Option,
						&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: netip.MustParseAddr("203.0.113.0").AsSlice()})
				})
				got := ""
				for _, o := range r.IsEdns0().Option {
					got += o.String()
				}
				if got != scope {
					t.Errorf("keep %v, %s over %s: %q, want %q", keep, name, network, got, scope)
				}
			}
		}
	}
}

// TestAuthenticData hands on whether an upstream validated an answer, to those who
// ask for it.
func TestAuthenticData(t *testing.T) {
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		r := dnstest.Reply(q, dns.RcodeSuccess, q.Question[0].Name+" 60 IN A 192.0.2.1")
		r.AuthenticatedData = q.AuthenticatedData && !q.CheckingDisabled
		return r
	})
	s := start(t, func(o *sluicedns.Options) { askOnce(o, upstream) })
	for range 2 {
		for _, c := range []struct{ ad, cd, want bool }{{false, false, false}, {true, false, true}, {true, true, false}} {
			r := ask(t, s.Addrs()[0], "udp", "www.example.com.", "A", func(m *dns.Msg) { m.AuthenticatedData, m.CheckingDisabled = c.ad, c.cd })
			if r.AuthenticatedData != c.want || r.CheckingDisabled != c.cd {
				t.Errorf("%+v: %v", c, r)
			}
		}
	}
	if n := upstream.Asked("www.example.com.", "A"); n != 2 {
		t.Errorf("asked %d times, want once with CD and once without", n)
	}
}

// TestResolvConfIsFollowed changes the file of a running server.
func TestResolvConfIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("nameserver 192.0.2.1\n")
	s := start(t, func(o *sluicedns.Options) {
		o.ResolvConf = path
		o.Addresses = []netip.Addr{dnstest.DNSAddress}
	})
	upstreams := func() string {
		return strings.Join(gather(t, s, "sluice_dns_forward_healthy"), " ")
	}
	if got := upstreams(); got != "192.0.2.1:53" {
		t.Fatalf("upstreams %q", got)
	}
	text := "nameserver 10.96.0.10\nnameserver 192.0.2.2\nnameserver 192.0.2.3\noptions rotate\n"
	write(text)
	waitFor(t, "the new servers, without our own address", func() bool {
		write(text) // the watch may begin later than the first
		return upstreams() == "192.0.2.2:53 192.0.2.3:53"
	})
	write("nameserver 10.96.0.10\n")
	write("")
	if got := upstreams(); got == "" {
		t.Error("what was known is gone")
	}
}

// gather returns the values of the label to of a metric.
func gather(t *testing.T, s *sluicedns.Server, name string) []string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(s)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "to" {
					list = append(list, l.GetValue())
				}
			}
		}
	}
	return list
}

// TestCoreDNSMetrics counts some queries under CoreDNS' names.
func TestCoreDNSMetrics(t *testing.T) {
	s := start(t, func(o *sluicedns.Options) {
		o.Forward.Zones = forward.Root(forward.Plain(examples(t).Addr)...)
		o.CoreDNSMetrics = true
	})
	if problems, err := testutil.CollectAndLint(s); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	for range 3 {
		ask(t, s.Addrs()[0], "udp", "web.example.com.", "A")
	}
	ask(t, s.Addrs()[0], "tcp", "gone.testns.svc.cluster.local.", "AAAA")
	server := "dns://" + s.Addrs()[0].String()
	want := map[string]string{
		"coredns_dns_requests_total": `
coredns_dns_requests_total{family="1",proto="tcp",server="SERVER",type="AAAA",view="",zone="cluster.local."} 1
coredns_dns_requests_total{family="1",proto="udp",server="SERVER",type="A",view="",zone="."} 3
`,
		"coredns_dns_responses_total": `
coredns_dns_responses_total{plugin="cache",rcode="NOERROR",server="SERVER",view="",zone="."} 2
coredns_dns_responses_total{plugin="forward",rcode="NOERROR",server="SERVER",view="",zone="."} 1
coredns_dns_responses_total{plugin="kubernetes",rcode="NXDOMAIN",server="SERVER",view="",zone="cluster.local."} 1
`,
		"coredns_cache_hits_total": `
coredns_cache_hits_total{server="SERVER",type="denial",view="",zones="."} 0
coredns_cache_hits_total{server="SERVER",type="success",view="",zones="."} 2
`,
		"coredns_cache_misses_total": `
coredns_cache_misses_total{server="SERVER",view="",zones="."} 1
`,
	}
	help := map[string]string{
		"coredns_dns_requests_total": "Queries received.", "coredns_dns_responses_total": "Answers given.",
		"coredns_cache_hits_total": "Queries that the cache answered.", "coredns_cache_misses_total": "Queries that the cache could not answer.",
	}
	for name, text := range want {
		text = "# HELP " + name + " " + help[name] + "\n# TYPE " + name + " counter" + strings.ReplaceAll(text, "SERVER", server)
		var last error
		waitFor(t, name, func() bool {
			last = testutil.CollectAndCompare(s, strings.NewReader(text), name)
			return last == nil
		})
	}
	if n := testutil.CollectAndCount(s, "coredns_dns_request_duration_seconds"); n != 2 {
		t.Errorf("%d histograms of durations", n)
	}
}
