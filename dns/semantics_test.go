package dns_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/miekg/dns"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/dns/zone"
)

// testCase is one question and its answer in RFC text, after CoreDNS' test.Case.
// Order does not matter. soa says that the answer is negative and has the SOA.
type testCase struct {
	rule, name, typ string
	rcode           int
	answer          []string
	soa             string // the zone whose SOA is in the authority section
	extra           []string
}

const (
	clusterZone = "cluster.local."
	nx          = dns.RcodeNameError
)

func rr(lines ...string) []string { return lines }

// The rules are those of the Kubernetes DNS specification (S) by its section, and
// what CoreDNS does beyond it (C).
var semantics = []testCase{
	{rule: "2.2 version", name: "dns-version.cluster.local.", typ: "TXT", answer: rr(`dns-version.cluster.local. 5 IN TXT "1.1.0"`)},

	{rule: "2.3.1 A", name: "kubernetes.default.svc.cluster.local.", typ: "A", answer: rr("kubernetes.default.svc.cluster.local. 5 IN A 10.96.0.1")},
	{rule: "2.3.1 both", name: "dual.testns.svc.cluster.local.", typ: "A", answer: rr("dual.testns.svc.cluster.local. 5 IN A 10.0.0.5")},
	{rule: "2.3.1 both", name: "dual.testns.svc.cluster.local.", typ: "AAAA", answer: rr("dual.testns.svc.cluster.local. 5 IN AAAA fd00::5")},
	{rule: "2.3.1 AAAA", name: "six.testns.svc.cluster.local.", typ: "AAAA", answer: rr("six.testns.svc.cluster.local. 5 IN AAAA fd00::6")},

	{rule: "2.3.2 SRV", name: "_https._tcp.kubernetes.default.svc.cluster.local.", typ: "SRV",
		answer: rr("_https._tcp.kubernetes.default.svc.cluster.local. 5 IN SRV 0 100 443 kubernetes.default.svc.cluster.local."),
		extra:  rr("kubernetes.default.svc.cluster.local. 5 IN A 10.96.0.1")},
	{rule: "2.3.2 dual", name: "_quic._udp.dual.testns.svc.cluster.local.", typ: "SRV",
		answer: rr("_quic._udp.dual.testns.svc.cluster.local. 5 IN SRV 0 50 443 dual.testns.svc.cluster.local."),
		extra:  rr("dual.testns.svc.cluster.local. 5 IN A 10.0.0.5", "dual.testns.svc.cluster.local. 5 IN AAAA fd00::5")},
	{rule: "2.3.2 other protocol", name: "_quic._tcp.dual.testns.svc.cluster.local.", typ: "SRV", rcode: nx, soa: clusterZone},
	{rule: "2.3.2 unnamed port", name: "_._tcp.unnamed.testns.svc.cluster.local.", typ: "SRV", rcode: nx, soa: clusterZone},

	{rule: "2.3.3 PTR", name: "1.0.96.10.in-addr.arpa.", typ: "PTR", answer: rr("1.0.96.10.in-addr.arpa. 5 IN PTR kubernetes.default.svc.cluster.local.")},
	{rule: "2.3.3 PTR", name: "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", typ: "PTR",
		answer: rr("5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. 5 IN PTR dual.testns.svc.cluster.local.")},

	{rule: "2.4.1 A", name: "hdls.testns.svc.cluster.local.", typ: "A", answer: rr(
		"hdls.testns.svc.cluster.local. 5 IN A 172.1.0.2", "hdls.testns.svc.cluster.local. 5 IN A 172.1.0.3", "hdls.testns.svc.cluster.local. 5 IN A 172.1.0.4")},
	{rule: "2.4.1 AAAA", name: "hdls.testns.svc.cluster.local.", typ: "AAAA", answer: rr(
		"hdls.testns.svc.cluster.local. 5 IN AAAA fd00:1::2", "hdls.testns.svc.cluster.local. 5 IN AAAA fd00:1::")},
	{rule: "2.4.1 none ready", name: "hdls-none.testns.svc.cluster.local.", typ: "A", rcode: nx, soa: clusterZone},
	{rule: "2.4.1 no endpoints", name: "hdls-empty.testns.svc.cluster.local.", typ: "A", rcode: nx, soa: clusterZone},
	{rule: "2.4.1 unready tolerated", name: "hdls-unready.testns.svc.cluster.local.", typ: "A", answer: rr("hdls-unready.testns.svc.cluster.local. 5 IN A 172.1.0.30")},
	{rule: "2.4.1 hostname", name: "a.hdls.testns.svc.cluster.local.", typ: "A", answer: rr(
		"a.hdls.testns.svc.cluster.local. 5 IN A 172.1.0.3", "a.hdls.testns.svc.cluster.local. 5 IN A 172.1.0.4")},
	{rule: "2.4.1 hostname of an unready one", name: "b.hdls.testns.svc.cluster.local.", typ: "A", rcode: nx, soa: clusterZone},
	{rule: "2.4.1 several addresses", name: "many.hdls-more.testns.svc.cluster.local.", typ: "A", answer: rr(
		"many.hdls-more.testns.svc.cluster.local. 5 IN A 172.1.0.40", "many.hdls-more.testns.svc.cluster.local. 5 IN A 172.1.0.41")},
	{rule: "2.4.2 SRV", name: "_http._tcp.hdls.testns.svc.cluster.local.", typ: "SRV",
		answer: rr("_http._tcp.hdls.testns.svc.cluster.local. 5 IN SRV 0 20 8080 172-1-0-2.hdls.testns.svc.cluster.local.",
			"_http._tcp.hdls.testns.svc.cluster.local. 5 IN SRV 0 20 8080 a.hdls.testns.svc.cluster.local.",
			"_http._tcp.hdls.testns.svc.cluster.local. 5 IN SRV 0 20 8080 six.hdls.testns.svc.cluster.local.",
			"_http._tcp.hdls.testns.svc.cluster.local. 5 IN SRV 0 20 8080 fd00-1--0.hdls.testns.svc.cluster.local."),
		extra: rr("172-1-0-2.hdls.testns.svc.cluster.local. 5 IN A 172.1.0.2",
			"a.hdls.testns.svc.cluster.local. 5 IN A 172.1.0.3", "a.hdls.testns.svc.cluster.local. 5 IN A 172.1.0.4",
			"six.hdls.testns.svc.cluster.local. 5 IN AAAA fd00:1::2", "fd00-1--0.hdls.testns.svc.cluster.local. 5 IN AAAA fd00:1::")},
	{rule: "2.4.3 PTR", name: "2.0.1.172.in-addr.arpa.", typ: "PTR", answer: rr("2.0.1.172.in-addr.arpa. 5 IN PTR 172-1-0-2.hdls.testns.svc.cluster.local.")},
	{rule: "2.4.3 hostname", name: "3.0.1.172.in-addr.arpa.", typ: "PTR", answer: rr("3.0.1.172.in-addr.arpa. 5 IN PTR a.hdls.testns.svc.cluster.local.")},
	{rule: "2.4.3 ip6", name: "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.", typ: "PTR",
		answer: rr("2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa. 5 IN PTR six.hdls.testns.svc.cluster.local.")},

	{rule: "2.5 CNAME", name: "ext.testns.svc.cluster.local.", typ: "CNAME", answer: rr("ext.testns.svc.cluster.local. 5 IN CNAME www.example.com.")},
	{rule: "2.5 A", name: "ext.testns.svc.cluster.local.", typ: "A", answer: rr(
		"ext.testns.svc.cluster.local. 5 IN CNAME www.example.com.", "www.example.com. 60 IN CNAME web.example.com.", "web.example.com. 60 IN A 192.0.2.1")},
	{rule: "2.5 AAAA", name: "ext.testns.svc.cluster.local.", typ: "AAAA", answer: rr("ext.testns.svc.cluster.local. 5 IN CNAME www.example.com.")},

	{rule: "C4 NODATA", name: "svc1.testns.svc.cluster.local.", typ: "AAAA", soa: clusterZone},
	{rule: "C4 NODATA", name: "svc1.testns.svc.cluster.local.", typ: "MX", soa: clusterZone},
	{rule: "C4 NODATA", name: "svc1.testns.svc.cluster.local.", typ: "HTTPS", soa: clusterZone},
	{rule: "C4 NODATA", name: "1.0.96.10.in-addr.arpa.", typ: "A", soa: "in-addr.arpa."},
	{rule: "C5 apex", name: "cluster.local.", typ: "A", soa: clusterZone},
	{rule: "C5 svc", name: "svc.cluster.local.", typ: "A", soa: clusterZone},
	{rule: "C5 pod", name: "pod.cluster.local.", typ: "A", soa: clusterZone},
	{rule: "C5 namespace", name: "testns.svc.cluster.local.", typ: "A", soa: clusterZone},
	{rule: "C5 namespace without Services", name: "empty.svc.cluster.local.", typ: "A", soa: clusterZone},
	{rule: "C5 unknown namespace", name: "nons.svc.cluster.local.", typ: "A", rcode: nx, soa: clusterZone},
	{rule: "C5 unknown namespace", name: "svc1.nons.svc.cluster.local.", typ: "A", rcode: nx, soa: clusterZone},
	{rule: "C5 neither svc nor pod", name: "svc1.testns.abc.cluster.local.", typ: "A", rcode: nx, soa: clusterZone},
	{rule: "C5 unknown Service", name: "nope.testns.svc.cluster.local.", typ: "A", rcode: nx, soa: clusterZone},
	{rule: "C5 too many labels", name: "x._http._tcp.svc1.testns.svc.cluster.local.", typ: "SRV", rcode: nx, soa: clusterZone},
	{rule: "RFC 8020", name: "_tcp.svc1.testns.svc.cluster.local.", typ: "SRV", soa: clusterZone},

	{rule: "C7 dashes", name: "172-1-0-2.hdls.testns.svc.cluster.local.", typ: "A", answer: rr("172-1-0-2.hdls.testns.svc.cluster.local. 5 IN A 172.1.0.2")},
	{rule: "C7 last dash", name: "fd00-1--0.hdls.testns.svc.cluster.local.", typ: "AAAA", answer: rr("fd00-1--0.hdls.testns.svc.cluster.local. 5 IN AAAA fd00:1::")},
	{rule: "C8 endpoint of a ClusterIP", name: "172-0-0-1.svc1.testns.svc.cluster.local.", typ: "A", answer: rr("172-0-0-1.svc1.testns.svc.cluster.local. 5 IN A 172.0.0.1")},
	{rule: "C8 endpoint of a ClusterIP", name: "web-0.svc2.testns.svc.cluster.local.", typ: "A", answer: rr("web-0.svc2.testns.svc.cluster.local. 5 IN A 172.0.0.1")},
	{rule: "C8 a PTR for each Service", name: "1.0.0.172.in-addr.arpa.", typ: "PTR", answer: rr(
		"1.0.0.172.in-addr.arpa. 5 IN PTR 172-0-0-1.svc1.testns.svc.cluster.local.", "1.0.0.172.in-addr.arpa. 5 IN PTR web-0.svc2.testns.svc.cluster.local.")},
	{rule: "C8 the ClusterIP wins", name: "1.0.0.10.in-addr.arpa.", typ: "PTR", answer: rr("1.0.0.10.in-addr.arpa. 5 IN PTR svc1.testns.svc.cluster.local.")},

	{rule: "C9 SRV of the Service", name: "dual.testns.svc.cluster.local.", typ: "SRV",
		answer: rr("dual.testns.svc.cluster.local. 5 IN SRV 0 25 80 dual.testns.svc.cluster.local.", "dual.testns.svc.cluster.local. 5 IN SRV 0 25 443 dual.testns.svc.cluster.local."),
		extra: rr("dual.testns.svc.cluster.local. 5 IN A 10.0.0.5", "dual.testns.svc.cluster.local. 5 IN AAAA fd00::5",
			"dual.testns.svc.cluster.local. 5 IN A 10.0.0.5", "dual.testns.svc.cluster.local. 5 IN AAAA fd00::5")},
	{rule: "C9 SRV of the unnamed port", name: "unnamed.testns.svc.cluster.local.", typ: "SRV",
		answer: rr("unnamed.testns.svc.cluster.local. 5 IN SRV 0 100 8080 unnamed.testns.svc.cluster.local."),
		extra:  rr("unnamed.testns.svc.cluster.local. 5 IN A 10.0.0.6")},
	{rule: "C9 A of a port", name: "_http._tcp.svc1.testns.svc.cluster.local.", typ: "A", answer: rr("_http._tcp.svc1.testns.svc.cluster.local. 5 IN A 10.0.0.1")},
	{rule: "C9 no underscores", name: "http.tcp.svc1.testns.svc.cluster.local.", typ: "SRV",
		answer: rr("http.tcp.svc1.testns.svc.cluster.local. 5 IN SRV 0 100 80 svc1.testns.svc.cluster.local."),
		extra:  rr("svc1.testns.svc.cluster.local. 5 IN A 10.0.0.1")},
	{rule: "C9 no ports: A", name: "hdls-portless.testns.svc.cluster.local.", typ: "A", answer: rr("hdls-portless.testns.svc.cluster.local. 5 IN A 172.1.0.20")},
	{rule: "C9 no ports: no SRV", name: "hdls-portless.testns.svc.cluster.local.", typ: "SRV", soa: clusterZone},

	{rule: "C10 below", name: "x.ext.testns.svc.cluster.local.", typ: "A", rcode: nx, soa: clusterZone},
	{rule: "C10 SRV", name: "ext.testns.svc.cluster.local.", typ: "SRV", soa: clusterZone},
	{rule: "C10 an address", name: "ext-ip.testns.svc.cluster.local.", typ: "A", rcode: nx, soa: clusterZone},
	{rule: "C10 in the zone", name: "ext-in.testns.svc.cluster.local.", typ: "A", answer: rr(
		"ext-in.testns.svc.cluster.local. 5 IN CNAME svc1.testns.svc.cluster.local.", "svc1.testns.svc.cluster.local. 5 IN A 10.0.0.1")},
	{rule: "C10 in the zone, no data", name: "ext-in.testns.svc.cluster.local.", typ: "AAAA", soa: clusterZone,
		answer: rr("ext-in.testns.svc.cluster.local. 5 IN CNAME svc1.testns.svc.cluster.local.")},
	{rule: "C10 chain out of the zone", name: "ext-ext.testns.svc.cluster.local.", typ: "A", answer: rr(
		"ext-ext.testns.svc.cluster.local. 5 IN CNAME ext.testns.svc.cluster.local.", "ext.testns.svc.cluster.local. 5 IN CNAME www.example.com.",
		"www.example.com. 60 IN CNAME web.example.com.", "web.example.com. 60 IN A 192.0.2.1")},
	{rule: "C10 upstream fails", name: "ext-fails.testns.svc.cluster.local.", typ: "A", answer: rr("ext-fails.testns.svc.cluster.local. 5 IN CNAME fails.example.com.")},
	{rule: "RFC 6604", name: "ext-gone.testns.svc.cluster.local.", typ: "A", rcode: nx, answer: rr("ext-gone.testns.svc.cluster.local. 5 IN CNAME gone.example.com."), soa: "example.com."},
	{rule: "RFC 6604", name: "ext-nowhere.testns.svc.cluster.local.", typ: "A", rcode: nx, soa: clusterZone,
		answer: rr("ext-nowhere.testns.svc.cluster.local. 5 IN CNAME nowhere.testns.svc.cluster.local.")},

	{rule: "C11 pods are disabled", name: "172-0-0-1.testns.pod.cluster.local.", typ: "A", rcode: nx, soa: clusterZone},
	{rule: "C12 NS", name: "cluster.local.", typ: "NS", answer: rr("cluster.local. 5 IN NS kube-dns.kube-system.svc.cluster.local.")},
	{rule: "C3 SOA", name: "cluster.local.", typ: "SOA", answer: rr("cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5")},
	{rule: "C12 ns.dns", name: "ns.dns.cluster.local.", typ: "A", answer: rr("ns.dns.cluster.local. 5 IN A 10.96.0.10", "ns.dns.cluster.local. 5 IN A 127.0.0.1")},

	{rule: "forwarded", name: "www.example.com.", typ: "A", answer: rr("www.example.com. 60 IN CNAME web.example.com.", "web.example.com. 60 IN A 192.0.2.1")},
	{rule: "forwarded NXDOMAIN", name: "gone.example.com.", typ: "A", rcode: nx, soa: "example.com."},
	{rule: "forwarded NODATA", name: "web.example.com.", typ: "AAAA", soa: "example.com."},
	{rule: "forwarded failure", name: "fails.example.com.", typ: "A", rcode: dns.RcodeServerFailure},
	{rule: "C14 fallthrough", name: "1.2.0.192.in-addr.arpa.", typ: "PTR", answer: rr("1.2.0.192.in-addr.arpa. 60 IN PTR web.example.com.")},
}

func examples(t testing.TB) *dnstest.Upstream {
	www := rr("www.example.com. 60 IN CNAME web.example.com.", "web.example.com. 60 IN A 192.0.2.1")
	names := dnstest.Names(map[string][]string{
		"www.example.com. A":          www,
		"www.example.com. AAAA":       {},
		"web.example.com. A":          rr("web.example.com. 60 IN A 192.0.2.1"),
		"1.2.0.192.in-addr.arpa. PTR": rr("1.2.0.192.in-addr.arpa. 60 IN PTR web.example.com."),
	})
	return dnstest.NewUpstream(t, func(q *dns.Msg, tcp bool) *dns.Msg {
		if q.Question[0].Name == "fails.example.com." {
			return dnstest.Reply(q, dns.RcodeServerFailure)
		}
		return names(q, tcp)
	})
}

// TestSemantics asks a running server every question of the table, over UDP and
// TCP.
func TestSemantics(t *testing.T) {
	s := start(t, func(o *sluicedns.Options) {
		o.Forward.Zones = forward.Root(forward.Plain(examples(t).Addr)...)
		o.Addresses = []netip.Addr{dnstest.DNSAddress}
	})
	for _, c := range semantics {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(fmt.Sprintf("%s/%s %s/%s", c.rule, c.name, c.typ, network), func(t *testing.T) {
				c.check(t, ask(t, s.Addrs()[0], network, c.name, c.typ))
			})
		}
	}
}

func (c testCase) check(t *testing.T, r *dns.Msg) {
	t.Helper()
	if r.Rcode != c.rcode || r.Truncated {
		t.Errorf("code %s, truncated %v: want %s", dns.RcodeToString[r.Rcode], r.Truncated, dns.RcodeToString[c.rcode])
	}
	if !r.Authoritative && c.rcode != dns.RcodeServerFailure { // C1
		t.Error("not authoritative")
	}
	if got, want := texts(r.Answer), normal(t, c.answer); !slices.Equal(got, want) {
		t.Errorf("answer\n%q, want\n%q", got, want)
	}
	if got, want := texts(r.Extra), normal(t, c.extra); !slices.Equal(got, want) {
		t.Errorf("additional\n%q, want\n%q", got, want)
	}
	soas := 0
	for _, rr := range r.Ns {
		if soa, ok := rr.(*dns.SOA); !ok || soa.Hdr.Name != c.soa {
			t.Errorf("authority: %v, want the SOA of %q", rr, c.soa)
		}
		soas++
	}
	if (soas == 1) != (c.soa != "") {
		t.Errorf("%d SOA records, want that of %q", soas, c.soa)
	}
}

// TestPodModes covers C11.
func TestPodModes(t *testing.T) {
	a := func(name, addr string) testCase {
		return testCase{name: name, typ: "A", answer: rr(name + " 5 IN A " + addr)}
	}
	none := func(name, typ string) testCase { return testCase{name: name, typ: typ, rcode: nx, soa: clusterZone} }
	empty := func(name, typ string) testCase { return testCase{name: name, typ: typ, soa: clusterZone} }
	for _, m := range []struct {
		mode  zone.PodMode
		cases []testCase
	}{
		{zone.PodsDisabled, []testCase{none("172-0-0-1.testns.pod.cluster.local.", "A"), none("testns.pod.cluster.local.", "A"), empty("pod.cluster.local.", "A")}},
		{zone.PodsInsecure, []testCase{
			a("172-0-0-1.testns.pod.cluster.local.", "172.0.0.1"), a("1-2-3-4.empty.pod.cluster.local.", "1.2.3.4"),
			empty("1-2-3-4.testns.pod.cluster.local.", "AAAA"), none("1-2-3-4.nons.pod.cluster.local.", "A"),
			none("1-2-3-4-5.testns.pod.cluster.local.", "A"), none("x.1-2-3-4.testns.pod.cluster.local.", "A"),
			none("hello.testns.pod.cluster.local.", "A"), empty("testns.pod.cluster.local.", "A"),
			{name: "fd00-2--1.testns.pod.cluster.local.", typ: "AAAA", answer: rr("fd00-2--1.testns.pod.cluster.local. 5 IN AAAA fd00:2::1")},
		}},
		{zone.PodsVerified, []testCase{
			a("172-0-0-1.testns.pod.cluster.local.", "172.0.0.1"), none("172-0-0-2.testns.pod.cluster.local.", "A"),
			none("172-0-0-1.empty.pod.cluster.local.", "A"), empty("empty.pod.cluster.local.", "A"),
			{name: "fd00-2--1.testns.pod.cluster.local.", typ: "AAAA", answer: rr("fd00-2--1.testns.pod.cluster.local. 5 IN AAAA fd00:2::1")},
		}},
	} {
		t.Run(m.mode.String(), func(t *testing.T) {
			s := start(t, func(o *sluicedns.Options) { o.Pods = m.mode })
			for _, c := range m.cases {
				t.Run(c.name+" "+c.typ, func(t *testing.T) { c.check(t, ask(t, s.Addrs()[0], "udp", c.name, c.typ)) })
			}
		})
	}
}
