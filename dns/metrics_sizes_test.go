package dns_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/hosts"
)

// histogram returns a histogram of sizes, all of which are at most 100, as text.
func histogram(name, labels string, sizes ...int) string {
	var b strings.Builder
	sum := 0
	for _, n := range sizes {
		sum += n
	}
	for _, bound := range []string{"0", "100", "200", "300", "400", "511", "1023", "2047", "4095", "8291", "16000", "32000", "48000", "64000", "+Inf"} {
		n := len(sizes)
		if bound == "0" {
			n = 0
		}
		fmt.Fprintf(&b, "%s_bucket{%s,le=%q} %d\n", name, labels, bound, n)
	}
	fmt.Fprintf(&b, "%s_sum{%s} %d\n%s_count{%s} %d\n", name, labels, sum, name, labels, len(sizes))
	return b.String()
}

// TestSizes has what dashboards show besides numbers of queries, under names of ours and
// of CoreDNS.
func TestSizes(t *testing.T) {
	entries := []string{"10.9.0.1 a.example b.example", "fd00::1 a.example"}
	s := start(t, func(o *sluicedns.Options) {
		o.Forward.Zones = forward.Root(forward.Plain(examples(t).Addr)...)
		o.CoreDNSMetrics, o.Hosts.Entries = true, entries
	})
	addr := s.Addrs()[0]
	for range 3 {
		ask(t, addr, "udp", "web.example.com.", "A")
	}
	ask(t, addr, "tcp", "svc1.testns.svc.cluster.local.", "A", func(q *dns.Msg) { q.IsEdns0().SetDo() })
	ask(t, addr, "udp", "gone.example.com.", "A")
	server := "dns://" + addr.String()
	others, cluster := fmt.Sprintf(`proto="udp",server=%q,view="",zone="."`, server), fmt.Sprintf(`proto="tcp",server=%q,view="",zone="cluster.local."`, server)
	table, _ := hosts.New(entries, hosts.Options{})
	if table.Records() != 6 { // three addresses of names, and three names of addresses
		t.Errorf("%d records", table.Records())
	}
	for name, want := range map[string]string{
		"coredns_dns_request_size_bytes": "# HELP coredns_dns_request_size_bytes Sizes of queries.\n# TYPE coredns_dns_request_size_bytes histogram\n" +
			histogram("coredns_dns_request_size_bytes", others, 44, 44, 44, 45) + histogram("coredns_dns_request_size_bytes", cluster, 58),
		"coredns_dns_do_requests_total": "# HELP coredns_dns_do_requests_total Queries that ask for DNSSEC records.\n# TYPE coredns_dns_do_requests_total counter\n" +
			fmt.Sprintf("coredns_dns_do_requests_total{server=%q,view=\"\",zone=\".\"} 0\ncoredns_dns_do_requests_total{server=%[1]q,view=\"\",zone=\"cluster.local.\"} 1\n", server),
		"sluice_dns_request_size_bytes": "# HELP sluice_dns_request_size_bytes Sizes of queries.\n# TYPE sluice_dns_request_size_bytes histogram\n" +
			histogram("sluice_dns_request_size_bytes", `proto="udp",zone="."`, 44, 44, 44, 45) + histogram("sluice_dns_request_size_bytes", `proto="tcp",zone="cluster.local."`, 58),
		"sluice_dns_do_requests_total": "# HELP sluice_dns_do_requests_total Queries that ask for DNSSEC records.\n# TYPE sluice_dns_do_requests_total counter\n" +
			"sluice_dns_do_requests_total{zone=\".\"} 0\nsluice_dns_do_requests_total{zone=\"cluster.local.\"} 1\n",
		"sluice_dns_requests_total": "# HELP sluice_dns_requests_total Queries answered; family 1 is IPv4, 2 IPv6.\n# TYPE sluice_dns_requests_total counter\n" +
			`sluice_dns_requests_total{family="1",proto="tcp",type="A",zone="cluster.local."} 1` + "\n" + `sluice_dns_requests_total{family="1",proto="udp",type="A",zone="."} 4` + "\n",
		"coredns_panics_total":  "# HELP coredns_panics_total Panics that were survived, which is none: one ends the process.\n# TYPE coredns_panics_total counter\ncoredns_panics_total 0\n",
		"coredns_hosts_entries": "# HELP coredns_hosts_entries Records of the entries of hosts.\n# TYPE coredns_hosts_entries gauge\ncoredns_hosts_entries{hostsfile=\"\"} 6\n",
	} {
		var last error
		waitFor(t, name, func() bool {
			last = testutil.CollectAndCompare(s, strings.NewReader(want), name)
			return last == nil
		})
	}
	const textPlain = 4 // expfmt.TypeTextPlain
	text, err := testutil.CollectAndFormat(s, textPlain, "sluice_dns_request_duration_seconds", "coredns_dns_response_size_bytes", "coredns_build_info", "coredns_plugin_enabled", "coredns_proxy_request_duration_seconds")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("coredns_dns_response_size_bytes_count{%s} 4", others), fmt.Sprintf("coredns_dns_response_size_bytes_count{%s} 1", cluster),
		`sluice_dns_request_duration_seconds_count{zone="."} 4`, `sluice_dns_request_duration_seconds_count{zone="cluster.local."} 1`,
		`coredns_build_info{goversion="go`,
		fmt.Sprintf(`coredns_plugin_enabled{name="hosts",server=%q,view="",zone="."} 1`, server),
		fmt.Sprintf(`coredns_plugin_enabled{name="kubernetes",server=%q,view="",zone="cluster.local."} 1`, server),
		`rcode="NOERROR",to="` + s.Forward.Zones[0].Servers[0].String() + `"} 1`, `rcode="NXDOMAIN",to="` + s.Forward.Zones[0].Servers[0].String(), // the probe for loops, too
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(string(text), `name="autopath"`) {
		t.Error("a plugin that is off is enabled")
	}
}
