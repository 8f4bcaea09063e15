package hosts

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicenet/sluice/dns/wire"
)

func name(t testing.TB, s string) []byte {
	t.Helper()
	n, err := wire.ParseName(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// values returns the data of packed records, as miekg/dns prints it.
func values(t testing.TB, owner []byte, r Result) string {
	t.Helper()
	var out []string
	for rest := r.Records; len(rest) > 0; rest = rest[wire.PackedLen(rest):] {
		rr, _, err := dns.UnpackRR(append(append([]byte(nil), owner...), rest[wire.Pointer:wire.PackedLen(rest)]...), 0)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	if len(out) != r.Count {
		t.Errorf("%d records, count %d", len(out), r.Count)
	}
	return strings.Join(out, " ")
}

func TestLookup(t *testing.T) {
	table, errs := New([]string{
		"# comment", "", "10.0.0.1 A.example b.example # both", "10.0.0.2\ta.example", "fd00::1 a.example",
		"10.0.0.1 a.example", "::ffff:10.0.0.3 mapped.example", "10.0.0.9 *.wild.example",
	}, Options{TTL: time.Minute})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	for _, c := range []struct {
		name  string
		typ   uint16
		found bool
		want  string
	}{
		{"a.example", wire.TypeA, true, "10.0.0.1 10.0.0.2"},
		{"a.example", wire.TypeAAAA, true, "fd00::1"},
		{"a.example", wire.TypeTXT, true, ""},
		{"b.example", wire.TypeAAAA, true, ""},
		{"mapped.example", wire.TypeA, true, "10.0.0.3"},
		{"c.example", wire.TypeA, false, ""},
		{"x.y.wild.example", wire.TypeA, true, "10.0.0.9"},
		{"wild.example", wire.TypeA, false, ""},
		{"1.0.0.10.in-addr.arpa", wire.TypePTR, true, "a.example. b.example."},
		{"9.0.0.10.in-addr.arpa", wire.TypePTR, false, ""},
		{"1." + strings.Repeat("0.", 27) + "0.0.d.f.ip6.arpa", wire.TypePTR, true, "a.example."},
	} {
		n := name(t, c.name)
		r := table.Lookup(n, c.typ)
		if got := values(t, n, r); r.Found != c.found || got != c.want {
			t.Errorf("%s %d: found %v %q, want %v %q", c.name, c.typ, r.Found, got, c.found, c.want)
		}
	}
	n := name(t, "x.wild.example")
	if allocs := testing.AllocsPerRun(100, func() { table.Lookup(n, wire.TypeA) }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// TestMistakesNameTheLine proves that what cannot be read is told, and keeps
// nothing else out.
func TestMistakesNameTheLine(t *testing.T) {
	table, errs := New([]string{"nowhere a.example", "10.0.0.1", "10.0.0.1 a..b ok.example", "fe80::1%eth0 a.example"}, Options{NoReverse: true})
	if len(errs) != 4 || !strings.HasPrefix(errs[2].Error(), "line 3: ") {
		t.Errorf("errors %v", errs)
	}
	if table.Len() != 1 || !table.Lookup(name(t, "ok.example"), wire.TypeA).Found {
		t.Errorf("%d names", table.Len())
	}
	if table, _ := New(nil, Options{}); table.Len() != 0 || table.Lookup([]byte{0}, wire.TypeA).Found {
		t.Error("an empty table has names")
	}
}

func TestReverseName(t *testing.T) {
	for _, a := range []string{"10.2.30.4", "fd00:1::abcd"} {
		want, err := dns.ReverseAddr(a)
		if got := wire.NameString(ReverseName(netip.MustParseAddr(a))); err != nil || got != want {
			t.Errorf("%s: %s, want %s", a, got, want)
		}
	}
}

// FuzzNew proves that no line breaks a table, and that what it has it finds.
func FuzzNew(f *testing.F) {
	f.Add("10.0.0.1 a.example *.b\nfd00::1 a")
	f.Add(`10.0.0.1 \255\046x a`)
	f.Fuzz(func(t *testing.T, text string) {
		table, _ := New(strings.Split(text, "\n"), Options{})
		if table == nil {
			return
		}
		for n := range table.names {
			found := false
			for _, typ := range []uint16{wire.TypeA, wire.TypeAAAA, wire.TypePTR} {
				r := table.Lookup([]byte(n), typ)
				values(t, []byte(n), r)
				found = found || r.Count > 0
			}
			if !found {
				t.Errorf("%q has no records", n)
			}
		}
	})
}

// TestBlocklist proves that many names of one address are read in no time, each once.
func TestBlocklist(t *testing.T) {
	const names = 200_000
	var lines []string
	for i := range 2 * names {
		lines = append(lines, fmt.Sprintf("0.0.0.0 ad-%d.blocked.example", i%names))
	}
	table, errs := New(lines, Options{})
	if len(errs) > 0 || table.Records() != 2*names {
		t.Errorf("%d records, %v", table.Records(), errs)
	}
}
