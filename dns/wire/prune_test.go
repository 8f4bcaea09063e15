package wire

import (
	"slices"
	"testing"

	"github.com/miekg/dns"
)

// TestPrune is what is left of answers.
func TestPrune(t *testing.T) {
	const soa, otherSOA = "example.com. 60 IN SOA ns. m. 1 2 3 4 30", "example.org. 60 IN SOA ns. m. 1 2 3 4 30"
	const ns, a, alias = "example.com. 60 IN NS ns.example.com.", "www.example.com. 60 IN A 192.0.2.1", "www.example.com. 60 IN CNAME web.example.net."
	const target, evil = "web.example.net. 60 IN A 192.0.2.2", "bank.example. 60 IN A 192.0.2.66"
	const nsec = "www.example.com. 60 IN NSEC x.example.com. A"
	type sections [3][]string
	for name, c := range map[string]struct {
		in     sections
		dnssec bool
		want   sections
		keep   bool
	}{
		"plain":                 {sections{{a}}, false, sections{{a}}, true},
		"servers and glue":      {sections{{a}, {ns}, {evil}}, false, sections{{a}}, true},
		"alias":                 {sections{{alias, target}}, false, sections{{alias, target}}, true},
		"alias, wrong order":    {sections{{target, alias}}, false, sections{{target, alias}}, true},
		"foreign":               {sections{{a, evil}}, false, sections{{a}}, true},
		"foreign before":        {sections{{evil, alias, target}, {ns}}, false, sections{{alias, target}}, true},
		"foreign only":          {sections{{evil}}, false, sections{}, false},
		"foreign, negative":     {sections{{evil}, {soa}}, false, sections{nil, {soa}}, true},
		"negative":              {sections{nil, {soa}}, false, sections{nil, {soa}}, true},
		"negative, more":        {sections{nil, {ns, soa}, {evil}}, false, sections{nil, {soa}}, true},
		"negative, after":       {sections{nil, {soa, ns}}, false, sections{nil, {soa}}, true},
		"negative, other's SOA": {sections{nil, {otherSOA}}, false, sections{nil, {otherSOA}}, false},
		"referral":              {sections{nil, {ns}, {evil}}, false, sections{}, false},
		"proof":                 {sections{nil, {soa, nsec}, {evil}}, true, sections{nil, {soa, nsec}}, true},
		"proof, not asked":      {sections{nil, {soa, nsec}}, false, sections{nil, {soa}}, true},
		"wildcard's proof":      {sections{{a}, {nsec}}, true, sections{{a}, {nsec}}, true},
	} {
		for _, compress := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				m := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
				m.Response, m.Compress = true, compress
				for i, section := range []*[]dns.RR{&m.Answer, &m.Ns, &m.Extra} {
					for _, text := range c.in[i] {
						rr, err := dns.NewRR(text)
						if err != nil {
							t.Fatal(err)
						}
						*section = append(*section, rr)
					}
				}
				m.SetEdns0(1232, c.dnssec)
				b, err := m.Pack()
				if err != nil {
					t.Fatal(err)
				}
				n := wireName(t, "www.example.com")
				r, err := ParseResponse(b, n, TypeA)
				if err != nil {
					t.Fatal(err)
				}
				if !r.Prune(n, TypeA, c.dnssec) {
					t.Fatal("malformed")
				}
				var got dns.Msg
				if err := got.Unpack(r.Msg); err != nil {
					t.Fatalf("%x: %v", r.Msg, err)
				}
				for i, rrs := range [][]dns.RR{got.Answer, got.Ns, got.Extra} {
					var want []string
					for _, text := range c.want[i] {
						rr, _ := dns.NewRR(text)
						want = append(want, rr.String())
					}
					var texts []string
					for _, rr := range rrs {
						texts = append(texts, rr.String())
					}
					if !slices.Equal(texts, want) {
						t.Errorf("section %d: %q, want %q", i, texts, want)
					}
				}
				if records := len(got.Answer) + len(got.Ns) + len(got.Extra); r.Keep != c.keep || len(r.TTLs) != records {
					t.Errorf("keep %v, want %v; %d TTLs for %d records", r.Keep, c.keep, len(r.TTLs), records)
				}
			})
		}
	}
}

func wireName(t testing.TB, s string) []byte {
	t.Helper()
	n, err := ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestClientSubnet reads the option, and passes over what is malformed.
func TestClientSubnet(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		ok   bool
	}{
		"IPv4":       {[]byte{0, 1, 24, 0, 203, 0, 113}, true},
		"IPv6":       {[]byte{0, 2, 56, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0}, true},
		"nothing":    {[]byte{0, 1, 0, 0}, true},
		"bits":       {[]byte{0, 1, 20, 0, 203, 0, 0x10}, true},
		"more bits":  {[]byte{0, 1, 20, 0, 203, 0, 0x11}, false},
		"scope":      {[]byte{0, 1, 24, 24, 203, 0, 113}, false},
		"short":      {[]byte{0, 1, 24, 0, 203, 0}, false},
		"too long":   {[]byte{0, 1, 24, 0, 203, 0, 113, 1}, false},
		"no address": {[]byte{0, 1, 33, 0, 1, 2, 3, 4, 5}, false},
		"family":     {[]byte{0, 3, 8, 0, 1}, false},
		"header":     {[]byte{0, 1}, false},
	} {
		m := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
		m.SetEdns0(1232, false)
		opt := m.IsEdns0()
		opt.Option = append(opt.Option,
			&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"},
			&dns.EDNS0_LOCAL{Code: 8, Data: c.data})
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var q Query
		if v := q.Parse(b, false); v != Answer || (q.Subnet != nil) != c.ok || c.ok && !slices.Equal(q.Subnet, c.data) {
			t.Errorf("%s: %v, %x", name, v, q.Subnet)
		}
	}
}
