package dns

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// queryDescs are what the counts of queries are called: there are names of ours and
// those of CoreDNS, whose labels are the same but for those that come first.
type queryDescs struct {
	requests, taken, querySizes, answerSizes, secure *prometheus.Desc
}

// collectQueries writes what is counted of every query. The zone of names that are
// not the cluster's is the root.
func (s *Server) collectQueries(ch chan<- prometheus.Metric, d *queryDescs, first ...string) {
	labels := func(zone string, more ...string) []string {
		if len(first) == 0 {
			return append([]string{zone}, more...)
		}
		return append([]string{first[0], zone, ""}, more...) // CoreDNS' view
	}
	for part, zone := range []string{s.planner.Apex(), "."} {
		for p, proto := range []string{"udp", "tcp"} {
			for f, family := range []string{"1", "2"} {
				for t := range types {
					if v := s.metrics.sum(func(c *counters) *atomic.Uint64 { return &c.requests[p][f][part][t] }); v > 0 {
						ch <- prometheus.MustNewConstMetric(d.requests, prometheus.CounterValue, v, labels(zone, proto, family, types[t].name)...)
					}
				}
			}
			s.collectSizes(ch, d.querySizes, func(c *counters) *sizes { return &c.queries[p][part] }, labels(zone, proto)...)
			s.collectSizes(ch, d.answerSizes, func(c *counters) *sizes { return &c.answers[p][part] }, labels(zone, proto)...)
		}
		buckets, count, sum := s.metrics.durations(part)
		ch <- prometheus.MustNewConstHistogram(d.taken, count, sum, buckets, labels(zone)...)
		secure := s.metrics.sum(func(c *counters) *atomic.Uint64 { return &c.secure[part] })
		ch <- prometheus.MustNewConstMetric(d.secure, prometheus.CounterValue, secure, labels(zone)...)
	}
}
