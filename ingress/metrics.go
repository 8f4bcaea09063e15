package ingress

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics is the collector of the planner's metrics.
type Metrics struct {
	plans   prometheus.Histogram
	changes prometheus.Counter
	hosts   prometheus.Gauge
	routes  prometheus.Gauge
	groups  prometheus.Gauge
}

// NewMetrics returns metrics to register.
func NewMetrics() *Metrics {
	return &Metrics{
		plans: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "sluice_ingress_plan_duration_seconds",
			Help:    "Time to plan one change of the cluster's state.",
			Buckets: prometheus.ExponentialBuckets(1e-5, 4, 9), // 10 µs to 0.65 s
		}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sluice_ingress_changes_total",
			Help: "Resources that were set or removed for proxies.",
		}),
		hosts: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_ingress_hosts",
			Help: "Host names with routes, over all Gateways and classes.",
		}),
		routes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_ingress_routes",
			Help: "HTTPRoutes and Ingresses with a parent of sluice's.",
		}),
		groups: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_ingress_gateways",
			Help: "Gateways and IngressClasses that have proxies of their own.",
		}),
	}
}

func (m *Metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.plans, m.changes, m.hosts, m.routes, m.groups}
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(ch)
	}
}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(ch)
	}
}

func (m *Metrics) observe(p *Planner, res Result, took time.Duration) {
	if m == nil {
		return
	}
	m.plans.Observe(took.Seconds())
	m.changes.Add(float64(len(res.Changes)))
	m.hosts.Set(float64(len(p.hosts)))
	m.routes.Set(float64(len(p.routes)))
	m.groups.Set(float64(len(p.gateways) + len(p.classes)))
}
