package iptables

import (
	"context"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicenet/sluice/proxy"
)

// What kube-proxy 1.36 tells of its rules in this mode (pkg/proxy/metrics). The
// rules for packets that connection tracking cannot place are one counter for
// both families there, too.
var (
	rulesTotal = prometheus.NewDesc("kubeproxy_sync_proxy_rules_iptables_total",
		"Rules that are in force.", []string{"table", "ip_family"}, nil)
	rulesLast = prometheus.NewDesc("kubeproxy_sync_proxy_rules_iptables_last",
		"Rules that the last step wrote.", []string{"table", "ip_family"}, nil)
	invalidDropped = prometheus.NewDesc("kubeproxy_iptables_ct_state_invalid_dropped_packets_total",
		"Packets dropped that connection tracking cannot place.", nil, nil)
)

// ruleCounts are how many rules of each table there are, and how many the last
// step wrote.
type ruleCounts struct {
	known       atomic.Bool
	total, last [2]atomic.Int64
}

// Describe implements [prometheus.Collector].
func (e *Engine) Describe(ch chan<- *prometheus.Desc) {
	ch <- rulesTotal
	ch <- rulesLast
	ch <- invalidDropped
}

// Collect implements [prometheus.Collector].
func (e *Engine) Collect(ch chan<- prometheus.Metric) {
	for i, f := range families {
		c := &e.ruleCounts[i]
		if !c.known.Load() {
			continue
		}
		label := "IPv4"
		if f == proxy.IPv6 {
			label = "IPv6"
		}
		for _, t := range [...]table{nat, filter} {
			ch <- prometheus.MustNewConstMetric(rulesTotal, prometheus.GaugeValue, float64(c.total[t].Load()), t.String(), label)
			ch <- prometheus.MustNewConstMetric(rulesLast, prometheus.GaugeValue, float64(c.last[t].Load()), t.String(), label)
		}
	}
	if e.options.ForwardInvalid {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), countPatience)
	defer cancel()
	if e.refresh(ctx) != nil {
		return // whoever asks for traffic is told
	}
	e.counts.mu.Lock()
	n := e.counts.invalid.sum
	e.counts.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(invalidDropped, prometheus.CounterValue, float64(n))
}
