package xds

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics observe the streams.
type metrics struct {
	proxies    prometheus.Gauge
	pushes     *prometheus.CounterVec
	resources  *prometheus.CounterVec
	rejections *prometheus.CounterVec
	ack        *prometheus.HistogramVec
}

func newMetrics() *metrics {
	return &metrics{
		proxies: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_xds_connected_proxies",
			Help: "Proxies that are connected.",
		}),
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_xds_pushes_total",
			Help: "Responses sent to proxies, by type.",
		}, []string{"type"}),
		resources: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_xds_pushed_resources_total",
			Help: "Resources sent to proxies and removed from them, by type.",
		}, []string{"type"}),
		rejections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_xds_rejections_total",
			Help: "Responses that proxies refused, by type.",
		}, []string{"type"}),
		ack: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "sluice_xds_acknowledgement_seconds",
			Help:    "Time from sending a response to its acknowledgement, by type.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16), // 0.5 ms to 16 s
		}, []string{"type"}),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.proxies, m.pushes, m.resources, m.rejections, m.ack}
}

// Connected implements [delta.Observer].
func (m *metrics) Connected(delta int) { m.proxies.Add(float64(delta)) }

// Sent implements [delta.Observer].
func (m *metrics) Sent(typeURL string, resources, removed int) {
	t := typeName(typeURL)
	m.pushes.WithLabelValues(t).Inc()
	m.resources.WithLabelValues(t).Add(float64(resources + removed))
}

// Acknowledged implements [delta.Observer].
func (m *metrics) Acknowledged(typeURL string, after time.Duration) {
	m.ack.WithLabelValues(typeName(typeURL)).Observe(after.Seconds())
}

// Rejected implements [delta.Observer].
func (m *metrics) Rejected(typeURL string) { m.rejections.WithLabelValues(typeName(typeURL)).Inc() }

// typeName is the last part of a type URL: "Cluster".
func typeName(url string) string { return url[strings.LastIndexByte(url, '.')+1:] }
