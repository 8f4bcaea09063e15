package proxy

import (
	"context"
	"log/slog"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// Updates delivers what changed in a model; a [model.Watcher] does.
type Updates interface {
	Next(ctx context.Context) (model.Update, error)
}

// Flows removes the kernel's memory of UDP flows that go nowhere any more. UDP
// has no end of a connection, so as long as the client sends, the kernel would
// go on translating to an endpoint that is gone.
type Flows interface {
	// Clean looks at the UDP frontends of the changes, before and after, and
	// deletes the flows to endpoints that are not among those that may go on.
	Clean(ctx context.Context, changes []Change) (deleted int, err error)
}

// Options of [Run]. Updates, Planner and Engine are required.
type Options struct {
	Updates Updates
	Planner *Planner
	Engine  Engine
	Flows   Flows
	Status  *status.Board // gets users' mistakes, as part "proxy"
	Metrics *Metrics
	Log     *slog.Logger
	// Applied is told each plan when the kernel does what it says. It must
	// return soon.
	Applied func(*Plan)
	// VerifyEvery is the time between two looks for drift; 0: 5 s.
	VerifyEvery time.Duration
}

// The waiting times after a failure: doubled from the first to the last.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// Run keeps the engine at the newest plan until the context ends, and returns
// the context's error. It leaves the kernel as it is. Nothing is programmed
// before the source has delivered all Services and EndpointSlices, so that a
// restart disturbs nothing.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics()
	}
	if o.VerifyEvery == 0 {
		o.VerifyEvery = 5 * time.Second
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	updates := make(chan model.Update)
	ended := make(chan error, 1)
	go func() {
		for {
			up, err := o.Updates.Next(ctx)
			if err != nil {
				ended <- err
				return
			}
			select {
			case updates <- up:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()

	a := &applier{Options: o, full: true}
	verify := time.NewTicker(o.VerifyEvery)
	defer verify.Stop()
	retry := time.NewTimer(0)
	retry.Stop()
	defer retry.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case up := <-updates:
			a.update(up)
		case <-retry.C:
		case <-verify.C:
			a.verify(ctx)
		}
		if !a.apply(ctx) {
			a.wait = min(max(2*a.wait, firstRetry), lastRetry)
			retry.Reset(a.wait)
		} else {
			a.wait = 0
		}
	}
}

// applier is the state of Run.
type applier struct {
	Options
	ready bool // the source has delivered its first full state
	full  bool // the engine needs all of the plan
	// step is what the engine has not got yet, unless full is set; flows what
	// has not been cleaned up after yet.
	step    *Changes
	flows   []Change
	applied *Plan
	wait    time.Duration // since the last failure; 0: there is none
}

func (a *applier) update(up model.Update) {
	start := time.Now()
	changes := a.Planner.Update(up)
	a.Metrics.planned(changes, time.Since(start))
	for _, c := range changes.Services {
		a.report(c)
	}
	a.flows = append(a.flows, changes.Services...)
	switch {
	case !a.ready:
		a.ready = up.New.Synced(model.KindService, model.KindEndpointSlice)
	case a.step != nil:
		// The step before failed, and what the kernel has is not known.
		a.full = true
	}
	a.step = &changes
}

// apply does what is to be done, and reports whether all of it is done.
func (a *applier) apply(ctx context.Context) bool {
	if !a.ready {
		return true
	}
	plan := a.Planner.Plan()
	if a.full || a.step != nil && !a.step.Empty() {
		start := time.Now()
		var err error
		kind := "changes"
		if a.full {
			kind = "all"
			err = a.Engine.Sync(ctx, plan)
		} else {
			err = a.Engine.Apply(ctx, *a.step)
		}
		a.Metrics.synced(kind, time.Since(start), err)
		if err != nil {
			a.full = true
			a.Log.Error("cannot program Services", "error", err, "revision", plan.Revision)
			return false
		}
		a.Log.Info("Services programmed", "revision", plan.Revision, "what", kind, "services", plan.Len(),
			"changed", len(a.flows), "took", time.Since(start))
	}
	a.full, a.step = false, nil
	if a.Applied != nil && a.applied != plan {
		a.Applied(plan)
	}
	a.applied = plan
	if a.Flows != nil && len(a.flows) > 0 {
		deleted, err := a.Flows.Clean(ctx, a.flows)
		a.Metrics.cleaned(deleted, err)
		if err != nil {
			a.Log.Error("cannot remove stale UDP flows", "error", err)
			return false
		}
		if deleted > 0 {
			a.Log.Info("stale UDP flows removed", "flows", deleted)
		}
	}
	a.flows = nil
	return true
}

func (a *applier) verify(ctx context.Context) {
	if !a.ready || a.full {
		return
	}
	repaired, err := a.Engine.Verify(ctx)
	if err != nil {
		a.Log.Error("cannot verify the rules of Services", "error", err)
		a.full = true
	}
	if repaired {
		a.Metrics.repaired()
		a.Log.Warn("the rules of Services had been changed by somebody else and were repaired")
	}
}

// report tells the owner of a Service of its mistakes.
func (a *applier) report(c Change) {
	if a.Status == nil {
		return
	}
	key := model.Key{Kind: model.KindService, Namespace: c.Name.Namespace, Name: c.Name.Name}
	if c.New == nil || len(c.New.Problems) == 0 {
		if c.Old != nil && len(c.Old.Problems) > 0 {
			a.Status.Clear("proxy", key)
		}
		return
	}
	condition := metav1.Condition{Type: "Programmed", Status: metav1.ConditionFalse, Reason: c.New.Problems[0].Reason}
	for i, p := range c.New.Problems {
		if i > 0 {
			condition.Message += "; "
		}
		condition.Message += p.Message
	}
	a.Status.Set("proxy", key, status.Report{Conditions: []metav1.Condition{condition}})
}
