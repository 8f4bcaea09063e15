package localhost

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicenet/sluice/proxy"
)

// metrics have the names of kube-proxy where its mode of the same name has them,
// and names of our own elsewhere: those of its nftables mode are of version 1.37.
// Its iptables mode counts packets in the nat table, which sees the first of each
// connection, so that is the number of connections.
type metrics struct {
	listeners *prometheus.GaugeVec
	failures  *prometheus.CounterVec
	rejected  *prometheus.CounterVec
	accepted  *prometheus.CounterVec
	packets   prometheus.Counter // nil: not in this mode
}

func newMetrics(engine string) *metrics {
	names := "sluice_proxy_localhost_"
	if engine == "nftables" {
		names = "kubeproxy_nftables_localhost_nodeport_"
	}
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	m := &metrics{
		listeners: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: names + "listeners", Help: "NodePorts that are open on loopback.",
		}, []string{"ip_family"}),
		failures: counter(names+"listener_creation_failures_total", "NodePorts that could not be opened on loopback.", "ip_family"),
		rejected: counter(names+"rejected_packets_total", "Connections and datagrams to NodePorts on loopback that no backend got.", "protocol"),
		accepted: counter("sluice_proxy_localhost_connections_total", "TCP connections and UDP flows to NodePorts on loopback.", "protocol"),
	}
	if engine == "iptables" {
		m.packets = prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubeproxy_iptables_localhost_nodeports_accepted_packets_total",
			Help: "First packets of TCP connections and UDP flows to NodePorts on loopback.",
		})
	}
	return m
}

// accept counts a connection of a protocol.
func (m *metrics) accept(protocol string) {
	m.accepted.WithLabelValues(protocol).Inc()
	if m.packets != nil {
		m.packets.Inc()
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
	all := []prometheus.Collector{m.listeners, m.failures, m.rejected, m.accepted}
	if m.packets != nil {
		all = append(all, m.packets)
	}
	return all
}

// familyLabel returns the family as Kubernetes writes it.
func familyLabel(f proxy.Family) string {
	if f == proxy.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}
