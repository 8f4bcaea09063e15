package zone

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

// TestDashed proves that labels that are made of addresses are read, and no others.
func TestDashed(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		var b [16]byte
		for i := 0; i < 16; i += 2 { // with many zeros
			if rng.IntN(2) == 0 {
				b[i], b[i+1] = byte(rng.Uint32())*byte(rng.IntN(2)), byte(rng.Uint32())
			}
		}
		for _, addr := range []netip.Addr{netip.AddrFrom16(b), netip.AddrFrom4([4]byte(b[:4]))} {
			if addr.Is4In6() {
				continue
			}
			if got, ok := parseReverse(reverseName(addr)); !ok || got != addr {
				t.Fatalf("%v: reverse name is read as %v, %v", addr, got, ok)
			}
			if got, ok := parseDashed([]byte(Dashed(addr))); !ok || got != addr {
				t.Fatalf("%v: %q is read as %v, %v", addr, Dashed(addr), got, ok)
			}
		}
	}
	for _, bad := range []string{"", "a", "-", "--", "---", "1-2-3", "1-2-3-256", "01-2-3-4", "1-2-3-4-5", "fd00-0--1", "FD00--1", "fd00--", "1--2--3", "12345--1", "web-0", "1-2-3-x", "1-2-3-4-5-6-7-8-9"} {
		if got, ok := parseDashed([]byte(bad)); ok && Dashed(got) != bad {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
	for _, bad := range []string{
		"in-addr.arpa", "ip6.arpa", "0.0.10.in-addr.arpa", "1.2.0.0.10.in-addr.arpa", "01.0.0.10.in-addr.arpa", "256.0.0.10.in-addr.arpa",
		"x.0.0.10.in-addr.arpa", "1000.0.0.10.in-addr.arpa", "1.0.0.10.ip6.arpa", strings.Repeat("0.", 31) + "ip6.arpa", strings.Repeat("0.", 31) + "g.ip6.arpa",
		strings.Repeat("0.", 8) + strings.Repeat("f.", 4) + strings.Repeat("0.", 20) + "ip6.arpa",
	} {
		name, err := wire.ParseName(bad)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := parseReverse(name); ok {
			t.Errorf("%s is read as %v", bad, got)
		}
	}
	label := []byte("fd00-1--5")
	if allocs := testing.AllocsPerRun(100, func() { parseDashed(label) }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func FuzzDashed(f *testing.F) {
	for _, s := range []string{"1-2-3-4", "fd00--1", "--1", "1--0", "fd00-1-2-3-4-5-6-7"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, label string) {
		if addr, ok := parseDashed([]byte(label)); ok && Dashed(addr) != label {
			t.Errorf("%q is read as %v, which is %q", label, addr, Dashed(addr))
		}
	})
}

// TestAddressLikeHostname has an endpoint whose hostname is what another's would be
// made of: the name has the records of both.
func TestAddressLikeHostname(t *testing.T) {
	store := model.NewStore()
	store.Update(func(tx *model.Txn) {
		svc := dnstest.Headless("ns", "web", dnstest.Port("http", corev1.ProtocolTCP, 80))
		model.Services.Put(tx, svc)
		model.EndpointSlices.Put(tx, dnstest.Slice(svc, "x", dnstest.Ready("10.0.0.1", ""), dnstest.Ready("10.0.0.2", "10-0-0-1"), dnstest.Ready("10.0.0.3", "")))
		dnstest.Synced(tx)
	})
	z := plan(t, store, Options{})
	for label, want := range map[string]int{"10-0-0-1": 2, "10-0-0-3": 1, "10-0-0-2": 0, "10-0-0-4": 0} {
		name, err := wire.ParseName(label + ".web.ns.svc.cluster.local")
		if err != nil {
			t.Fatal(err)
		}
		if a := z.Lookup(name, wire.TypeA); a.Count != want {
			t.Errorf("%s: %d records, want %d", label, a.Count, want)
		}
		if a := z.Lookup(name, wire.TypeAAAA); (a.Status == NoData) != (want > 0) {
			t.Errorf("%s AAAA: %v", label, a.Status)
		}
	}
}

// TestEveryEndpointHasItsName looks all of a big store's up, by name and by address.
func TestEveryEndpointHasItsName(t *testing.T) {
	z := plan(t, bigStore(100), Options{Zones: []string{"cluster.local", "x", "a.longer.cluster.local"}})
	for i := range 1000 {
		addr := netip.AddrFrom4([4]byte{20 + byte(i>>24), byte(i >> 16), byte(i >> 8), byte(i)})
		text := fmt.Sprintf("%s.service-%d.ns-%d.svc.cluster.local", Dashed(addr), i/10, i/10%100)
		name, err := wire.ParseName(text)
		if err != nil {
			t.Fatal(err)
		}
		if a := z.Lookup(name, wire.TypeA); a.Status != Success || string(a.Records[wire.Pointer+10:]) != string(addr.AsSlice()) {
			t.Errorf("%s: %+v", text, a)
		}
		if a := z.Lookup(reverseName(addr), wire.TypePTR); a.Status != Success || string(a.Records[wire.Pointer+10:]) != string(name) {
			t.Errorf("%v: %+v, want %s", addr, a, text)
		}
	}
}
