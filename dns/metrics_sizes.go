package dns

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// sizeBounds are the upper bounds of sizes, in octets, as CoreDNS has them.
var sizeBounds = [...]float64{0, 100, 200, 300, 400, 511, 1023, 2047, 4095, 8291, 16e3, 32e3, 48e3, 64e3}

// sizes counts messages by their size. A loop has its own.
type sizes struct {
	buckets [len(sizeBounds) + 1]atomic.Uint64
	sum     atomic.Uint64
}

func (s *sizes) observe(n int) {
	i, size := 0, float64(n)
	for i < len(sizeBounds) && size > sizeBounds[i] {
		i++
	}
	s.buckets[i].Add(1)
	s.sum.Add(uint64(n))
}

// collectSizes writes the sizes that all loops have counted.
func (s *Server) collectSizes(ch chan<- prometheus.Metric, d *prometheus.Desc, of func(*counters) *sizes, labels ...string) {
	get := func(value func(*sizes) *atomic.Uint64) float64 {
		return s.metrics.sum(func(c *counters) *atomic.Uint64 { return value(of(c)) })
	}
	buckets, count := map[float64]uint64{}, uint64(0)
	for i := range len(sizeBounds) + 1 {
		count += uint64(get(func(z *sizes) *atomic.Uint64 { return &z.buckets[i] }))
		if i < len(sizeBounds) {
			buckets[sizeBounds[i]] = count
		}
	}
	if count > 0 {
		sum := get(func(z *sizes) *atomic.Uint64 { return &z.sum })
		ch <- prometheus.MustNewConstHistogram(d, count, sum, buckets, labels...)
	}
}
