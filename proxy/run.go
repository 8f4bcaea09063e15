package proxy

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// Updates delivers what changed in a model; a [model.Watcher] does.
type Updates interface {
	Next(ctx context.Context) (model.Update, error)
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
	// Progress learns how far the kernel is behind the model.
	Progress *Progress
	// Applied is told each plan when the kernel does what it says, and which
	// Services changed since the plan that it was told before, each once,
	// ordered by name. Nil: everything may have changed, which the first plan
	// says and no other. It is called by one goroutine and must return soon.
	Applied func(plan *Plan, changes []Change)
	// VerifyEvery is the time between two looks for drift; 0: 2 s, so that what
	// is found is repaired within 5 s, with the time for a look and the repair.
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
		o.VerifyEvery = 2 * time.Second
	}
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	updates := make(chan arrived)
	ended := make(chan error, 1)
	background.Go(func() {
		for {
			up, err := o.Updates.Next(ctx)
			if err != nil {
				ended <- err
				return
			}
			now := time.Now()
			o.Progress.hold(now)
			o.Metrics.queued(now)
			select {
			case updates <- arrived{up, now}:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	})
	a := &applier{Options: o, full: true, since: changeSet{}, told: map[model.Name]bool{}}
	if o.Flows != nil {
		a.flows = newFlowWorker(o.Flows, o.Metrics, o.Log)
		background.Go(func() { a.flows.run(ctx) })
	}

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
			o.Progress.take(up.at)
			a.update(up.Update)
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

// arrived is an update of the model with the time when it came.
type arrived struct {
	model.Update
	at time.Time
}

// applier is the state of Run.
type applier struct {
	Options
	ready bool // the source has delivered its first full state
	full  bool // the engine needs all of the plan
	// step is what the engine has not got yet, unless full is set; since is
	// what changed after the plan that was last in force.
	step    *Changes
	since   changeSet
	applied *Plan
	flows   *flowWorker
	wait    time.Duration       // since the last failure; 0: there is none
	told    map[model.Name]bool // Services whose owners were told of problems
}

func (a *applier) update(up model.Update) {
	start := time.Now()
	changes := a.Planner.Update(up)
	a.Metrics.planned(up, changes, time.Since(start))
	for _, c := range changes.Services {
		a.report(c.Name, c.New)
		if a.applied != nil {
			a.since.add(c)
		}
	}
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
		a.Progress.forget()
		return true
	}
	plan := a.Planner.Plan()
	var changes []Change
	if a.applied != nil {
		changes = a.since.list()
	}
	if a.full || a.step != nil && !a.step.Empty() {
		if a.flows != nil {
			a.flows.announce(changes)
		}
		if err := a.program(ctx, plan, changes); err != nil {
			a.full = true
			a.Progress.take(time.Now()) // what Verify found counts too
			a.Log.Error("cannot program Services", "error", err, "revision", plan.Revision)
			return false
		}
	}
	a.full, a.step = false, nil
	now := time.Now()
	a.Progress.done(now)
	a.Metrics.applied(now)
	if a.applied == plan {
		return true
	}
	if a.Applied != nil {
		a.Applied(plan, changes)
	}
	if a.flows != nil {
		a.flows.add(plan, changes)
	}
	a.applied = plan
	clear(a.since)
	return true
}

// program gives the engine what it has not got.
func (a *applier) program(ctx context.Context, plan *Plan, changes []Change) error {
	start := time.Now()
	var err error
	if a.full {
		err = a.Engine.Sync(ctx, plan)
	} else {
		err = a.Engine.Apply(ctx, *a.step)
	}
	a.Metrics.synced(a.full, changes, time.Since(start), err)
	if err != nil {
		return err
	}
	a.limits(plan, changes)
	what, changed := "changes", len(changes)
	if a.full {
		what = "all"
	}
	if changes == nil {
		changed = plan.Len()
	}
	a.Log.Info("Services programmed", "revision", plan.Revision, "what", what, "services", plan.Len(),
		"changed", changed, "took", time.Since(start))
	return nil
}

func (a *applier) verify(ctx context.Context) {
	if !a.ready || a.full {
		return
	}
	repaired, err := a.Engine.Verify(ctx)
	if err != nil {
		a.Metrics.unverified()
		a.Log.Error("cannot verify the rules of Services", "error", err)
		a.full = true
	}
	if repaired {
		a.Metrics.repaired()
		a.Log.Warn("the rules of Services had been changed by somebody else and were repaired")
	}
}

// limits tells the owners of Services what the engine lacks for them.
func (a *applier) limits(plan *Plan, changes []Change) {
	if _, ok := a.Engine.(Limited); !ok {
		return
	}
	for _, c := range changes {
		a.report(c.Name, c.New)
	}
	if a.full {
		for s := range plan.Services() {
			a.report(s.Name, s)
		}
	}
}

// report tells the owner of a Service of its mistakes, and of what the engine
// lacks for it.
func (a *applier) report(name model.Name, s *Service) {
	if a.Status == nil {
		return
	}
	var problems []Problem
	if s != nil {
		problems = s.Problems
		if e, ok := a.Engine.(Limited); ok {
			problems = slices.Concat(problems, e.Problems(name))
		}
	}
	key := model.Key{Kind: model.KindService, Namespace: name.Namespace, Name: name.Name}
	if len(problems) == 0 {
		if a.told[name] {
			a.Status.Clear("proxy", key)
			delete(a.told, name)
		}
		return
	}
	condition := metav1.Condition{Type: "Programmed", Status: metav1.ConditionFalse, Reason: problems[0].Reason}
	for i, p := range problems {
		if i > 0 {
			condition.Message += "; "
		}
		condition.Message += p.Message
	}
	a.Status.Set("proxy", key, status.Report{Conditions: []metav1.Condition{condition}})
	a.told[name] = true
}
