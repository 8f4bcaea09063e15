package proxy

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what [Run] does. It is a [prometheus.Collector].
type Metrics struct {
	syncs     *prometheus.HistogramVec
	plans     prometheus.Histogram
	errors    prometheus.Counter
	repairs   prometheus.Counter
	flows     prometheus.Counter
	services  atomic.Int64
	endpoints atomic.Int64
	gauges    [2]*prometheus.Desc
}

// NewMetrics returns metrics of nothing.
func NewMetrics() *Metrics {
	// 100 µs, an update of one endpoint, to 13 s.
	buckets := prometheus.ExponentialBuckets(0.0001, 2, 18)
	return &Metrics{
		syncs: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sluice_proxy_sync_duration_seconds", Buckets: buckets,
			Help: "Time to program the kernel, by what was programmed: all, or changes.",
		}, []string{"what"}),
		plans: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_proxy_plan_duration_seconds", Buckets: buckets,
			Help: "Time to plan an update of the model.",
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_proxy_sync_errors_total", Help: "Failures to program the kernel.",
		}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_proxy_repairs_total", Help: "Repairs of rules that somebody else had changed.",
		}),
		flows: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_proxy_stale_flows_total", Help: "UDP flows deleted because their endpoint is gone.",
		}),
		gauges: [2]*prometheus.Desc{
			prometheus.NewDesc("sluice_proxy_services", "Services that are proxied.", nil, nil),
			prometheus.NewDesc("sluice_proxy_endpoints", "Usable endpoints of all Services' ports, of both families.", nil, nil),
		},
	}
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(ch)
	}
	for _, d := range m.gauges {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(ch)
	}
	for i, v := range [2]int64{m.services.Load(), m.endpoints.Load()} {
		ch <- prometheus.MustNewConstMetric(m.gauges[i], prometheus.GaugeValue, float64(v))
	}
}

func (m *Metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.syncs, m.plans, m.errors, m.repairs, m.flows}
}

func (m *Metrics) planned(changes Changes, took time.Duration) {
	m.plans.Observe(took.Seconds())
	m.services.Store(int64(changes.New.Len()))
	count := func(s *Service) (n int64) {
		if s != nil {
			for _, p := range s.Ports {
				n += int64(len(p.Cluster))
			}
		}
		return n
	}
	var delta int64
	for _, c := range changes.Services {
		delta += count(c.New) - count(c.Old)
	}
	m.endpoints.Add(delta)
}

func (m *Metrics) synced(what string, took time.Duration, err error) {
	m.syncs.WithLabelValues(what).Observe(took.Seconds())
	if err != nil {
		m.errors.Inc()
	}
}

func (m *Metrics) repaired() { m.repairs.Inc() }

func (m *Metrics) cleaned(deleted int, err error) {
	m.flows.Add(float64(deleted))
	if err != nil {
		m.errors.Inc()
	}
}
