package intercept

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

var update = flag.Bool("update", false, "write the golden files")

func planOf(t *testing.T, local []netip.Addr, put func(*model.Txn)) Plan {
	t.Helper()
	store := model.NewStore()
	store.Update(func(tx *model.Txn) { put(tx) })
	return MakePlan(Config{Addresses: []netip.Addr{link4, link6}, Service: model.Name{Namespace: "kube-system", Name: "kube-dns"}, Node: "node1"}, store.Snapshot(), local)
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// TestPlans compares plans with what is written down.
func TestPlans(t *testing.T) {
	local := addrs("10.240.0.11", "fd00:10:240::11")
	for name, put := range map[string]func(*model.Txn){
		"no-service":   func(*model.Txn) {},
		"no-endpoints": func(tx *model.Txn) { putDNSService(tx, nil) },
		"endpoints":    func(tx *model.Txn) { putDNSService(tx, addrs("10.244.2.10", "10.244.1.7", "fd00:10:244:2::a")) },
		"this-node-too": func(tx *model.Txn) {
			putDNSService(tx, addrs("10.240.0.11", "10.240.0.12", "fd00:10:240::11"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := planOf(t, local, put).String()
			file := filepath.Join("testdata", name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestFewEndpoints proves that a node uses a part of very many endpoints, and that
// one that goes changes at most one of them.
func TestFewEndpoints(t *testing.T) {
	var all []netip.Addr
	for a := netip.MustParseAddr("10.244.0.1"); len(all) < 1000; a = a.Next() {
		all = append(all, a)
	}
	udp := func(of []netip.Addr) []netip.AddrPort {
		return planOf(t, nil, func(tx *model.Txn) { putDNSService(tx, of) }).Families[0].UDP
	}
	before := udp(all)
	if len(before) != maxEndpoints {
		t.Fatalf("%d endpoints, want %d", len(before), maxEndpoints)
	}
	for gone := 0; gone < len(all); gone += 7 {
		after := udp(append(append([]netip.Addr{}, all[:gone]...), all[gone+1:]...))
		same := 0
		for _, a := range after {
			for _, b := range before {
				if a == b {
					same++
				}
			}
		}
		if len(after) != maxEndpoints || same < maxEndpoints-1 {
			t.Fatalf("without %v: %v, before %v", all[gone], after, before)
		}
	}
}

// TestSeats proves that all addresses of all seats differ and are internal ones.
func TestSeats(t *testing.T) {
	seen := map[netip.Addr]bool{}
	for _, f := range both {
		for seat := range seats {
			for slot := range seatSize {
				a := address(f, seat, slot)
				got, ok := seatOf(a)
				if seen[a] || !ok || got != seat {
					t.Errorf("%v of seat %d: seen %v, seat %d %v", a, seat, seen[a], got, ok)
				}
				seen[a] = true
			}
		}
	}
}

// TestUnsupported proves that a kernel without the means is told of with a remedy.
func TestUnsupported(t *testing.T) {
	for _, err := range []error{unix.EPERM, unix.EPROTONOSUPPORT, &batchError{"add table sluice-dns", unix.EOPNOTSUPP}} {
		var u *proxy.UnsupportedError
		if got := unsupported(err); !errors.As(got, &u) || u.Remedy == "" || !errors.Is(got, err) {
			t.Errorf("%v: %v", err, got)
		}
	}
	if err := unsupported(unix.ENOBUFS); !errors.Is(err, unix.ENOBUFS) || strings.Contains(err.Error(), "interception") {
		t.Error(err)
	}
}
