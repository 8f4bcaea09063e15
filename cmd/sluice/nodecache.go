package main

import "github.com/prometheus/client_golang/prometheus"

// nodecacheErrors counts what fails of interception under the name by which
// NodeLocal DNSCache does, for its alerts: as iptables, which is what it intercepts
// with. The other errors are of things that are not done here.
func (s *nameServer) nodecacheErrors() []prometheus.Collector {
	var out []prometheus.Collector
	for _, kind := range []string{"iptables", "iptables_lock", "interface_add", "interface_check", "configmap"} {
		out = append(out, prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "coredns_nodecache_setup_errors_total", Help: "Errors of setting up what leads clients to the node's server.",
			ConstLabels: prometheus.Labels{"errortype": kind},
		}, func() float64 {
			switch {
			case kind != "iptables":
				return 0
			case s.intercept != nil:
				return float64(s.intercept.Failures())
			case s.unable:
				return 1
			}
			return 0
		}))
	}
	return out
}
