package forward

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Bounds are the upper bounds of [Times], in seconds.
var Bounds = [...]float64{0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192}

// Times counts how long something took.
type Times struct {
	buckets [len(Bounds) + 1]atomic.Uint64
	sum     atomic.Int64 // nanoseconds
}

// Observe counts one.
func (t *Times) Observe(d time.Duration) { t.ObserveN(d, 1) }

// ObserveN counts n that took as long.
func (t *Times) ObserveN(d time.Duration, n uint64) {
	if n == 0 {
		return
	}
	i, s := 0, d.Seconds()
	for i < len(Bounds) && s > Bounds[i] {
		i++
	}
	t.buckets[i].Add(n)
	t.sum.Add(int64(d) * int64(n))
}

// Read returns how many took at most as long as each of the bounds, how many there
// are, and the sum in seconds.
func (t *Times) Read() (buckets map[float64]uint64, count uint64, sum float64) {
	buckets = make(map[float64]uint64, len(Bounds))
	for i := range t.buckets {
		count += t.buckets[i].Load()
		if i < len(Bounds) {
			buckets[Bounds[i]] = count
		}
	}
	return buckets, count, time.Duration(t.sum.Load()).Seconds()
}

// ReadAll is [Times.Read] for several together.
func ReadAll(all []*Times) (buckets map[float64]uint64, count uint64, sum float64) {
	buckets = make(map[float64]uint64, len(Bounds))
	for _, t := range all {
		b, n, s := t.Read()
		for bound, v := range b {
			buckets[bound] += v
		}
		count, sum = count+n, sum+s
	}
	return buckets, count, sum
}

// Codes is how many response codes [CodeTimes] tells apart: those of RFC 1035 §4.1.1,
// and at last all others.
const Codes = 7

// CodeTimes counts how long answers took, by their response code.
type CodeTimes [Codes]Times

// Observe counts one.
func (t *CodeTimes) Observe(rcode uint16, d time.Duration) { t[min(rcode, Codes-1)].Observe(d) }

// Read is [Times.Read] for all codes.
func (t *CodeTimes) Read() (buckets map[float64]uint64, count uint64, sum float64) {
	all := make([]*Times, 0, len(t))
	for i := range t {
		all = append(all, &t[i])
	}
	return ReadAll(all)
}

// UpstreamStats are counts of one server's life.
type UpstreamStats struct {
	Server       Server
	Requests     uint64
	Failures     uint64 // questions that it did not answer
	Broken       uint64 // times that it began to be left out
	FailedProbes uint64 // while it was
	Healthy      bool   // not left out
	Looped       bool
	Connections  int
	Times        *CodeTimes
}

// Stats returns the counts of every server.
func (f *Forwarder) Stats() []UpstreamStats {
	upstreams := f.table.Load().upstreams
	stats := make([]UpstreamStats, 0, len(upstreams))
	for _, u := range upstreams {
		stats = append(stats, UpstreamStats{
			Server: u.Server, Requests: u.requests.Load(), Failures: u.failures.Load(), Broken: u.broken.Load(),
			FailedProbes: u.probes.Load(), Healthy: !u.down.Load(), Looped: u.looped.Load(),
			Connections: u.streams.count(), Times: &u.times,
		})
	}
	slices.SortFunc(stats, func(a, b UpstreamStats) int {
		if c := a.Server.Addr.Compare(b.Server.Addr); c != 0 {
			return c
		}
		return strings.Compare(a.Server.String(), b.Server.String())
	})
	return stats
}

// Broken returns how many questions were asked while no server for them was up.
func (f *Forwarder) Broken() uint64 { return f.broken.Load() }

// Busy returns how many questions were not asked because too many were under way.
func (f *Forwarder) Busy() uint64 { return f.busy.Load() }
