package wire

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestNames(t *testing.T) {
	for _, s := range []string{".", "a.", "www.Example.com.", `a\.b.c.`, `\000\255.x.`, strings.Repeat(strings.Repeat("x", 63)+".", 3) + strings.Repeat("y", 61) + "."} {
		n, err := ParseName(s)
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if got := NameString(n); got != s {
			t.Errorf("%q comes back as %q", s, got)
		}
		var buf [300]byte
		off, err := dns.PackDomainName(s, buf[:], 0, nil, false)
		if err != nil || !bytes.Equal(buf[:off], n) {
			t.Errorf("%q is %x, miekg/dns packs %x, %v", s, n, buf[:off], err)
		}
	}
	for _, s := range []string{"..", "a..b", ".a", strings.Repeat("x", 64), strings.Repeat("x.", 128), `a\`, `a\25`, `a\256`} {
		if n, err := ParseName(s); err == nil {
			t.Errorf("%q is read as %x", s, n)
		}
	}
	if n, err := ParseName("a.b"); err != nil || NameString(n) != "a.b." {
		t.Errorf("without the last dot: %x, %v", n, err)
	}
}

func name(t testing.TB, s string) []byte {
	t.Helper()
	n, err := ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestInZone(t *testing.T) {
	for _, c := range []struct {
		name, zone string
		want       bool
	}{
		{"cluster.local", "cluster.local", true}, {"a.cluster.local", "cluster.local", true}, {"acluster.local", "cluster.local", false},
		{"local", "cluster.local", false}, {"x.y.z", ".", true}, {".", ".", true}, {".", "a", false}, {"a.b.cluster.local", "cluster.local", true},
	} {
		if got := InZone(name(t, c.name), name(t, c.zone)); got != c.want {
			t.Errorf("%s in %s: %v", c.name, c.zone, got)
		}
	}
}

// FuzzQuery compares with miekg/dns: what it reads as a query for one name, we
// read the same, and our refusal of anything can be read by it.
func FuzzQuery(f *testing.F) {
	seed := new(dns.Msg).SetQuestion("WWW.example.com.", dns.TypeA)
	for range 2 {
		b, err := seed.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		seed.SetEdns0(4096, true)
	}
	b, err := new(dns.Msg).SetIxfr("example.com.", 7, "ns.example.com.", "admin.example.com.").Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var q Query
		verdict := q.Parse(b, false)
		var m dns.Msg
		err := m.Unpack(b)
		if err == nil && !m.Response && m.Opcode == dns.OpcodeQuery && len(m.Question) == 1 && verdict == Answer {
			sameQuestion(t, &q, &m)
			sameSerial(t, &q, &m, b)
		}
		// Where we see a query and miekg/dns does not, it is stricter with
		// records that we do not look into.
		if verdict == Drop {
			return
		}
		var r dns.Msg
		reply := q.Refuse(make([]byte, 0, MinUDP), FlagRA, verdict.Rcode())
		if err := r.Unpack(reply); err != nil || !r.Response || r.Id != binary.BigEndian.Uint16(b) || r.Rcode != int(verdict.Rcode()) && verdict != BadVers {
			t.Fatalf("refusal %x: %v\n%v", reply, err, r)
		}
	})
}

func sameQuestion(t *testing.T, q *Query, m *dns.Msg) {
	t.Helper()
	question := m.Question[0]
	var buf [MaxName + 1]byte
	off, err := dns.PackDomainName(question.Name, buf[:], 0, nil, false)
	if err != nil {
		return // it reads more than it writes
	}
	if !bytes.Equal(AppendLower(nil, buf[:off]), q.Name) || question.Qtype != q.Type || question.Qclass != q.Class || m.Id != q.ID {
		t.Errorf("%v is read as %s %d %d", question, NameString(q.Name), q.Type, q.Class)
	}
	if opt := m.IsEdns0(); opt != nil && (!q.EDNS || opt.Do() != q.DO || opt.UDPSize() != q.Size || opt.Version() != q.Version) {
		t.Errorf("%v is read as size %d, version %d, DO %v", opt, q.Size, q.Version, q.DO)
	}
}

func sameSerial(t *testing.T, q *Query, m *dns.Msg, msg []byte) {
	t.Helper()
	serial, ok := q.Serial(msg)
	if len(m.Ns) != 1 {
		return
	}
	if soa, is := m.Ns[0].(*dns.SOA); is != ok && ok || is && ok && soa.Serial != serial {
		t.Errorf("%v is read as serial %d, %v", m.Ns[0], serial, ok)
	}
}

// FuzzResponse takes anything as an upstream's answer: it is kept or not, but what
// is sent on can be read, and says the same as what miekg/dns reads.
func FuzzResponse(f *testing.F) {
	q := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
	for _, records := range [][]string{
		{"www.example.com. 60 IN A 192.0.2.1"},
		{"www.example.com. 60 IN CNAME web.example.com.", "web.example.com. 30 IN A 192.0.2.1"},
		{"www.example.com. 60 IN MX 10 mail.example.com."},
	} {
		m := new(dns.Msg).SetReply(q)
		for _, s := range records {
			rr, err := dns.NewRR(s)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		for range 2 {
			b, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, uint16(512))
			m.Compress = true
			m.SetEdns0(1232, false)
		}
	}
	asked := name(f, "www.example.com")
	f.Fuzz(func(t *testing.T, b []byte, limit uint16) {
		var before dns.Msg
		readable := before.Unpack(b) == nil
		r, err := ParseResponse(slices.Clone(b), asked, TypeA)
		if err != nil {
			return
		}
		var query Query
		query.Parse(AppendQuery(nil, 9, 0, name(t, "WWW.Example.com"), TypeA, true, false), true)
		query.Limit = max(int(limit), MinUDP)
		out := r.Write(make([]byte, 0, MaxMessage), &query, FlagAA, func(ttl uint32) uint32 { return ttl / 2 })
		if len(out) > query.Limit {
			t.Fatalf("%d octets, limit %d", len(out), query.Limit)
		}
		for rr := range r.Records() {
			if rec, ok := AppendRecord(nil, r.Msg, rr, 7); ok && len(rec) < 11 {
				t.Fatalf("record %x", rec)
			}
		}
		if !readable {
			return
		}
		var after dns.Msg
		if err := after.Unpack(out); err != nil {
			t.Fatalf("%x was readable, %x is not: %v", b, out, err)
		}
		if after.Id != 9 || !after.Authoritative || after.Question[0].Name != "WWW.Example.com." || after.IsEdns0() == nil {
			t.Fatalf("%v", after)
		}
		if !after.Truncated && len(after.Answer) != len(before.Answer) {
			t.Fatalf("%d answers of %d", len(after.Answer), len(before.Answer))
		}
		for i, rr := range after.Answer {
			want := before.Answer[i].Header().Ttl
			if want > 1<<31-1 {
				want = 0
			}
			if rr.Header().Ttl != want/2 {
				t.Fatalf("TTL %d of %d", rr.Header().Ttl, want)
			}
		}
	})
}

// TestAppendRecord compares records with all names in full with miekg/dns'.
func TestAppendRecord(t *testing.T) {
	m := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeANY)
	m.Response, m.Compress = true, true
	for _, s := range []string{
		"www.example.com. 60 IN CNAME web.example.com.", "web.example.com. 60 IN A 192.0.2.1", "web.example.com. 60 IN MX 10 mail.example.com.",
		"example.com. 60 IN SOA ns.example.com. admin.example.com. 1 2 3 4 5", "_x._tcp.example.com. 60 IN SRV 1 2 3 web.example.com.",
		`example.com. 60 IN TXT "a" "b"`, "example.com. 60 IN NS ns.example.com.", `example.com. 60 IN HTTPS 1 . alpn="h2"`,
		"example.com. 60 IN MINFO r.example.com. e.example.com.", "example.com. 60 IN MB mb.example.com.", "example.com. 60 IN MG mg.example.com.",
		"example.com. 60 IN MR mr.example.com.", "example.com. 60 IN MD md.example.com.", "example.com. 60 IN MF mf.example.com.",
		"example.com. 60 IN RP a.example.com. b.example.com.", "example.com. 60 IN AFSDB 1 afs.example.com.", "example.com. 60 IN RT 1 rt.example.com.",
		"example.com. 60 IN PX 1 a.example.com. b.example.com.", "example.com. 60 IN KX 1 kx.example.com.", "example.com. 60 IN DNAME d.example.com.",
		`example.com. 60 IN NAPTR 1 2 "u" "sip+E2U" "!x!y!" r.example.com.`,
	} {
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	r, err := ParseResponse(b, name(t, "www.example.com"), TypeANY)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for rr := range r.Records() {
		got, ok := AppendRecord(nil, r.Msg, rr, 60)
		want := make([]byte, 512)
		n, err := dns.PackRR(m.Answer[i], want, 0, nil, false)
		if err != nil || !ok || !bytes.Equal(got, want[:n]) {
			t.Errorf("%v: %x, want %x (%v)", m.Answer[i], got, want[:n], err)
		}
		i++
	}
	if i != len(m.Answer) {
		t.Errorf("%d records, want %d", i, len(m.Answer))
	}
}

// TestKeep covers what may be cached and for how long (RFC 2308, RFC 2181 §8).
func TestKeep(t *testing.T) {
	const soa = "example.com. 60 IN SOA ns.example.com. admin.example.com. 1 2 3 4 20"
	for _, c := range []struct {
		what           string
		rcode          int
		answer, ns     []string
		change         func(*dns.Msg)
		keep, negative bool
		life           uint32
	}{
		{"answer", 0, []string{"www.example.com. 60 IN A 192.0.2.1"}, nil, nil, true, false, 60},
		{"least of a chain", 0, []string{"www.example.com. 9 IN CNAME x.example.com.", "x.example.com. 60 IN A 192.0.2.1"}, nil, nil, true, false, 9},
		{"TTL 0", 0, []string{"www.example.com. 0 IN A 192.0.2.1"}, nil, nil, false, false, 0},
		{"huge TTL", 0, []string{"www.example.com. 4294967295 IN A 192.0.2.1"}, nil, nil, false, false, 0},
		{"NXDOMAIN", 3, nil, []string{soa}, nil, true, true, 20},
		{"NXDOMAIN without SOA", 3, nil, nil, nil, false, true, 0},
		{"NODATA", 0, nil, []string{soa}, nil, true, true, 20},
		{"alias to nothing", 0, []string{"www.example.com. 9 IN CNAME x.example.com."}, []string{soa}, nil, true, true, 9},
		{"delegation", 0, nil, []string{"example.com. 60 IN NS ns.example.com."}, nil, false, true, 0},
		{"truncated", 0, []string{"www.example.com. 60 IN A 192.0.2.1"}, nil, func(m *dns.Msg) { m.Truncated = true }, false, false, 60},
		{"failure", 2, nil, []string{soa}, nil, false, true, 20},
	} {
		m := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
		m.Response, m.Rcode = true, c.rcode
		for i, list := range [][]string{c.answer, c.ns} {
			for _, s := range list {
				rr, err := dns.NewRR(s)
				if err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					m.Answer = append(m.Answer, rr)
				} else {
					m.Ns = append(m.Ns, rr)
				}
			}
		}
		if c.change != nil {
			c.change(m)
		}
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		r, err := ParseResponse(b, name(t, "www.example.com"), TypeA)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if r.Keep != c.keep || r.Negative != c.negative || c.keep && r.Lifetime != c.life {
			t.Errorf("%s: keep %v, negative %v, %d s", c.what, r.Keep, r.Negative, r.Lifetime)
		}
	}
}

// TestUnrelatedResponses are not taken for answers.
func TestUnrelatedResponses(t *testing.T) {
	for what, change := range map[string]func(*dns.Msg){
		"a query":       func(m *dns.Msg) { m.Response = false },
		"another name":  func(m *dns.Msg) { m.Question[0].Name = "wwx.example.com." },
		"another type":  func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA },
		"another class": func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"no question":   func(m *dns.Msg) { m.Question = nil },
		"longer name":   func(m *dns.Msg) { m.Question[0].Name = "www.example.com.x." },
	} {
		m := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
		m.Response = true
		change(m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseResponse(b, name(t, "www.example.com"), TypeA); err == nil {
			t.Errorf("%s is an answer", what)
		}
	}
}
