package mesh

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/route"
)

// Part is the name under which the mesh reports on objects.
const Part = "mesh"

// ProgressSource tells how far the proxies of a group are, counting all that
// was published before the call.
type ProgressSource interface {
	Progress(route.Group) route.Progress
}

// Options are what [Run] works on.
type Options struct {
	Config
	Store *model.Store
	// Publisher, Progress and Board are not needed with Config.SplitsOnly.
	Publisher route.Publisher
	Progress  ProgressSource
	Board     *status.Board
	// Planned, if set, is called once, when all that there was at the start
	// has been published. Before that no proxy should be served: it would
	// take what is missing for removed.
	Planned func()
	// Log is slog.Default() if nil.
	Log *slog.Logger
}

// pollInterval is how often proxies are asked while a change waits for them.
const pollInterval = 20 * time.Millisecond

// Run plans the mesh from the store, publishes the plan and keeps both in step
// until the context ends. It waits for the source's first full state of the
// kinds that it reads, and marks [model.KindSplit] as synced when the kernel's
// shares are in the store.
func Run(ctx context.Context, o Options) error {
	if o.Store == nil || !o.SplitsOnly && (o.Publisher == nil || o.Progress == nil || o.Board == nil) {
		return errors.New("mesh: a store, a publisher, a source of progress and a board are needed")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if err := synced(ctx, o.Store, o.Kinds()); err != nil {
		return err
	}
	w := o.Store.Watch()
	defer w.Stop()
	updates := make(chan model.Update)
	go func() {
		defer close(updates)
		for {
			up, err := w.Next(ctx)
			if err != nil {
				return
			}
			select {
			case updates <- up:
			case <-ctx.Done():
				return
			}
		}
	}()

	r := runner{Options: o, planner: NewPlanner(o.Config)}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		var waiting <-chan time.Time
		if r.planner.Waiting() {
			waiting = tick.C
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case up, ok := <-updates:
			if !ok {
				return ctx.Err()
			}
			r.update(up)
		case now := <-waiting:
			r.apply(r.planner.Advance(now, o.Progress.Progress))
		}
	}
}

// synced waits until the store has all that the planner reads.
func synced(ctx context.Context, store *model.Store, kinds []model.KindID) error {
	w := store.Watch()
	defer w.Stop()
	for {
		up, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if up.New.Synced(kinds...) {
			return nil
		}
	}
}

type runner struct {
	Options
	planner *Planner
	started bool
}

func (r *runner) update(up model.Update) {
	begin := time.Now()
	res := r.planner.Update(up)
	r.apply(res)
	if !res.Empty() {
		r.Log.Info("mesh planned", "revision", up.New.Revision(), "objects", len(up.Changed),
			"resources", len(res.Changes), "splits", len(res.PutSplits)+len(res.DeleteSplits), "took", time.Since(begin))
	}
	if !r.started {
		r.started = true
		r.Store.Update(func(tx *model.Txn) { tx.MarkSynced(model.KindSplit) })
		if r.Planned != nil {
			r.Planned()
		}
	}
}

func (r *runner) apply(res Result) {
	if len(res.PutSplits)+len(res.DeleteSplits) > 0 {
		r.Store.Update(func(tx *model.Txn) {
			for _, s := range res.PutSplits {
				model.Splits.Put(tx, s)
			}
			for _, key := range res.DeleteSplits {
				tx.Delete(key)
			}
		})
	}
	if len(res.Changes) > 0 {
		r.Publisher.Publish(res.Changes)
	}
	for key, report := range res.Reports {
		if report == nil {
			r.Board.Clear(Part, key)
		} else {
			r.Board.Set(Part, key, *report)
		}
	}
}
