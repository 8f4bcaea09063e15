package localhost

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicenet/sluice/proxy"
)

// metrics have the names of kube-proxy 1.37, and one more.
type metrics struct {
	listeners *prometheus.GaugeVec
	failures  *prometheus.CounterVec
	rejected  *prometheus.CounterVec
	accepted  *prometheus.CounterVec
}

func newMetrics() *metrics {
	const kube = "kubeproxy_nftables_localhost_nodeport_"
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	return &metrics{
		listeners: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: kube + "listeners", Help: "NodePorts that are open on loopback.",
		}, []string{"ip_family"}),
		failures: counter(kube+"listener_creation_failures_total", "NodePorts that could not be opened on loopback.", "ip_family"),
		rejected: counter(kube+"rejected_packets_total", "Connections and datagrams to NodePorts on loopback that no backend got.", "protocol"),
		accepted: counter("sluice_proxy_localhost_connections_total", "TCP connections and UDP flows to NodePorts on loopback.", "protocol"),
	}
}

// Describe implements [prometheus.Collector].
func (r *Relay) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range r.metrics.all() {
		c.Describe(ch)
	}
}

// Collect implements [prometheus.Collector].
func (r *Relay) Collect(ch chan<- prometheus.Metric) {
	for _, c := range r.metrics.all() {
		c.Collect(ch)
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.listeners, m.failures, m.rejected, m.accepted}
}

// familyLabel returns the family as Kubernetes writes it.
func familyLabel(f proxy.Family) string {
	if f == proxy.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}
