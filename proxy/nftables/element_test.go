package nftables

import (
	"net/netip"
	"testing"

	"github.com/sluicenet/sluice/proxy"
)

func FuzzParseElements(f *testing.F) {
	m := &batch{table: tableName}
	at := place{proxy.IPv4, setServices}
	putElements(m, at, []element{{at, "0123456789ab", "service-cluster-3"}, {at, "0123456789ac", verdictDrop}}, false)
	for msg := range m.All() {
		f.Add(msg.Body)
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		if len(b) < 4 {
			return
		}
		parseElements(at, b, func(seen) {})
	})
}

func TestAssign(t *testing.T) {
	backends := func(list ...string) (out []proxy.Backend) {
		for _, s := range list {
			out = append(out, proxy.Backend{AddrPort: netip.MustParseAddrPort(s), Weight: 1})
		}
		return out
	}
	const a, b, c, d = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"
	have := backends(a, b, c)
	table := slotTable(nil).assign(nil, have)
	for _, step := range []struct {
		to   []proxy.Backend
		same int // slots that stay
	}{
		{backends(a, c, d), 2},
		{backends(c, d), 1},
		{backends(a, b, c, d), 2},
		{nil, 0},
	} {
		next := table.assign(have, step.to)
		same := 0
		for i := range min(len(table), len(next)) {
			if have[table[i]].AddrPort == step.to[next[i]].AddrPort {
				same++
			}
		}
		if len(next) != len(step.to) || same < step.same {
			t.Errorf("from %v to %v: %d slots stay, want %d", table, next, same, step.same)
		}
		table, have = next, step.to
	}
}

func TestOutermost(t *testing.T) {
	p := netip.MustParsePrefix
	got := outermost([]netip.Prefix{p("10.0.0.0/8"), p("10.1.0.0/16"), p("192.0.2.0/24"), p("10.0.0.0/8")})
	if len(got) != 2 || got[0] != p("10.0.0.0/8") || got[1] != p("192.0.2.0/24") {
		t.Errorf("got %v", got)
	}
	if first, last := bounds(p("192.0.2.64/26")); first.String() != "192.0.2.64" || last.String() != "192.0.2.127" {
		t.Errorf("bounds are %s and %s", first, last)
	}
}
