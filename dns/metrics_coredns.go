package dns

import (
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

func corednsDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("coredns_"+name, help, labels, nil)
}

// The names and labels of CoreDNS 1.13, as its dashboards read them. Where CoreDNS
// tells server blocks apart the label server is the first address listened on.
var (
	corednsRequests     = corednsDesc("dns_requests_total", "Queries received.", "server", "zone", "view", "proto", "family", "type")
	corednsResponses    = corednsDesc("dns_responses_total", "Answers given.", "server", "zone", "view", "rcode", "plugin")
	corednsEntries      = corednsDesc("cache_entries", "Answers in the cache.", "server", "type", "zones", "view")
	corednsHits         = corednsDesc("cache_hits_total", "Queries that the cache answered.", "server", "type", "zones", "view")
	corednsMisses       = corednsDesc("cache_misses_total", "Queries that the cache could not answer.", "server", "zones", "view")
	corednsCacheQueries = corednsDesc("cache_requests_total", "Queries that the cache was asked.", "server", "zones", "view")
	corednsPrefetch     = corednsDesc("cache_prefetch_total", "Answers asked for again before they expired.", "server", "zones", "view")
	corednsStale        = corednsDesc("cache_served_stale_total", "Queries that an expired answer was given to.", "server", "zones", "view")
	corednsEvictions    = corednsDesc("cache_evictions_total", "Answers that made room for others.", "server", "type", "zones", "view")
	corednsDurations    = corednsDesc("proxy_request_duration_seconds", "Time that upstreams took.", "proxy_name", "to", "rcode")
	corednsForwarded    = corednsDesc("forward_requests_total", "Queries sent to an upstream.", "to")
	corednsUnhealthy    = corednsDesc("proxy_healthcheck_failures_total", "Failed health checks of an upstream.", "proxy_name", "to")
	corednsOldUnhealthy = corednsDesc("forward_healthcheck_failures_total", "Failed health checks of an upstream.", "to")
	corednsBroken       = corednsDesc("forward_healthcheck_broken_total", "Queries for which every upstream was down.")
	corednsRejected     = corednsDesc("forward_max_concurrent_rejects_total", "Queries given up because too many were under way.")
	corednsTaken        = corednsDesc("dns_request_duration_seconds", "Time that queries took to be answered.", "server", "zone", "view")
	corednsQuerySizes   = corednsDesc("dns_request_size_bytes", "Sizes of queries.", "server", "zone", "view", "proto")
	corednsAnswerSizes  = corednsDesc("dns_response_size_bytes", "Sizes of answers.", "server", "zone", "view", "proto")
	corednsDO           = corednsDesc("dns_do_requests_total", "Queries that ask for DNSSEC records.", "server", "zone", "view")
	corednsPanics       = corednsDesc("panics_total", "Panics that were survived, which is none: one ends the process.")
	corednsBuild        = corednsDesc("build_info", "1, with what the server was built from as labels.", "version", "revision", "goversion")
	corednsPlugin       = corednsDesc("plugin_enabled", "1 for each of CoreDNS' plugins whose work the server does.", "server", "zone", "view", "name")
	corednsHosts        = corednsDesc("hosts_entries", "Records of the entries of hosts.", "hostsfile")
)

func describeCoreDNS(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		corednsRequests, corednsResponses, corednsEntries, corednsHits, corednsMisses, corednsCacheQueries,
		corednsPrefetch, corednsStale, corednsEvictions, corednsDurations, corednsForwarded, corednsUnhealthy,
		corednsOldUnhealthy, corednsBroken, corednsRejected, corednsTaken, corednsQuerySizes, corednsAnswerSizes,
		corednsDO, corednsPanics, corednsBuild, corednsPlugin, corednsHosts,
	} {
		ch <- d
	}
}

// corednsPlugins are who answered, by where the answer came from.
var corednsPlugins = [sourceCount]string{"kubernetes", "cache", "forward", "", "hosts", "cache"}

// collectCoreDNS writes what is counted anyway under CoreDNS' names.
func (s *Server) collectCoreDNS(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	m := s.metrics
	server := "dns://" + s.Addrs()[0].String()
	cluster := s.planner.Apex()
	sum := func(of func(*counters) *atomic.Uint64) float64 { return m.sum(of) }
	s.collectQueries(ch, &queryDescs{corednsRequests, corednsTaken, corednsQuerySizes, corednsAnswerSizes, corednsDO}, server)
	for i, plugin := range corednsPlugins {
		if slices.Index(corednsPlugins[:], plugin) < i {
			continue // counted with the first of its name
		}
		zone := "."
		if i == sourceZone {
			zone = cluster
		}
		for r, rcode := range rcodes {
			v := 0.0
			for j := range corednsPlugins {
				if corednsPlugins[j] == plugin {
					v += sum(func(c *counters) *atomic.Uint64 { return &c.responses[j][r] })
				}
			}
			if v > 0 {
				counter(corednsResponses, v, server, zone, "", rcode, plugin)
			}
		}
	}
	stats := s.cache.Stats()
	for i, n := range []int{stats.Items - stats.Denials, stats.Denials} {
		ch <- prometheus.MustNewConstMetric(corednsEntries, prometheus.GaugeValue, float64(n), server, hits[i], ".", "")
	}
	counter(corednsEvictions, float64(stats.Evictions), server, "success", ".", "")
	for z, zone := range s.zoneNames() {
		of := func(get func(*zoneCounters) *atomic.Uint64) float64 {
			return sum(func(c *counters) *atomic.Uint64 { return get(c.zone(z)) })
		}
		success := of(func(c *zoneCounters) *atomic.Uint64 { return &c.hits[hitSuccess] })
		denial := of(func(c *zoneCounters) *atomic.Uint64 { return &c.hits[hitDenial] })
		stale := of(func(c *zoneCounters) *atomic.Uint64 { return &c.hits[hitStale] })
		missed := of(func(c *zoneCounters) *atomic.Uint64 { return &c.misses })
		counter(corednsHits, success+stale, server, "success", zone, "")
		counter(corednsHits, denial, server, "denial", zone, "")
		counter(corednsStale, stale, server, zone, "")
		counter(corednsMisses, missed, server, zone, "")
		counter(corednsCacheQueries, success+denial+stale+missed, server, zone, "")
		counter(corednsPrefetch, of(func(c *zoneCounters) *atomic.Uint64 { return &c.prefetches }), server, zone, "")
	}
	for _, u := range s.forward.Stats() {
		to := u.Server.String()
		for code, rcode := range rcodes {
			if buckets, count, total := u.Times[code].Read(); count > 0 {
				ch <- prometheus.MustNewConstHistogram(corednsDurations, count, total, buckets, "forward", to, rcode)
			}
		}
		counter(corednsForwarded, float64(u.Requests), to)
		counter(corednsUnhealthy, float64(u.FailedProbes), "forward", to)
		counter(corednsOldUnhealthy, float64(u.FailedProbes), to)
	}
	counter(corednsBroken, float64(s.forward.Broken()))
	counter(corednsRejected, float64(s.forward.Busy()+m.resolver.shed.Load()))
	s.collectSetup(ch, server, cluster)
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

// isIPv6 reports whether the address of a socket is one of IPv6.
func isIPv6(addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Is6()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Is6()
	}
	return false
}
