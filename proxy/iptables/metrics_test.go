package iptables

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// gathered returns the values of an engine's metrics, by name, table and family.
func gathered(t *testing.T, e *Engine) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(e); err != nil {
		t.Fatal(err)
	}
	found, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range found {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() { // ip_family, table
				name += " " + l.GetValue()
			}
			out[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return out
}

// TestRuleMetrics checks that the metrics tell how many rules the kernel has, and
// how many of them the last step wrote.
func TestRuleMetrics(t *testing.T) {
	variants(t, func(t *testing.T, node *lab.Node, o Options) {
		e := newEngine(t, o)
		p := newPlanned(clusterConfig)
		changes := p.update(t, func(tx *model.Txn) {
			model.Nodes.Put(tx, node1())
			model.Services.Put(tx, web(nil))
			model.EndpointSlices.Put(tx, slice(1, 1, 2))
		})
		if len(gathered(t, e)) > 1 {
			t.Errorf("before the first step: %v", gathered(t, e))
		}
		if err := e.Sync(t.Context(), changes.New); err != nil {
			t.Fatal(err)
		}
		rules := func() map[string]float64 {
			out := map[string]float64{}
			for line := range strings.Lines(dump(t, node)) {
				f := strings.Fields(line)
				if f[2] == "-A" {
					family := "IPv4"
					if strings.HasPrefix(f[0], "ip6") {
						family = "IPv6"
					}
					out["kubeproxy_sync_proxy_rules_iptables_total "+family+" "+f[1]]++
				}
			}
			return out
		}
		check := func(last map[string]float64) {
			t.Helper()
			want := rules()
			for key, n := range last {
				want["kubeproxy_sync_proxy_rules_iptables_last "+key] = n
			}
			got := gathered(t, e)
			delete(got, "kubeproxy_iptables_ct_state_invalid_dropped_packets_total")
			if !maps.Equal(got, want) {
				t.Errorf("the metrics are\n%v, want\n%v", got, want)
			}
		}
		all := map[string]float64{}
		for key, n := range rules() {
			all[strings.TrimPrefix(key, "kubeproxy_sync_proxy_rules_iptables_total ")] = n
		}
		check(all)
		// Another backend: a port's chain with two rules to the backends, and one
		// that marks for masquerading.
		if err := e.Apply(t.Context(), p.update(t, func(tx *model.Txn) { model.EndpointSlices.Put(tx, slice(1, 2, 3)) })); err != nil {
			t.Fatal(err)
		}
		check(map[string]float64{"IPv4 nat": 3, "IPv4 filter": 0, "IPv6 nat": 0, "IPv6 filter": 0})
		if err := e.Apply(t.Context(), p.update(t, func(tx *model.Txn) { tx.Delete(model.Services.Key(web(nil))) })); err != nil {
			t.Fatal(err)
		}
		check(map[string]float64{"IPv4 nat": 0, "IPv4 filter": 0, "IPv6 nat": 0, "IPv6 filter": 0})
	})
}

// TestInvalidMetric checks that packets which connection tracking cannot place
// are counted, also when the rule was written anew.
func TestInvalidMetric(t *testing.T) {
	variants(t, func(t *testing.T, node *lab.Node, o Options) {
		e := newEngine(t, o)
		plan := newPlanned(clusterConfig).update(t, func(tx *model.Txn) { model.Services.Put(tx, web(nil)) }).New
		if err := e.Sync(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		program, ipv6 := "iptables-"+string(o.Variant)+"-restore", 0.0
		for _, step := range []struct {
			program string
			packets int
			sum     float64
		}{{program, 7, 7}, {program, 9, 9}, {"ip6" + strings.TrimPrefix(program, "ip"), 4, 13}, {program, 3, 16}} {
			if o.Variant == NFT && strings.HasPrefix(step.program, "ip6") {
				// It takes counts for IPv4 alone (iptables 1.8.9), so here are none.
				step.packets, ipv6 = 0, 4
			}
			cmd := node.Command(t.Context(), step.program, "--noflush", "--counters")
			cmd.Stdin = strings.NewReader(fmt.Sprintf("*filter\n:SLUICE-FORWARD - [0:0]\n[%d:100] -A SLUICE-FORWARD %s\nCOMMIT\n", step.packets, dropInvalid))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", step.program, err, out)
			}
			reread(t, e)
			if got := gathered(t, e)["kubeproxy_iptables_ct_state_invalid_dropped_packets_total"]; got != step.sum-ipv6 {
				t.Errorf("%v packets are counted, want %v", got, step.sum-ipv6)
			}
		}
	})
}

// reread has the counters read now, and waits for that.
func reread(t *testing.T, e *Engine) {
	t.Helper()
	for e.await() {
	}
	e.counts.cost = share{}
	if err := e.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for e.await() {
	}
	e.counts.cost = share{took: time.Hour, ended: time.Now()} // what comes now asks no more
}

// await waits for counters that are being read, if any are.
func (e *Engine) await() bool {
	e.counts.mu.Lock()
	reading := e.counts.reading
	e.counts.mu.Unlock()
	if reading == nil {
		return false
	}
	<-reading
	return true
}

// TestCountInBackground checks that who asks for counters does not wait for the
// kernel, but for the first time, and that one program reads them at a time.
func TestCountInBackground(t *testing.T) {
	variants(t, func(t *testing.T, node *lab.Node, o Options) {
		e := newEngine(t, o)
		plan := newPlanned(clusterConfig).update(t, func(tx *model.Txn) { model.Services.Put(tx, web(nil)) }).New
		if err := e.Sync(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		c, err := node.DialContext(t.Context(), "tcp", "10.96.0.10:80") // refused, and counted
		if err == nil {
			_ = c.Close()
		}
		count := func() (n uint64) {
			t.Helper()
			if err := e.Count(t.Context(), func(_ proxy.FrontendKey, c proxy.Traffic) { n += c.Connections }); err != nil {
				t.Fatal(err)
			}
			return n
		}
		want := count()
		if want == 0 {
			t.Fatal("nothing was counted")
		}
		dir := t.TempDir()
		stuck := filepath.Join(dir, "save")
		if err := os.WriteFile(stuck, []byte("#!/bin/sh\necho >>"+dir+"/runs\nexec sleep 1h\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		p := e.programs.programs[proxy.IPv4]
		p.save = stuck
		e.programs.programs[proxy.IPv4] = p
		e.counts.cost = share{}
		for range 3 {
			if got := count(); got != want {
				t.Errorf("counted %d, want the %d of before", got, want)
			}
		}
		if runs, err := os.ReadFile(dir + "/runs"); err != nil || len(runs) != 1 {
			t.Errorf("the program ran %d times, want once (%v)", len(runs), err)
		}
		if err := e.Close(); err != nil { // which ends the program
			t.Error(err)
		}
		if err := e.Count(context.Background(), func(proxy.FrontendKey, proxy.Traffic) {}); err == nil {
			t.Error("an engine that is closed counts")
		}
	})
}
