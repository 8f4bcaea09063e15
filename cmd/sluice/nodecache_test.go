package main

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A kernel that cannot intercept is what NodeLocal DNSCache's alerts ask for.
func TestNodecacheErrors(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	s := &nameServer{unable: true}
	for _, m := range s.nodecacheErrors() {
		if err := r.Register(m); err != nil {
			t.Fatal(err)
		}
	}
	const want = `# HELP coredns_nodecache_setup_errors_total Errors of setting up what leads clients to the node's server.
# TYPE coredns_nodecache_setup_errors_total counter
coredns_nodecache_setup_errors_total{errortype="configmap"} 0
coredns_nodecache_setup_errors_total{errortype="interface_add"} 0
coredns_nodecache_setup_errors_total{errortype="interface_check"} 0
coredns_nodecache_setup_errors_total{errortype="iptables"} 1
coredns_nodecache_setup_errors_total{errortype="iptables_lock"} 0
`
	if err := testutil.GatherAndCompare(r, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
