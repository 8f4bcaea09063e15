package dns_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/model"
)

// transferring runs a server whose zone takes several messages, for the clients of a
// range.
func transferring(t *testing.T, clients string) *sluicedns.Server {
	t.Helper()
	return start(t, func(o *sluicedns.Options) {
		o.Transfer = []netip.Prefix{netip.MustParsePrefix(clients)}
		o.Store.Update(func(tx *model.Txn) {
			svc := dnstest.Headless("testns", "host", dnstest.Port("http", corev1.ProtocolTCP, 80))
			var eps []model.Endpoint
			for i := range 1000 {
				eps = append(eps, dnstest.Ready(fmt.Sprintf("172.3.%d.%d", i/250, i%250), ""))
			}
			model.Services.Put(tx, svc)
			model.EndpointSlices.Put(tx, dnstest.Slice(svc, "x", eps...))
		})
	})
}

// zoneOf returns the lines of the zone as a transfer has them: with two SOAs.
func zoneOf(s *sluicedns.Server) []string {
	var lines []string
	for line := range strings.Lines(s.Zone().String()) {
		line = strings.TrimSuffix(line, "\n")
		owner, _, _ := strings.Cut(line, "\t")
		if strings.HasPrefix(line, ";") || !strings.HasSuffix(owner, clusterZone) {
			continue
		}
		lines = append(lines, line)
		if strings.Contains(line, "\tSOA\t") {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

// transfer asks for one and returns the records of each message.
func transfer(t *testing.T, s *sluicedns.Server, q *dns.Msg) [][]string {
	t.Helper()
	in, err := new(dns.Transfer).In(q, s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	var messages [][]string
	for e := range in {
		if e.Error != nil {
			t.Fatal(e.Error)
		}
		var lines []string
		for _, rr := range e.RR {
			lines = append(lines, rr.String())
		}
		messages = append(messages, lines)
	}
	return messages
}

// TestTransfer has whole zones transferred over TCP, as a secondary server does.
func TestTransfer(t *testing.T) {
	s := transferring(t, "127.0.0.0/8")
	serial := s.Zone().Serial()
	older := new(dns.Msg).SetIxfr(clusterZone, serial-1, "ns.dns."+clusterZone, "hostmaster."+clusterZone)
	edns := new(dns.Msg).SetAxfr(clusterZone)
	edns.SetEdns0(1232, false)
	for what, q := range map[string]*dns.Msg{
		"AXFR": new(dns.Msg).SetAxfr(clusterZone), "in capitals": new(dns.Msg).SetAxfr("CLUSTER.Local."), "with EDNS": edns, "IXFR from an older zone": older,
	} {
		messages := transfer(t, s, q)
		got := slices.Concat(messages...)
		if len(messages) < 3 || !strings.Contains(got[0], "\tSOA\t") || got[len(got)-1] != got[0] {
			t.Errorf("%s: %d messages, from %q to %q", what, len(messages), got[0], got[len(got)-1])
		}
		for i := range got { // the question's case is the apex' own
			got[i] = strings.ReplaceAll(got[i], "CLUSTER.Local.", clusterZone)
		}
		slices.Sort(got)
		if diff := cmp.Diff(zoneOf(s), got); diff != "" {
			t.Errorf("%s: the zone (-) and its transfer (+):\n%s", what, diff)
		}
	}
	for _, have := range []uint32{serial, serial + 5} {
		got := transfer(t, s, new(dns.Msg).SetIxfr(clusterZone, have, "ns.dns."+clusterZone, "hostmaster."+clusterZone))
		if len(got) != 1 || len(got[0]) != 1 || !strings.Contains(got[0][0], fmt.Sprintf(" %d ", serial)) {
			t.Errorf("to a client with %d, of %d: %q", have, serial, got)
		}
	}
}

// TestTransferMessages looks at the messages as they are, between two other queries
// on their connection.
func TestTransferMessages(t *testing.T) {
	s := transferring(t, "127.0.0.1/32")
	conn, err := net.Dial("tcp", s.Addrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for _, q := range []*dns.Msg{
		new(dns.Msg).SetQuestion("svc1.testns.svc."+clusterZone, dns.TypeA), new(dns.Msg).SetAxfr(clusterZone), new(dns.Msg).SetQuestion("svc2.testns.svc."+clusterZone, dns.TypeA),
	} {
		b, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
			t.Fatal(err)
		}
	}
	var questions []string
	records, first := 0, uint16(0)
	for co := (&dns.Conn{Conn: conn}); len(questions) == 0 || questions[len(questions)-1] != "svc2.testns.svc."+clusterZone; {
		b, err := co.ReadMsgHeader(nil)
		if err != nil {
			t.Fatal(err)
		}
		var m dns.Msg
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		if m.Rcode != 0 || !m.Authoritative || m.Truncated || len(b) > 1<<14 {
			t.Errorf("%d octets: %v", len(b), m.MsgHdr)
		}
		questions = append(questions, m.Question[0].Name)
		if m.Question[0].Qtype == dns.TypeAXFR {
			if first == 0 {
				first = m.Id
			}
			if records += len(m.Answer); m.Id != first {
				t.Errorf("identifier %d after %d", m.Id, first)
			}
		}
	}
	if want := zoneOf(s); records != len(want) || questions[0] != "svc1.testns.svc."+clusterZone {
		t.Errorf("%d records of %d, questions %q", records, len(want), questions)
	}
}

// TestTransferRefusals has all that is not given, or not over UDP.
func TestTransferRefusals(t *testing.T) {
	ixfr := func(m *dns.Msg) {
		*m = *new(dns.Msg).SetIxfr(m.Question[0].Name, 1, "ns.dns."+clusterZone, "h."+clusterZone)
	}
	open, closed, byDefault := transferring(t, "127.0.0.0/8"), transferring(t, "10.0.0.0/8"), start(t, nil)
	early := start(t, func(o *sluicedns.Options) {
		o.Store, o.Transfer = model.NewStore(), []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		o.Store.Update(func(tx *model.Txn) { model.Namespaces.Put(tx, &model.Namespace{Meta: dnstest.Meta("", "a")}) })
	})
	for _, c := range []struct {
		what               string
		server             *sluicedns.Server
		network, name, typ string
		change             []func(*dns.Msg)
		rcode, answers     int
	}{
		{"AXFR over UDP", open, "udp", clusterZone, "AXFR", nil, dns.RcodeRefused, 0},
		{"IXFR over UDP", open, "udp", clusterZone, "IXFR", []func(*dns.Msg){ixfr}, 0, 1},
		{"IXFR without a serial number", open, "udp", clusterZone, "IXFR", nil, dns.RcodeFormatError, 0},
		{"the same over TCP", open, "tcp", clusterZone, "IXFR", nil, dns.RcodeFormatError, 0},
		{"another class", open, "tcp", clusterZone, "AXFR", []func(*dns.Msg){func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }}, dns.RcodeRefused, 0},
		{"below a zone", open, "tcp", "svc." + clusterZone, "AXFR", nil, dns.RcodeNotAuth, 0},
		{"another zone", open, "udp", "example.com.", "IXFR", []func(*dns.Msg){ixfr}, dns.RcodeNotAuth, 0},
		{"reverse names", open, "tcp", "in-addr.arpa.", "AXFR", nil, dns.RcodeNotAuth, 0},
		{"before all is read", early, "tcp", clusterZone, "AXFR", nil, dns.RcodeServerFailure, 0},
		{"another client", closed, "tcp", clusterZone, "AXFR", nil, dns.RcodeRefused, 0},
		{"another client's IXFR", closed, "udp", clusterZone, "IXFR", []func(*dns.Msg){ixfr}, dns.RcodeRefused, 0},
		{"anybody by default", byDefault, "tcp", clusterZone, "AXFR", nil, dns.RcodeRefused, 0},
		{"their IXFR", byDefault, "tcp", clusterZone, "IXFR", []func(*dns.Msg){ixfr}, dns.RcodeRefused, 0},
	} {
		r := ask(t, c.server.Addrs()[0], c.network, c.name, c.typ, c.change...)
		if r.Rcode != c.rcode || len(r.Answer) != c.answers || r.Authoritative != (c.answers > 0) {
			t.Errorf("%s: %v, want %s and %d records", c.what, r, dns.RcodeToString[c.rcode], c.answers)
		}
		if c.answers > 0 {
			if soa, ok := r.Answer[0].(*dns.SOA); !ok || soa.Serial != c.server.Zone().Serial() {
				t.Errorf("%s: %v", c.what, r.Answer)
			}
		}
	}
}

// TestTransferDig has dig transfer the zone, which counts as a second opinion.
func TestTransferDig(t *testing.T) {
	dig, err := exec.LookPath("dig")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("no dig here (Debian: apt install bind9-dnsutils): %v", err)
	}
	s := transferring(t, "127.0.0.0/8")
	addr := s.Addrs()[0]
	out, err := exec.CommandContext(t.Context(), dig, "@"+addr.Addr().String(), "-p", fmt.Sprint(addr.Port()), clusterZone, "axfr", "+nocomments", "+nostats", "+nocmd").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if want := len(zoneOf(s)); len(lines) != want || strings.Contains(string(out), ";") {
		t.Errorf("dig printed %d lines, want %d: %.2000s", len(lines), want, out)
	}
}
