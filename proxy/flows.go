package proxy

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Flows removes the kernel's memory of UDP flows that go nowhere any more. UDP
// has no end of a connection, so as long as the client sends, the kernel would
// go on translating to an endpoint that is gone.
type Flows interface {
	// Reconcile deletes the UDP flows to endpoints that may not be used any
	// more. It reports for each family that it looked at, also with an error.
	Reconcile(ctx context.Context, r Reconciliation) (map[Family]Reconciled, error)
}

// Reconciliation says after what to clean up.
type Reconciliation struct {
	Plan *Plan // that is in force
	// Changes led to the plan. Nil: everything may have changed, as after a
	// start, when flows may be left of Services that the plan does not know.
	Changes []Change
	// Later returns the changes that came since: those that are in force and
	// those that are about to be. A flow that one of them allows is healthy.
	// Nil: there are none.
	Later func() []Change
}

// Reconciled is what was done in one family.
type Reconciled struct {
	Deleted int
	Took    time.Duration
}

// flowWorker cleans up after steps that are in force, beside the programming of
// the next ones: a list of a million flows takes seconds.
type flowWorker struct {
	flows   Flows
	metrics *Metrics
	log     *slog.Logger
	wake    chan struct{} // holds a token while there may be something to do

	mu sync.Mutex // guards all below
	// plan is in force; all and pending say after what is to be cleaned up.
	plan    *Plan
	all     bool
	pending changeSet
	planned []Change // that the engine is about to put in force
}

func newFlowWorker(flows Flows, metrics *Metrics, log *slog.Logger) *flowWorker {
	return &flowWorker{flows: flows, metrics: metrics, log: log, wake: make(chan struct{}, 1), pending: changeSet{}}
}

// announce tells of changes before the engine gets them, so that no flow is
// taken for stale that they allow.
func (w *flowWorker) announce(changes []Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.planned = changes
}

// add tells that changes are in force; nil: everything.
func (w *flowWorker) add(plan *Plan, changes []Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.plan, w.planned = plan, nil
	if changes == nil {
		w.all = true
		w.pending = changeSet{}
	}
	for _, c := range changes {
		w.pending.add(c)
	}
	if w.all || len(w.pending) > 0 {
		w.awake()
	}
}

func (w *flowWorker) awake() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take returns what is to be done.
func (w *flowWorker) take() Reconciliation {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := Reconciliation{Plan: w.plan, Changes: w.pending.list(), Later: w.later}
	if w.all {
		r.Changes = nil
	}
	w.all, w.pending = false, changeSet{}
	return r
}

// later returns what came since take.
func (w *flowWorker) later() []Change {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Collect(maps.Values(w.pending))
	return append(out, w.planned...)
}

// giveBack returns what could not be done, to be done with what came since.
func (w *flowWorker) giveBack(r Reconciliation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.Changes == nil {
		w.all = true
	}
	w.pending.under(r.Changes)
}

// run cleans up until the context ends. What fails is tried again.
func (w *flowWorker) run(ctx context.Context) {
	retry := time.NewTimer(0)
	retry.Stop()
	defer retry.Stop()
	var wait time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-retry.C:
		}
		r := w.take()
		if r.Plan == nil || r.Changes != nil && len(r.Changes) == 0 {
			continue
		}
		done, err := w.flows.Reconcile(ctx, r)
		w.metrics.cleaned(done, err)
		deleted := 0
		for _, d := range done {
			deleted += d.Deleted
		}
		if deleted > 0 {
			w.log.Info("stale UDP flows removed", "flows", deleted)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			wait = min(max(2*wait, firstRetry), lastRetry)
			w.log.Error("cannot remove stale UDP flows", "error", err, "again in", wait)
			w.giveBack(r)
			retry.Reset(wait)
		default:
			wait = 0
		}
	}
}
