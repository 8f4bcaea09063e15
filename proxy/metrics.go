package proxy

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicenet/sluice/model"
)

// Metrics counts what [Run] does, by sluice's own names and, beside them, by
// those of kube-proxy that dashboards and service-level objectives read. It is a
// [prometheus.Collector].
type Metrics struct {
	syncs     *prometheus.HistogramVec
	plans     prometheus.Histogram
	errors    prometheus.Counter
	repairs   prometheus.Counter
	flows     prometheus.Counter
	services  atomic.Int64
	endpoints atomic.Int64
	gauges    [2]*prometheus.Desc
	kube      *kubeMetrics
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
		kube: newKubeMetrics(time.Now()),
	}
}

// For adds the metrics that kube-proxy has in the mode of an engine: nftables,
// iptables or ipvs. It is to be called before the first use, and returns m.
func (m *Metrics) For(engine string) *Metrics {
	m.kube.forEngine(engine)
	return m
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
	return append([]prometheus.Collector{m.syncs, m.plans, m.errors, m.repairs, m.flows}, m.kube.collectors()...)
}

// queued notes that an update came.
func (m *Metrics) queued(at time.Time) { m.kube.queued(at) }

// planned notes an update and what it changes.
func (m *Metrics) planned(up model.Update, changes Changes, took time.Duration) {
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
	m.kube.planned(up, changes)
}

// synced notes an attempt of the engine.
func (m *Metrics) synced(full bool, changes []Change, took time.Duration, err error) {
	what := "changes"
	if full {
		what = "all"
	}
	m.syncs.WithLabelValues(what).Observe(took.Seconds())
	if err != nil {
		m.errors.Inc()
	}
	m.kube.synced(full, changes, took, err)
}

// applied notes that all that came is in force.
func (m *Metrics) applied(at time.Time) { m.kube.applied(at) }

// unverified notes that the engine could not verify its rules.
func (m *Metrics) unverified() { m.kube.unverified() }

func (m *Metrics) repaired() { m.repairs.Inc() }

func (m *Metrics) cleaned(done map[Family]Reconciled, err error) {
	for family, d := range done {
		m.flows.Add(float64(d.Deleted))
		m.kube.cleaned(family, d)
	}
	if err != nil {
		m.errors.Inc()
	}
}
