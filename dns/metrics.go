package dns

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/wire"
)

// types are the values of the label type; the rest is "other", so that clients
// cannot make up new ones.
var types = [...]struct {
	number uint16
	name   string
}{
	{wire.TypeA, "A"},
	{wire.TypeAAAA, "AAAA"},
	{wire.TypeSRV, "SRV"},
	{wire.TypePTR, "PTR"},
	{wire.TypeCNAME, "CNAME"},
	{wire.TypeTXT, "TXT"},
	{wire.TypeSOA, "SOA"},
	{wire.TypeNS, "NS"},
	{wire.TypeMX, "MX"},
	{wire.TypeSVCB, "SVCB"},
	{wire.TypeHTTPS, "HTTPS"},
	{wire.TypeANY, "ANY"},
	{0, "other"},
}

var rcodes = [...]string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "other"}

// Where an answer came from.
const (
	sourceZone = iota
	sourceCache
	sourceForward
	sourceNone
	sourceHosts
	sourceStale
	sourceCount
)

var sources = [sourceCount]string{"zone", "cache", "forward", "none", "hosts", "stale"}

// What kind of answer the cache had.
const (
	hitSuccess = iota
	hitDenial
	hitStale
	hitCount
)

var hits = [hitCount]string{"success", "denial", "stale"}

// counters are what one loop counts. Each has its own, so that no two cores
// write to the same memory. Names are told apart only by part: 0 are the cluster's,
// 1 all others.
type counters struct {
	requests  [2][2][2][len(types)]atomic.Uint64 // UDP, TCP; IPv4, IPv6; part
	responses [sourceCount][len(rcodes)]atomic.Uint64
	queries   [2][2]sizes      // UDP, TCP; part
	answers   [2][2]sizes      // likewise
	secure    [2]atomic.Uint64 // with DO; part
	times     [2]forward.Times // part
	zones     [maxZones]zoneCounters
}

// maxZones is how many zones are counted by themselves; further ones are counted
// with the last.
const maxZones = 32

// zoneCounters are what is counted of the names of one zone that is forwarded.
type zoneCounters struct {
	hits       [hitCount]atomic.Uint64
	misses     atomic.Uint64
	prefetches atomic.Uint64
}

func (c *counters) zone(i int) *zoneCounters { return &c.zones[min(i, maxZones-1)] }

// part returns what part of the names the last answer was about.
func (w *worker) part() int { return index(w.source != sourceZone) }

// count counts a query of so many octets that has its answer.
func (w *worker) count(query, answer int) {
	proto, part := index(w.stream), w.part()
	w.requests[proto][index(w.six)][part][typeIndex(w.query.Type)].Add(1)
	w.queries[proto][part].observe(query)
	w.answers[proto][part].observe(answer)
	if w.query.DO {
		w.secure[part].Add(1)
	}
}

// took counts how long the last answer took since its query came.
func (w *worker) took(received time.Time) { w.times[w.part()].Observe(time.Since(received)) }

func index(second bool) int {
	if second {
		return 1
	}
	return 0
}

// typeIndex returns a type's place in types.
func typeIndex(typ uint16) int {
	i := 0
	for i < len(types)-1 && types[i].number != typ {
		i++
	}
	return i
}

func (w *worker) response(rcode uint16, source int) {
	if w.source = source; w.nested {
		return // counted as a part of the whole
	}
	w.counters.response(rcode, source)
}

func (c *counters) response(rcode uint16, source int) {
	c.responses[source][min(int(rcode), len(rcodes)-1)].Add(1)
}

// resolverCounts is what the resolver counts.
type resolverCounts struct {
	coalesced atomic.Uint64
	shed      atomic.Uint64
	failed    atomic.Uint64
}

// metrics is what a server counts.
type metrics struct {
	mu  sync.Mutex // guards all
	all []*counters

	limits   limitCounts
	resolver resolverCounts
}

func (m *metrics) newCounters() *counters {
	c := &counters{}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, c)
	return c
}

// durations adds up how long answers about a part of the names took.
func (m *metrics) durations(part int) (buckets map[float64]uint64, count uint64, sum float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*forward.Times
	for _, c := range m.all {
		all = append(all, &c.times[part])
	}
	return forward.ReadAll(all)
}

// sum adds up one counter of all loops.
func (m *metrics) sum(of func(*counters) *atomic.Uint64) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var n uint64
	for _, c := range m.all {
		n += of(c).Load()
	}
	return float64(n)
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sluice_dns_"+name, help, labels, nil)
}

var (
	descRequests    = desc("requests_total", "Queries answered; family 1 is IPv4, 2 IPv6.", "zone", "proto", "family", "type")
	descTaken       = desc("request_duration_seconds", "Time that queries took to be answered.", "zone")
	descQuerySizes  = desc("request_size_bytes", "Sizes of queries.", "zone", "proto")
	descAnswerSizes = desc("response_size_bytes", "Sizes of answers.", "zone", "proto")
	descDO          = desc("do_requests_total", "Queries that ask for DNSSEC records.", "zone")
	descResponses   = desc("responses_total", "Answers given, by code and where they came from.", "rcode", "source")
	descHits        = desc("cache_hits_total", "Queries for other names that the cache answered, by the zone that is forwarded.", "zone", "type")
	descMisses      = desc("cache_misses_total", "Queries for other names that the cache could not answer.", "zone")
	descPrefetches  = desc("cache_prefetches_total", "Answers that are used often and were asked for again before they expired.", "zone")
	descLimit       = desc("cache_limit_bytes", "Memory that the answers in the cache may take.")
	descEntries     = desc("cache_entries", "Answers in the cache.")
	descBytes       = desc("cache_bytes", "Memory of the answers in the cache.")
	descEvictions   = desc("cache_evictions_total", "Answers that made room for others.")
	descForward     = desc("forward_requests_total", "Queries sent to another name server.", "to")
	descFailures    = desc("forward_failures_total", "Queries that a name server did not answer.", "to")
	descHealthy     = desc("forward_healthy", "Whether a name server is asked, since it answered lately.", "to")
	descDurations   = desc("forward_request_duration_seconds", "Time that another name server took to answer a query.", "to")
	descStreams     = desc("forward_connections", "Connections to another name server.", "to")
	descBusy        = desc("forward_busy_total", "Queries not sent to another name server because too many were under way.")
	descUnanswered  = desc("forward_unanswered_total", "Queries that no name server answered.")
	descCoalesced   = desc("forward_coalesced_total", "Queries that waited for the answer to an equal one.")
	descShed        = desc("forward_shed_total", "Queries given up because too many waited for other name servers.")
	descConnections = desc("tcp_connections", "Open TCP connections.")
	descRevision    = desc("zone_revision", "Revision of the model that cluster names are answered from.")
	descNames       = desc("zone_names", "Names in the cluster's zone.")
	descReady       = desc("zone_ready", "Whether the zone has everything that the source has to deliver.")
)

// Describe implements prometheus.Collector.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descRequests, descTaken, descQuerySizes, descAnswerSizes, descDO, descResponses, descHits, descMisses, descEntries, descBytes, descEvictions,
		descPrefetches, descLimit, descDurations, descStreams, descBusy,
		descForward, descFailures, descHealthy, descUnanswered, descCoalesced, descShed,
		descConnections, descRefused, descRevision, descNames, descReady,
	} {
		ch <- d
	}
	describeLimits(ch)
	if s.CoreDNSMetrics {
		describeCoreDNS(ch)
	}
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	m := s.metrics
	s.collectQueries(ch, &queryDescs{descRequests, descTaken, descQuerySizes, descAnswerSizes, descDO})
	for i, source := range sources {
		for r, rcode := range rcodes {
			if v := m.sum(func(c *counters) *atomic.Uint64 { return &c.responses[i][r] }); v > 0 {
				counter(descResponses, v, rcode, source)
			}
		}
	}
	for z, zone := range s.zoneNames() {
		for i, hit := range hits {
			counter(descHits, m.sum(func(c *counters) *atomic.Uint64 { return &c.zone(z).hits[i] }), zone, hit)
		}
		counter(descMisses, m.sum(func(c *counters) *atomic.Uint64 { return &c.zone(z).misses }), zone)
		counter(descPrefetches, m.sum(func(c *counters) *atomic.Uint64 { return &c.zone(z).prefetches }), zone)
	}
	stats := s.cache.Stats()
	gauge(descLimit, float64(s.cache.Bytes))
	gauge(descEntries, float64(stats.Items))
	gauge(descBytes, float64(stats.Bytes))
	counter(descEvictions, float64(stats.Evictions))
	for _, u := range s.forward.Stats() {
		to := u.Server.String()
		counter(descForward, float64(u.Requests), to)
		counter(descFailures, float64(u.Failures), to)
		gauge(descHealthy, truth(u.Healthy && !u.Looped), to)
		gauge(descStreams, float64(u.Connections), to)
		buckets, count, sum := u.Times.Read()
		ch <- prometheus.MustNewConstHistogram(descDurations, count, sum, buckets, to)
	}
	counter(descBusy, float64(s.forward.Busy()))
	counter(descUnanswered, float64(m.resolver.failed.Load()))
	counter(descCoalesced, float64(m.resolver.coalesced.Load()))
	counter(descShed, float64(m.resolver.shed.Load()))
	gauge(descConnections, float64(s.conns.number.Load()))
	z := s.zone.Load()
	gauge(descRevision, float64(z.Revision()))
	gauge(descNames, float64(z.Len()))
	gauge(descReady, truth(z.Ready()))
	s.collectLimits(ch)
	if s.CoreDNSMetrics {
		s.collectCoreDNS(ch)
	}
}

// zoneNames returns the labels of the zones that are counted.
func (s *Server) zoneNames() []string {
	var names []string
	for _, z := range s.forward.Zones {
		name := strings.TrimSuffix(z.Name, ".") + "."
		if len(names) == maxZones {
			names[maxZones-1] = "other"
			break
		}
		names = append(names, name)
	}
	return names
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// rcodeName returns a response code as people know it.
func rcodeName(rcode uint16) string {
	if int(rcode) < len(rcodes)-1 {
		return rcodes[rcode]
	}
	return "RCODE" + strconv.Itoa(int(rcode))
}
