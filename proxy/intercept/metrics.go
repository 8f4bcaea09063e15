package intercept

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	descActive = prometheus.NewDesc("sluice_dns_intercept_active",
		"1 for each address whose queries come to this process, else 0.", []string{"address"}, nil)
	descRepairs = prometheus.NewDesc("sluice_dns_intercept_repairs_total",
		"Times that the rules of interception had been changed by somebody else.", nil, nil)
	descFailures = prometheus.NewDesc("sluice_dns_intercept_failures_total",
		"Times that the rules of interception could not be written or looked at.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (i *Interceptor) Describe(ch chan<- *prometheus.Desc) {
	ch <- descActive
	ch <- descRepairs
	ch <- descFailures
}

// Collect implements [prometheus.Collector].
func (i *Interceptor) Collect(ch chan<- prometheus.Metric) {
	now := time.Now()
	for _, a := range i.Captured() {
		active := 0.0
		if i.state.Load() == stateCurrent && i.answered.alive(a, now) {
			active = 1
		}
		ch <- prometheus.MustNewConstMetric(descActive, prometheus.GaugeValue, active, a.String())
	}
	ch <- prometheus.MustNewConstMetric(descRepairs, prometheus.CounterValue, float64(i.repairs.Load()))
	ch <- prometheus.MustNewConstMetric(descFailures, prometheus.CounterValue, float64(i.Failures()))
}

// Failures returns how often the rules could not be written or looked at.
func (i *Interceptor) Failures() uint64 { return i.failures.Load() }
