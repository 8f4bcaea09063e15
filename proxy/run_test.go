package proxy

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// fakeEngine holds the plan that it was last given, and fails when told to.
type fakeEngine struct {
	mu    sync.Mutex // guards all
	calls []string
	plan  *Plan
	fail  error
	drift bool
}

func (e *fakeEngine) Sync(_ context.Context, plan *Plan) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls = append(e.calls, "sync")
	if e.fail != nil {
		return e.fail
	}
	e.plan = plan
	return nil
}

func (e *fakeEngine) Apply(_ context.Context, c Changes) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls = append(e.calls, "apply")
	if e.plan != c.Old {
		return errors.New("a step from a plan that is not in force")
	}
	if e.fail != nil {
		return e.fail
	}
	e.plan = c.New
	return nil
}

func (e *fakeEngine) Verify(context.Context) (bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	drift := e.drift
	e.drift = false
	if drift && e.fail != nil {
		return false, e.fail
	}
	return drift, nil
}

func (e *fakeEngine) Cleanup(context.Context) error { return nil }
func (e *fakeEngine) Close() error                  { return nil }

// set tells the engine what to do from now on.
func (e *fakeEngine) set(fail error, drift bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fail, e.drift = fail, drift
}

func (e *fakeEngine) took() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := strings.Join(e.calls, " ")
	e.calls = nil
	return s
}

type fakeFlows struct{ cleaned int }

func (f *fakeFlows) Reconcile(_ context.Context, r Reconciliation) (map[Family]Reconciled, error) {
	f.cleaned += len(r.Changes)
	if r.Changes == nil {
		f.cleaned += r.Plan.Len()
	}
	return map[Family]Reconciled{IPv4: {Deleted: 1}}, nil
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, board, metrics := model.NewStore(), status.NewBoard(), NewMetrics()
		engine, flows := &fakeEngine{}, &fakeFlows{}
		var applied *Plan
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- Run(ctx, Options{
				Updates: store.Watch(), Planner: NewPlanner(Config{Node: "node1"}), Engine: engine, Flows: flows, Status: board, Metrics: metrics,
				Applied: func(p *Plan, _ []Change) { applied = p },
			})
		}()
		expect := func(calls string) {
			t.Helper()
			synctest.Wait()
			if got := engine.took(); got != calls {
				t.Fatalf("the engine was called for %q, want %q", got, calls)
			}
		}
		name := model.Name{Namespace: "default", Name: "web"}

		// Nothing happens until all Services and EndpointSlices are known.
		store.Update(func(tx *model.Txn) { put(tx, web("web")) })
		expect("")
		store.Update(func(tx *model.Txn) { tx.MarkSynced(model.KindService) })
		expect("")
		store.Update(func(tx *model.Txn) { put(tx, slice("web", ep(1))); tx.MarkSynced(model.KindEndpointSlice) })
		expect("sync")
		if applied == nil || applied.Revision != store.Snapshot().Revision() || flows.cleaned == 0 {
			t.Fatalf("after the first sync: applied %v, %d flows' Services", applied, flows.cleaned)
		}

		store.Update(func(tx *model.Txn) { put(tx, slice("web", ep(1), ep(2))) })
		expect("apply")
		store.Update(func(tx *model.Txn) { put(tx, pod("p", "v1")) }) // concerns no Service
		expect("")
		if applied.Revision != store.Snapshot().Revision() {
			t.Error("a revision that changes nothing is not reported as applied")
		}

		// A failure is tried again as a whole, with growing pauses, and what
		// comes meanwhile is not lost.
		engine.set(errors.New("no"), false)
		cleaned := flows.cleaned
		store.Update(func(tx *model.Txn) { put(tx, slice("web", ep(2))) })
		expect("apply")
		time.Sleep(firstRetry)
		expect("sync")
		store.Update(func(tx *model.Txn) { put(tx, slice("web", ep(3))) })
		expect("sync")
		engine.set(nil, false)
		time.Sleep(time.Minute)
		expect("sync")
		if got := engine.plan.Service(name).Ports[0].Cluster[0].Addr().String(); got != "10.244.0.3" || flows.cleaned != cleaned+1 {
			t.Errorf("after the failure: endpoint %s, %d Services' flows cleaned", got, flows.cleaned-cleaned)
		}
		store.Update(func(tx *model.Txn) { put(tx, slice("web", ep(1))) })
		expect("apply")

		// A mistake is told to whoever made it, until it is repaired.
		store.Update(func(tx *model.Txn) { put(tx, web("thief")) })
		expect("apply")
		key := model.Key{Kind: model.KindService, Namespace: "default", Name: "thief"}
		if c := board.Get(key)["proxy"].Conditions; len(c) != 1 || c[0].Reason != "AddressConflict" || !strings.Contains(c[0].Message, "default/web") {
			t.Errorf("a conflict is reported as %v", c)
		}
		store.Update(func(tx *model.Txn) { tx.Delete(model.Key{Kind: model.KindService, Namespace: "default", Name: "web"}) })
		expect("apply")
		if len(board.All()) != 0 {
			t.Errorf("after the conflict: %v", board.All())
		}

		engine.set(nil, true)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if got := testutil.ToFloat64(metrics.repairs); got != 1 {
			t.Errorf("%v repairs are counted", got)
		}
		if got := testutil.ToFloat64(metrics.errors); got < 3 {
			t.Errorf("%v failures are counted", got)
		}
		want := "# HELP sluice_proxy_services Services that are proxied.\n# TYPE sluice_proxy_services gauge\nsluice_proxy_services 1\n"
		if err := testutil.CollectAndCompare(metrics, strings.NewReader(want), "sluice_proxy_services"); err != nil {
			t.Error(err)
		}
		if problems, err := testutil.CollectAndLint(metrics); err != nil || len(problems) > 0 {
			t.Error(problems, err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
}

// limitedEngine cannot do what Services with a scheduler ask for.
type limitedEngine struct{ fakeEngine }

func (e *limitedEngine) Problems(name model.Name) []Problem {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.plan == nil {
		return nil
	}
	if s := e.plan.Service(name); s != nil && s.Scheduler != "" {
		return []Problem{{Reason: "UnknownScheduler", Message: "scheduler " + s.Scheduler + " is not known"}}
	}
	return nil
}

// TestRunLimited checks that owners of Services are told what the engine lacks
// for them: from the first step, after a change and a repair, and beside what is
// wrong in the plan.
func TestRunLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, board, engine := model.NewStore(), status.NewBoard(), &limitedEngine{}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- Run(ctx, Options{Updates: store.Watch(), Planner: NewPlanner(Config{Node: "node1"}), Engine: engine, Status: board})
		}()
		put := func(name, scheduler string) {
			store.Update(func(tx *model.Txn) {
				s := web(name)
				s.Scheduler = scheduler
				put(tx, s)
				tx.MarkSynced(model.KindService)
				tx.MarkSynced(model.KindEndpointSlice)
			})
			synctest.Wait()
		}
		expect := func(name, want string) {
			t.Helper()
			var got []string
			for _, c := range board.Get(model.Key{Kind: model.KindService, Namespace: "default", Name: name})["proxy"].Conditions {
				got = append(got, c.Reason+": "+c.Message)
			}
			if text := strings.Join(got, "\n"); text != want {
				t.Errorf("%s has the conditions %q, want %q", name, text, want)
			}
		}
		put("web", "fastest")
		expect("web", "UnknownScheduler: scheduler fastest is not known")
		put("web", "")
		expect("web", "")
		engine.set(errors.New("no"), false)
		put("web", "best")
		expect("web", "")
		engine.set(nil, false)
		time.Sleep(time.Minute)
		synctest.Wait()
		expect("web", "UnknownScheduler: scheduler best is not known")
		put("thief", "nearest")
		expect("thief", "AddressConflict: spec.clusterIPs[0]: ClusterIP tcp 10.96.0.1:80 belongs to Service default/web; scheduler nearest is not known")
		store.Update(func(tx *model.Txn) { tx.Delete(model.Key{Kind: model.KindService, Namespace: "default", Name: "web"}) })
		synctest.Wait()
		expect("web", "")
		expect("thief", "UnknownScheduler: scheduler nearest is not known")
		cancel()
		<-done
	})
}
