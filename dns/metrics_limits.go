package dns

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// limitCounts are what is counted of limits, and of names that are answered by way
// of others.
type limitCounts struct {
	refused, clientRefused, evicted, unread atomic.Uint64 // connections
	oversized                               atomic.Uint64
	completed, rewritten                    atomic.Uint64
}

var (
	descRefused    = desc("tcp_refused_total", "TCP connections closed at once, by why: too many in all, or of one client.", "limit")
	descEvicted    = desc("tcp_evicted_total", "Idle TCP connections closed to make room for others.")
	descUnread     = desc("tcp_unread_total", "TCP connections closed because their answers, which the client did not read, took too much memory.")
	descOversized  = desc("tcp_oversized_total", "TCP connections closed because of a message that is too long for a query.")
	descLimited    = desc("rate_limited_total", "Queries over their client's limit, by what became of them.", "action")
	descCompleted  = desc("autopath_total", "Queries answered by completing the search path of a Pod.")
	descRewritten  = desc("rewrites_total", "Queries answered with what there is of another name.")
	descHosts      = desc("hosts_names", "Names that entries of hosts give records.")
	descTapped     = desc("dnstap_messages_total", "Messages for dnstap's observer, by whether they were sent.", "action")
	descLogDropped = desc("log_dropped_total", "Queries that were to be logged, but faster than the log takes them.")
)

func describeLimits(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descEvicted, descUnread, descOversized, descLimited, descCompleted, descRewritten, descHosts, descTapped, descLogDropped} {
		ch <- d
	}
}

func (s *Server) collectLimits(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	l := &s.metrics.limits
	counter(descRefused, l.refused.Load(), "total")
	counter(descRefused, l.clientRefused.Load(), "client")
	counter(descEvicted, l.evicted.Load())
	counter(descUnread, l.unread.Load())
	counter(descOversized, l.oversized.Load())
	counter(descCompleted, l.completed.Load())
	counter(descRewritten, l.rewritten.Load())
	ch <- prometheus.MustNewConstMetric(descHosts, prometheus.GaugeValue, float64(s.hosts.Load().Len()))
	if s.limiter != nil {
		dropped, slipped := s.limiter.Counts()
		counter(descLimited, dropped, "dropped")
		counter(descLimited, slipped, "truncated")
	}
	if s.tap != nil {
		sent, dropped := s.tap.Counts()
		counter(descTapped, sent, "sent")
		counter(descTapped, dropped, "dropped")
	}
	if s.sampler != nil {
		counter(descLogDropped, s.sampler.lost.Load())
	}
}
