package dns

import (
	"runtime"
	"runtime/debug"
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

// countSizes counts a query and its answer.
func (w *worker) countSizes(query, answer int) {
	proto, zone := index(w.stream), index(w.source != sourceZone)
	w.coredns.queries[proto][zone].observe(query)
	w.coredns.answers[proto][zone].observe(answer)
	if w.query.DO {
		w.coredns.secure[zone].Add(1)
	}
}

// collectSizes writes the sizes of messages.
func (s *Server) collectSizes(ch chan<- prometheus.Metric, server, cluster string) {
	histogram := func(d *prometheus.Desc, of func(*corednsCounters) *sizes, labels ...string) {
		get := func(value func(*sizes) *atomic.Uint64) float64 {
			return s.metrics.sum(func(c *counters) *atomic.Uint64 { return value(of(c.coredns)) })
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
	for z, zone := range []string{cluster, "."} {
		for p, proto := range []string{"udp", "tcp"} {
			histogram(corednsQuerySizes, func(c *corednsCounters) *sizes { return &c.queries[p][z] }, server, zone, "", proto)
			histogram(corednsAnswerSizes, func(c *corednsCounters) *sizes { return &c.answers[p][z] }, server, zone, "", proto)
		}
		do := s.metrics.sum(func(c *counters) *atomic.Uint64 { return &c.coredns.secure[z] })
		ch <- prometheus.MustNewConstMetric(corednsDO, prometheus.CounterValue, do, server, zone, "")
	}
}

// collectSetup writes what the server is made of.
func (s *Server) collectSetup(ch chan<- prometheus.Metric, server, cluster string) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ch <- prometheus.MustNewConstMetric(corednsPanics, prometheus.CounterValue, 0)
	gauge(corednsBuild, 1, s.Tap.Version, revision(), runtime.Version())
	for _, p := range []struct {
		name string
		has  bool
		zone string
	}{
		{"kubernetes", true, cluster}, {"autopath", s.Autopath, cluster},
		{"forward", len(s.forward.Zones) > 0, "."}, {"cache", len(s.forward.Zones) > 0, "."}, {"loop", len(s.forward.Zones) > 0, "."},
		{"hosts", s.hasHosts(), "."}, {"rewrite", len(s.rewrites) > 0, "."}, {"tls", s.certificate != nil, "."},
		{"dnstap", s.tap != nil, "."}, {"log", s.sampler != nil, "."}, {"prometheus", true, "."}, {"prometheus", true, cluster},
	} {
		if p.has {
			gauge(corednsPlugin, 1, server, p.zone, "", p.name)
		}
	}
	if s.hasHosts() {
		gauge(corednsHosts, float64(s.hosts.Load().Records()), s.Hosts.File)
	}
}

func (s *Server) hasHosts() bool { return len(s.Hosts.Entries) > 0 || s.Hosts.File != "" }

// revision returns the commit that the program was built from, if it knows.
func revision() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.revision" {
				return setting.Value
			}
		}
	}
	return ""
}
