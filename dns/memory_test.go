package dns

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/dns/zone"
	"github.com/sluicenet/sluice/model"
)

func liveHeap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// fillCache puts in answers as they come: a few addresses behind an alias, or an
// SOA record.
func fillCache(t testing.TB, c *cache.Cache, names int) {
	t.Helper()
	for i := range names {
		name, err := wire.ParseName(fmt.Sprintf("host-%d.department-%d.example.com", i, i%100))
		if err != nil {
			t.Fatal(err)
		}
		msg := wire.AppendQuery(nil, 0, wire.FlagQR, name, wire.TypeA, false, false)
		for j := range 4 {
			msg = wire.AppendPacked(msg, wire.TypeA, 300, []byte{192, 0, byte(i), byte(j)})
		}
		msg[7] = 4
		r, err := wire.ParseResponse(msg, name, wire.TypeA)
		if err != nil {
			t.Fatal(err)
		}
		var q wire.Query
		q.Parse(wire.AppendQuery(nil, 0, 0, name, wire.TypeA, true, false), false)
		c.Put(cache.AppendKey(nil, q.Name, &q), r, netip.AddrPort{}, time.Now())
	}
}

// TestCacheCountsItsMemory proves that the octets that are counted are those that
// are taken.
func TestCacheCountsItsMemory(t *testing.T) {
	c := cache.New(cache.Options{})
	before := liveHeap()
	fillCache(t, c, 10_000)
	took := liveHeap() - before
	s := c.Stats()
	t.Logf("10,000 names: %d octets, %d counted", took, s.Bytes)
	if s.Items != 10_000 || took > s.Bytes*5/4 || took < s.Bytes*2/3 || took > 8<<20 {
		t.Errorf("%+v, took %d octets", s, took)
	}
	runtime.KeepAlive(c)
}

// TestMemory has 10,000 Services with 100,000 endpoints and a full cache.
func TestMemory(t *testing.T) {
	start := liveHeap()
	store := model.NewStore()
	store.Update(func(tx *model.Txn) {
		for i := range 10_000 {
			ip := netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})
			svc := dnstest.Service(fmt.Sprintf("ns-%d", i%100), fmt.Sprintf("service-%d", i), []netip.Addr{ip}, dnstest.Port("http", corev1.ProtocolTCP, 80))
			model.Services.Put(tx, svc)
			var eps []model.Endpoint
			for j := range 10 {
				n := i*10 + j
				eps = append(eps, model.Endpoint{Addr: netip.AddrFrom4([4]byte{20, byte(n >> 16), byte(n >> 8), byte(n)}), Ready: true, Serving: true})
			}
			model.EndpointSlices.Put(tx, dnstest.Slice(svc, "x", eps...))
		}
		dnstest.Synced(tx)
	})
	afterModel := liveHeap()
	p, err := zone.NewPlanner(zone.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := store.Watch()
	defer w.Stop()
	u, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.Update(u)
	u = model.Update{} //nolint:ineffassign // so that the collector may take what it holds
	afterZone := liveHeap()
	c := cache.New(cache.Options{})
	fillCache(t, c, 10_000)
	end := liveHeap()
	t.Logf("model %.1f MiB, zone %.1f MiB, cache %.1f MiB", mib(afterModel-start), mib(afterZone-afterModel), mib(end-afterZone))
	if got := afterModel - start; got > 32<<20 {
		t.Errorf("model takes %.1f MiB", mib(got))
	}
	if got := afterZone - afterModel; got > 15<<20 {
		t.Errorf("zone takes %.1f MiB", mib(got))
	}
	runtime.KeepAlive(store)
	runtime.KeepAlive(p)
	runtime.KeepAlive(c)
}

func mib(n int) float64 { return float64(n) / (1 << 20) }
