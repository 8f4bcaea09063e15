package delta

import (
	"fmt"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// sized connects a client without a stream to a group of n scopes of as many
// clusters.
func sized(tb testing.TB, n int) (*Server, *client) {
	s := NewServer(Options{})
	changes := []Change{Set("g", res(listener("l"), "1"))}
	for i := range n {
		name := fmt.Sprintf("c%d", i)
		changes = append(changes, cl(name, "1")...)
		changes = append(changes, sc(fmt.Sprintf("h%d.example.com", i), "1", name))
	}
	s.Apply(changes)
	c := s.connect(&core.Node{Id: "n"}, []string{"g"})
	answer(c, &discovery.DeltaDiscoveryRequest{TypeUrl: ClusterType})
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("c%d", i))
	}
	for _, req := range []*discovery.DeltaDiscoveryRequest{
		{TypeUrl: EndpointsType, ResourceNamesSubscribe: names}, {TypeUrl: ListenerType}, {TypeUrl: ScopedRouteType},
	} {
		answer(c, req)
	}
	if p := s.Progress("g"); p.Current != 1 {
		tb.Fatalf("progress %+v", p)
	}
	return s, c
}

// answer makes steps and acknowledges all, until there is nothing to send.
func answer(c *client, req *discovery.DeltaDiscoveryRequest) {
	now := time.Now()
	ack := &discovery.DeltaDiscoveryRequest{}
	for {
		r, _ := c.step(req, now)
		if r == nil {
			return
		}
		ack.TypeUrl, ack.ResponseNonce = r.TypeUrl, r.Nonce
		req = ack
	}
}

// One change among 3,000 clusters and hosts, sent and acknowledged.
func TestAllocations(t *testing.T) {
	s, c := sized(t, 3000)
	i := 0
	change := []Change{{}}
	for _, tc := range []struct {
		name  string
		limit float64
		make  func() Change
	}{
		{"endpoints", 20, func() Change { return Set("g", res(endpoints("c7"), fmt.Sprint(i))) }},
		{"route", 25, func() Change { return sc("h7.example.com", fmt.Sprint(i), "c7") }},
	} {
		allocs := testing.AllocsPerRun(200, func() {
			i++
			change[0] = tc.make()
			s.Apply(change)
			answer(c, nil)
		})
		t.Logf("%s: %v allocations", tc.name, allocs)
		if allocs > tc.limit {
			t.Errorf("%s: %v allocations, more than %v", tc.name, allocs, tc.limit)
		}
	}
}

func BenchmarkChange(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			s, c := sized(b, n)
			b.ReportAllocs()
			i := 1
			for b.Loop() {
				i++
				s.Apply([]Change{sc("h7.example.com", fmt.Sprint(i), "c7")})
				answer(c, nil)
			}
		})
		b.Run(fmt.Sprintf("clusters=%d", n), func(b *testing.B) {
			s, c := sized(b, n)
			b.ReportAllocs()
			i := 1
			for b.Loop() {
				i++
				s.Apply(cl("c7", fmt.Sprint(i)))
				answer(c, nil)
			}
		})
	}
}

// BenchmarkStart is what a proxy that connects costs.
func BenchmarkStart(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, c := sized(b, n)
			s.disconnect(c)
			b.ReportAllocs()
			for b.Loop() {
				c := s.connect(&core.Node{Id: "n"}, []string{"g"})
				for _, url := range []string{ClusterType, ListenerType, ScopedRouteType} {
					answer(c, &discovery.DeltaDiscoveryRequest{TypeUrl: url})
				}
				s.disconnect(c)
			}
		})
	}
}
