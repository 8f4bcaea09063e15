package ingress

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/route"
)

// Part is the name under which this package reports on objects.
const Part = "ingress"

// ProgressSource tells how far the proxies of a group are, counting all that
// was published before the call.
type ProgressSource interface {
	Progress(route.Group) route.Progress
}

// Options are what [Run] works on.
type Options struct {
	PlannerOptions
	Store     *model.Store
	Publisher route.Publisher
	Board     *status.Board
	Progress  ProgressSource
	// Moved waits until the progress of groups may have changed since the
	// last call, and names them. Its error ends the wait for good.
	Moved func(context.Context) ([]route.Group, error)
	// Groups, if set, is told which proxies are needed, and no longer.
	Groups func([]GroupChange)
	// Planned, if set, is called once, when all that there was at the start
	// has been published. Before that no proxy should be served: it would
	// take what is missing for removed.
	Planned func()
	Metrics *Metrics     // nil: none
	Log     *slog.Logger // nil: slog.Default()
}

// Run plans from the store, publishes the plan and reports on the objects until
// the context ends, whose error it returns. It waits for the source's first
// full state of all [Kinds], so that nothing is planned from half of it.
func Run(ctx context.Context, o Options) error {
	if o.Store == nil || o.Publisher == nil || o.Board == nil {
		return errors.New("ingress: a store, a publisher and a board are needed")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	r := &runner{Options: o, planner: NewPlanner(o.PlannerOptions)}
	w := o.Store.Watch()
	defer w.Stop()
	updates := follow(ctx, w.Next)
	var moved <-chan []route.Group
	if o.Progress != nil && o.Moved != nil {
		moved = follow(ctx, o.Moved)
	}
	pending := model.Update{Old: model.Empty()}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case up, ok := <-updates:
			if !ok {
				return ctx.Err()
			}
			if r.started {
				r.update(up)
				continue
			}
			pending.New, pending.Changed = up.New, append(pending.Changed, up.Changed...)
			if up.New.Synced(Kinds()...) {
				r.update(pending)
				pending = model.Update{}
			}
		case groups, ok := <-moved:
			if !ok {
				moved = nil
				continue
			}
			if r.started {
				for _, g := range groups {
					r.apply(r.planner.Progress(o.Progress.Progress(g)))
				}
			}
		}
	}
}

// follow calls next again and again, and hands on what it returns, until it
// fails.
func follow[T any](ctx context.Context, next func(context.Context) (T, error)) <-chan T {
	out := make(chan T)
	go func() {
		defer close(out)
		for {
			v, err := next(ctx)
			if err != nil {
				return
			}
			select {
			case out <- v:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

type runner struct {
	Options
	planner *Planner
	started bool
}

func (r *runner) update(up model.Update) {
	begin := time.Now()
	res := r.planner.Update(up)
	took := time.Since(begin)
	r.apply(res)
	r.Metrics.observe(r.planner, res, took)
	if len(res.Changes)+len(res.Reports) > 0 {
		r.Log.Info("ingress planned", "revision", up.New.Revision(), "objects", len(up.Changed),
			"resources", len(res.Changes), "reports", len(res.Reports), "took", took)
	}
	if !r.started {
		r.started = true
		if r.Planned != nil {
			r.Planned()
		}
	}
}

func (r *runner) apply(res Result) {
	if len(res.Changes) > 0 {
		r.Publisher.Publish(res.Changes)
	}
	if len(res.Groups) > 0 && r.Groups != nil {
		r.Groups(res.Groups)
	}
	for _, rep := range res.Reports {
		if rep.Gone {
			r.Board.Clear(Part, rep.Key)
		} else {
			r.Board.Set(Part, rep.Key, rep.Report)
		}
	}
	if r.Progress == nil {
		return
	}
	// A group may have been acknowledged already, before the planner knew
	// of it; nothing would tell of that again.
	for _, g := range res.Groups {
		if !g.Gone {
			r.apply(r.planner.Progress(r.Progress.Progress(g.Group)))
		}
	}
}
