package model

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const (
	fullServices = 40_000
	endpoints    = 10
)

// cluster fills a store with Services of ten endpoints each, as a source
// would: repeated strings are shared, names are not.
func cluster(services int) *Store {
	s := NewStore()
	nodes := make([]string, 500)
	for i := range nodes {
		nodes[i] = fmt.Sprintf("node-%03d.example.com", i)
	}
	zones := []string{"zone-a", "zone-b", "zone-c"}
	s.Update(func(tx *Txn) {
		for i := range services {
			ns, name := fmt.Sprintf("team-%03d", i%200), fmt.Sprintf("service-%05d", i)
			addr := netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})
			Services.Put(tx, &Service{
				Meta: Meta{Namespace: ns, Name: name, UID: fmt.Sprintf("%08x-0000-4000-8000-000000000000", i), Labels: map[string]string{"app": name}},
				Type: corev1.ServiceTypeClusterIP, ClusterIPs: []netip.Addr{addr}, Families: []corev1.IPFamily{corev1.IPv4Protocol},
				Ports:    []ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: "8080"}},
				Selector: "app=" + name,
			})
			slice := &EndpointSlice{
				Meta:    Meta{Namespace: ns, Name: name + "-abcde", UID: fmt.Sprintf("%08x-0000-4000-9000-000000000000", i)},
				Service: name, Weight: 1, Ports: []EndpointPort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 8080}},
			}
			for j := range endpoints {
				n := i*endpoints + j
				slice.Endpoints = append(slice.Endpoints, Endpoint{
					Addr: netip.AddrFrom4([4]byte{10, byte(128 + n>>16), byte(n >> 8), byte(n)}), Node: nodes[n%len(nodes)], Zone: zones[n%3],
					Pod: fmt.Sprintf("service-%05d-5d8f9c7b6d-%05d", i, j), Ready: true, Serving: true,
				})
			}
			slice.Endpoints = slices.Clip(slice.Endpoints)
			EndpointSlices.Put(tx, slice)
		}
	})
	return s
}

// sliceNames are the names of the slices of a cluster.
func sliceNames(services int) []Name {
	names := make([]Name, services)
	for i := range names {
		names[i] = Name{fmt.Sprintf("team-%03d", i%200), fmt.Sprintf("service-%05d-abcde", i)}
	}
	return names
}

// oneEndpoint replaces one endpoint of one Service's slice, and has a watcher
// see it.
func oneEndpoint(s *Store, w *Watcher, n int, names []Name) error {
	at := names[n%len(names)]
	old, ok := EndpointSlices.Get(s.Snapshot(), at.Namespace, at.Name)
	if !ok {
		return fmt.Errorf("no slice %v", at)
	}
	next := *old
	next.Endpoints = slices.Clone(old.Endpoints)
	next.Endpoints[n%endpoints].Ready = !next.Endpoints[n%endpoints].Ready
	s.Update(func(tx *Txn) { EndpointSlices.Put(tx, &next) })
	up, err := w.Next(context.Background())
	if err == nil && len(up.Changed) != 1 {
		err = fmt.Errorf("%d changes", len(up.Changed))
	}
	return err
}

// BenchmarkOneEndpoint is the time and memory from a new slice to a watcher
// that knows of it, among 40,000 Services × 10 endpoints. The bound is 20 µs
// and 10 kB.
func BenchmarkOneEndpoint(b *testing.B) {
	for _, services := range []int{1000, fullServices} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			s := cluster(services)
			w := s.Watch()
			defer w.Stop()
			if _, err := w.Next(context.Background()); err != nil {
				b.Fatal(err)
			}
			n, names := 0, sliceNames(services)
			b.ReportAllocs()
			for b.Loop() {
				n += 7919
				if err := oneEndpoint(s, w, n, names); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHeap reports what the whole model of 40,000 Services × 10 endpoints
// takes. The bound is 150 MiB.
func BenchmarkHeap(b *testing.B) {
	var s *Store
	size := heapOf(func() any { s = cluster(fullServices); return s })
	for b.Loop() {
		runtime.KeepAlive(s)
	}
	b.ReportMetric(float64(size)/(1<<20), "MiB")
}

// heapOf returns how many bytes of the heap what make returns holds on to.
func heapOf(build func() any) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&before)
	v := build()
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(v)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// TestUpdateAllocates guards the memory of an update. It grows with the depth
// of the tree, by a node or two from here to the full size.
func TestUpdateAllocates(t *testing.T) {
	const services = 10_000
	s := cluster(services)
	w := s.Watch()
	defer w.Stop()
	if _, err := w.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, names := 0, sliceNames(services)
	update := func() {
		n += 7919
		if err := oneEndpoint(s, w, n, names); err != nil {
			t.Fatal(err)
		}
	}
	const runs = 1000
	if allocs := testing.AllocsPerRun(runs, update); allocs > 70 {
		t.Errorf("%.0f allocations an update", allocs)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		update()
	}
	runtime.ReadMemStats(&after)
	if bytes := (after.TotalAlloc - before.TotalAlloc) / runs; bytes > 10_000 {
		t.Errorf("%d bytes an update", bytes)
	}
}

// TestHeap guards the size of the whole, at a tenth of it.
func TestHeap(t *testing.T) {
	size := heapOf(func() any { return cluster(fullServices / 10) })
	if full := size * 10; full > 150<<20 {
		t.Errorf("%d MiB for %d Services", full>>20, fullServices)
	} else {
		t.Logf("%d MiB for %d Services", full>>20, fullServices)
	}
}
