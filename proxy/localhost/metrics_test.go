package localhost

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestMetricNames checks that metrics have the names of kube-proxy's mode of the
// same name, and of no other.
func TestMetricNames(t *testing.T) {
	const accepted = "kubeproxy_iptables_localhost_nodeports_accepted_packets_total"
	for engine, want := range map[string]string{"nftables": "kubeproxy_nftables_", "iptables": accepted, "ipvs": ""} {
		relay := New(Options{Engine: engine})
		relay.metrics.accept("tcp")
		relay.metrics.accept("udp")
		relay.metrics.listeners.WithLabelValues("IPv4").Inc()
		r := prometheus.NewPedanticRegistry()
		if err := r.Register(relay); err != nil {
			t.Fatal(err)
		}
		found, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		some := false
		for _, f := range found {
			name := f.GetName()
			if strings.HasPrefix(name, "kubeproxy_") && (want == "" || !strings.HasPrefix(name, want)) {
				t.Errorf("%s: there is %s", engine, name)
			}
			if name == accepted && f.GetMetric()[0].GetCounter().GetValue() != 2 {
				t.Errorf("%s: %v, want 2 connections", name, f.GetMetric())
			}
			some = some || want != "" && strings.HasPrefix(name, want)
		}
		if want != "" && !some {
			t.Errorf("%s: there is no %s", engine, want)
		}
	}
}
