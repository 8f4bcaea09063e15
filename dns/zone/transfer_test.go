package zone

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

// TestTransfer proves that a transfer holds each record of its zone once, between two
// SOA records, and none of another zone, also where one zone is within the other.
func TestTransfer(t *testing.T) {
	z := plan(t, dnstest.Cluster(), Options{Zones: []string{"cluster.local", "sub.cluster.local"}, Pods: PodsVerified, Nameservers: dnstest.Addrs("10.96.0.10", "169.254.20.10"), Node: "here"})
	whole := strings.Split(strings.TrimSpace(z.String()), "\n")
	for _, apex := range []string{"cluster.local.", "sub.cluster.local."} {
		var want []string
		for _, line := range whole {
			name, _, _ := strings.Cut(line, "\t")
			inSub := strings.HasSuffix(name, "sub.cluster.local.")
			if strings.HasSuffix(name, "cluster.local.") && !strings.HasPrefix(line, ";") && inSub == (apex == "sub.cluster.local.") {
				want = append(want, line)
				if strings.Contains(line, "\tSOA\t") {
					want = append(want, line)
				}
			}
		}
		wired, err := wire.ParseName(apex)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for name, records := range z.Transfer(wired) {
			if err := writeRecords(&b, name, records); err != nil {
				t.Fatal(err)
			}
		}
		got := strings.Split(strings.TrimSpace(b.String()), "\n")
		if len(got) < 300 || !strings.Contains(got[0], "\tSOA\t") || !strings.Contains(got[1], "\tNS\t") || got[len(got)-1] != got[0] {
			t.Errorf("%s: %d records, from %q, %q to %q", apex, len(got), got[0], got[1], got[len(got)-1])
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the zone (-) and its transfer (+):\n%s", apex, diff)
		}
		for name := range z.Transfer(wired) {
			if !wire.InZone(name, wired) {
				t.Errorf("%s in %s", wire.NameString(name), apex)
			}
			break // a client that goes away
		}
	}
	for name, want := range map[string]bool{"cluster.local": true, "sub.cluster.local": true, "svc.cluster.local": false, "local": false, "in-addr.arpa": false, ".": false} {
		wired, err := wire.ParseName(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := z.IsApex(wired); got != want {
			t.Errorf("%s is a zone: %v", name, got)
		}
	}
}

// TestTransferSnapshot proves that a transfer is of one zone, also where the next one
// is planned meanwhile.
func TestTransferSnapshot(t *testing.T) {
	store := dnstest.Cluster()
	p, err := NewPlanner(Options{})
	if err != nil {
		t.Fatal(err)
	}
	watch := store.Watch()
	defer watch.Stop()
	step := func() {
		u, err := watch.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p.Update(u)
	}
	step()
	z := p.Zone()
	apex := z.apexes[0].name
	transfer := func(halfway func()) string {
		var b strings.Builder
		n := 0
		for name, records := range z.Transfer(apex) {
			if n++; n == 20 {
				halfway()
			}
			if err := writeRecords(&b, name, records); err != nil {
				t.Fatal(err)
			}
		}
		return b.String()
	}
	want := transfer(func() {})
	got := transfer(func() {
		store.Update(func(tx *model.Txn) {
			for _, kind := range []model.KindID{model.KindService, model.KindEndpointSlice} {
				for key := range store.Snapshot().Keys(kind) {
					tx.Delete(key)
				}
			}
		})
		step()
		if len(p.Zone().String()) > len(want)/10 {
			t.Error("the next zone is not another")
		}
	})
	if got != want {
		t.Error(cmp.Diff(want, got))
	}
}
