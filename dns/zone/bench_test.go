package zone

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/model"
)

// bigStore has as many Services as told, with ten endpoints each.
func bigStore(services int) *model.Store {
	store := model.NewStore()
	store.Update(func(tx *model.Txn) {
		for i := range services {
			svc := bigService(i)
			model.Services.Put(tx, svc)
			model.EndpointSlices.Put(tx, bigSlice(svc, i, 0))
		}
		dnstest.Synced(tx)
	})
	return store
}

func bigService(i int) *model.Service {
	ip := netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})
	return dnstest.Service(fmt.Sprintf("ns-%d", i%100), fmt.Sprintf("service-%d", i), []netip.Addr{ip}, dnstest.Port("http", corev1.ProtocolTCP, 80))
}

func bigSlice(svc *model.Service, i, generation int) *model.EndpointSlice {
	var eps []model.Endpoint
	for j := range 10 {
		n := i*10 + j
		if j == 0 {
			n += generation % 2 << 22
		}
		addr := netip.AddrFrom4([4]byte{20 + byte(n>>24), byte(n >> 16), byte(n >> 8), byte(n)})
		eps = append(eps, model.Endpoint{Addr: addr, Ready: true})
	}
	return dnstest.Slice(svc, "x", eps...)
}

// BenchmarkUpdate replaces one endpoint of one Service among few and many.
func BenchmarkUpdate(b *testing.B) {
	for _, services := range []int{400, 40_000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			store := bigStore(services)
			w := store.Watch()
			defer w.Stop()
			p, err := NewPlanner(Options{})
			if err != nil {
				b.Fatal(err)
			}
			u, err := w.Next(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			p.Update(u)
			svc := bigService(7)
			b.ReportAllocs()
			generation := 0
			for b.Loop() {
				b.StopTimer()
				generation++
				store.Update(func(tx *model.Txn) { model.EndpointSlices.Put(tx, bigSlice(svc, 7, generation)) })
				if u, err = w.Next(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				p.Update(u)
			}
		})
	}
}

// BenchmarkBuild plans a zone from nothing, and says what it keeps in memory.
func BenchmarkBuild(b *testing.B) {
	store := bigStore(40_000)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var z *Zone
	for b.Loop() {
		z = plan(b, store, Options{})
	}
	b.ReportMetric(float64(heap()-before)/(1<<20), "MiB-kept")
	b.ReportMetric(float64(z.Len()), "names")
}
