package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sluicenet/sluice/model"
)

// slowFlows waits for a word before each reconciliation ends.
type slowFlows struct {
	begun chan Reconciliation
	end   chan error
}

func (f *slowFlows) Reconcile(ctx context.Context, r Reconciliation) (map[Family]Reconciled, error) {
	f.begun <- r
	select {
	case err := <-f.end:
		return map[Family]Reconciled{IPv4: {Deleted: 1, Took: time.Second}}, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// describe prints changes by the last bytes of the endpoints, before and after.
func describe(changes []Change) string {
	if changes == nil {
		return "all"
	}
	of := func(s *Service) string {
		if s == nil {
			return "none"
		}
		var out []string
		for _, b := range s.Ports[0].Cluster {
			out = append(out, fmt.Sprint(b.Addr().As4()[3]))
		}
		return strings.Join(out, ",")
	}
	var out []string
	for _, c := range changes {
		out = append(out, fmt.Sprintf("%s %s→%s", c.Name.Name, of(c.Old), of(c.New)))
	}
	return strings.Join(out, "; ")
}

// running is Run with its surroundings.
type running struct {
	t       *testing.T
	store   *model.Store
	engine  *fakeEngine
	applied []string // what Applied was told
	stop    func()
}

func start(t *testing.T, o Options) *running {
	r := &running{t: t, store: model.NewStore(), engine: &fakeEngine{}}
	o.Updates, o.Planner, o.Engine = r.store.Watch(), NewPlanner(Config{Node: "node1"}), r.engine
	var last *Plan
	o.Applied = func(p *Plan, changes []Change) {
		if p == last || r.engine.plan != p && (changes == nil || len(changes) > 0) {
			t.Error("Applied is told a plan that is not in force, or twice")
		}
		last = p
		r.applied = append(r.applied, describe(changes))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Run(ctx, o) }()
	r.stop = func() {
		cancel()
		<-done
	}
	return r
}

func (r *running) update(objects ...object) {
	r.store.Update(func(tx *model.Txn) { put(tx, objects...) })
	synctest.Wait()
}

func (r *running) synced() {
	r.store.Update(func(tx *model.Txn) { tx.MarkSynced(model.KindService); tx.MarkSynced(model.KindEndpointSlice) })
	synctest.Wait()
}

func (r *running) told(want ...string) {
	r.t.Helper()
	if got := strings.Join(r.applied, " | "); got != strings.Join(want, " | ") {
		r.t.Errorf("Applied was told %q, want %q", got, strings.Join(want, " | "))
	}
	r.applied = nil
}

// TestApplied checks that who listens is told exactly what changed since, also
// after failures.
func TestApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{})
		r.update(web("web"), slice("web", ep(1)))
		r.synced()
		r.told("all")
		r.update(slice("web", ep(2)))
		r.update(pod("p", "v1"))
		r.told("web 1→2", "")
		r.engine.set(errors.New("no"), false)
		r.update(slice("web", ep(3)))
		r.update(slice("web", ep(4)), web("web2", func(s *model.Service) { s.ClusterIPs = nil }), slice("web2", ep(7)))
		r.told()
		r.engine.set(nil, false)
		time.Sleep(time.Minute)
		synctest.Wait()
		r.told("web 2→4; web2 none→7")
		r.stop()
	})
}

// TestFlowsInBackground checks that cleaning up delays no programming, that what
// comes meanwhile is merged, and that a failure loses nothing.
func TestFlowsInBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flows := &slowFlows{make(chan Reconciliation, 1), make(chan error)}
		r := start(t, Options{Flows: flows})
		r.update(web("web"), slice("web", ep(1)))
		r.synced()
		first := <-flows.begun
		if first.Changes != nil || first.Plan.Len() != 1 {
			t.Errorf("at a start: %s", describe(first.Changes))
		}
		// It still works on that; three steps are programmed.
		for i := range 3 {
			r.update(slice("web", ep(2+i)))
		}
		r.told("all", "web 1→2", "web 2→3", "web 3→4")
		if got := describe(first.Later()); got != "web 1→4" {
			t.Errorf("what came later is %s", got)
		}
		// A step that the engine has not finished is later, too, and not cleaned
		// up after.
		r.engine.set(errors.New("no"), false)
		r.update(slice("web", ep(5)))
		if got := describe(first.Later()); got != "web 1→4; web 4→5" {
			t.Errorf("with a step in progress, what came later is %s", got)
		}
		flows.end <- nil
		second := <-flows.begun
		if got := describe(second.Changes); got != "web 1→4" {
			t.Errorf("the second time: %s", got)
		}
		r.engine.set(nil, false)
		time.Sleep(time.Minute)
		synctest.Wait()
		flows.end <- errors.New("no")
		third := <-flows.begun
		if got := describe(third.Changes); got != "web 1→5" {
			t.Errorf("after a failure: %s", got)
		}
		if third.Plan.Revision != r.store.Snapshot().Revision() {
			t.Error("it is not the plan in force")
		}
		flows.end <- nil
		synctest.Wait()
		time.Sleep(time.Hour)
		select {
		case more := <-flows.begun:
			t.Errorf("and once more: %s", describe(more.Changes))
		default:
		}
		r.stop() // also while nothing is to be done
	})
}

// TestFirstFlowsFail checks that a failure of the first look at everything is
// not forgotten when steps follow.
func TestFirstFlowsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		flows := &slowFlows{make(chan Reconciliation, 1), make(chan error)}
		r := start(t, Options{Flows: flows})
		r.update(web("web"), slice("web", ep(1)))
		r.synced()
		<-flows.begun
		r.update(slice("web", ep(2)))
		flows.end <- errors.New("no")
		again := <-flows.begun
		if again.Changes != nil {
			t.Errorf("again: %s", describe(again.Changes))
		}
		r.stop() // in the middle
	})
}

// TestCleanupFailures checks that a failure to verify, which also cleans up, is
// counted by the name that kube-proxy has for it in its nftables mode alone.
func TestCleanupFailures(t *testing.T) {
	const name = "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total"
	for engine, want := range map[string]int{"nftables": 2, "iptables": 0} { // families
		synctest.Test(t, func(t *testing.T) {
			metrics := NewMetrics().For(engine)
			r := start(t, Options{Metrics: metrics})
			r.update(web("web"), slice("web", ep(1)))
			r.synced()
			if n := testutil.CollectAndCount(metrics, name); n != 0 {
				t.Errorf("%s: %d families before any failure", engine, n)
			}
			r.engine.set(errors.New("no"), true)
			time.Sleep(4 * time.Second) // within that it verifies
			r.engine.set(nil, false)
			if n := testutil.CollectAndCount(metrics, name); n != want {
				t.Errorf("%s: failures of %d families, want %d", engine, n, want)
			}
			r.stop()
		})
	}
}

// TestKubeMetrics checks the metrics that dashboards of kube-proxy read.
func TestKubeMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		metrics := NewMetrics().For("nftables")
		flows := &slowFlows{make(chan Reconciliation, 10), make(chan error, 10)}
		for range 10 {
			flows.end <- nil
		}
		r := start(t, Options{Flows: flows, Metrics: metrics})
		time.Sleep(10 * time.Second)
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(metrics)
		expect := func(what, name, want string) {
			t.Helper()
			if err := testutil.GatherAndCompare(registry, strings.NewReader(want), name); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		count := func(what, name string, want uint64) {
			t.Helper()
			all, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			var n uint64
			for _, f := range all {
				for _, m := range f.Metric {
					if f.GetName() == name {
						n += m.GetHistogram().GetSampleCount()
					}
				}
			}
			if n != want {
				t.Errorf("%s: %s has %d samples, want %d", what, name, n, want)
			}
		}
		at := func(ago time.Duration, endpoints ...model.Endpoint) *model.EndpointSlice {
			s := slice("web", endpoints...)
			s.Triggered = time.Now().Add(-ago)
			return s
		}
		r.update(web("web"), at(time.Minute, ep(1))) // of before this process
		r.synced()
		count("at a start", "kubeproxy_network_programming_duration_seconds", 0)
		count("at a start", "kubeproxy_sync_full_proxy_rules_duration_seconds", 2) // of either family
		r.update(at(700*time.Millisecond, ep(2)))
		count("a step", "kubeproxy_network_programming_duration_seconds", 1)
		count("a step", "kubeproxy_sync_partial_proxy_rules_duration_seconds", 1)
		count("a step", "kubeproxy_sync_proxy_rules_duration_seconds", 3)
		count("a step", "kubeproxy_conntrack_reconciler_sync_duration_seconds", 2)

		r.engine.set(errors.New("no"), false)
		r.update(at(0, ep(3)))
		expect("pending", "kubeproxy_sync_proxy_rules_endpoint_changes_pending", `# HELP kubeproxy_sync_proxy_rules_endpoint_changes_pending Changes of EndpointSlices that are not in force yet.
# TYPE kubeproxy_sync_proxy_rules_endpoint_changes_pending gauge
kubeproxy_sync_proxy_rules_endpoint_changes_pending 1
`)
		count("a failure", "kubeproxy_network_programming_duration_seconds", 1)
		expect("a failure", "kubeproxy_sync_proxy_rules_nftables_sync_failures_total", `# HELP kubeproxy_sync_proxy_rules_nftables_sync_failures_total Failures to program the kernel.
# TYPE kubeproxy_sync_proxy_rules_nftables_sync_failures_total counter
kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"} 1
`)
		r.engine.set(nil, false)
		time.Sleep(time.Second)
		synctest.Wait()
		count("after it", "kubeproxy_network_programming_duration_seconds", 2)
		if n := testutil.ToFloat64(metrics.kube.endpointsPending); n != 0 {
			t.Errorf("%v changes are pending at the end", n)
		}
		if got, want := testutil.ToFloat64(metrics.kube.lastSync.WithLabelValues("IPv6")), float64(time.Now().UnixNano())/1e9; want-got > 6 {
			t.Errorf("last synced at %v, now is %v", got, want)
		}
		r.update(web("local", func(s *model.Service) {
			s.ClusterIPs = s.ClusterIPs[:0]
			s.ClusterIPs = append(s.ClusterIPs, ep(200).Addr)
			s.InternalTrafficPolicy = "Local"
		}), slice("local", ep(9, func(e *model.Endpoint) { e.Node = "elsewhere" })))
		expect("no local endpoints", "kubeproxy_sync_proxy_rules_no_local_endpoints_total", `# HELP kubeproxy_sync_proxy_rules_no_local_endpoints_total Ports of Services with a Local traffic policy and no endpoint on this node.
# TYPE kubeproxy_sync_proxy_rules_no_local_endpoints_total gauge
kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"} 1
`)
		r.update(slice("local", ep(9)))
		if n := testutil.ToFloat64(metrics.kube.noLocal.WithLabelValues("internal", "IPv4")); n != 0 {
			t.Errorf("%v ports without local endpoints", n)
		}
		for _, engine := range []string{"nftables", "iptables", "ipvs"} {
			problems, err := testutil.CollectAndLint(NewMetrics().For(engine))
			for _, p := range problems {
				// kube-proxy's own names.
				if p.Metric != "kubeproxy_sync_proxy_rules_no_local_endpoints_total" {
					t.Errorf("%s: %v", engine, p)
				}
			}
			if err != nil {
				t.Error(err)
			}
		}
		r.stop()
	})
}
