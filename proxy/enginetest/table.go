package enginetest

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// verifyEvery is after how many cases the engine looks for drift, of which there
// must be none.
const verifyEvery = 10

// Table runs the packet cases through an engine: all, or one in every so many.
func Table(t *testing.T, engine Engine, every int) {
	cases, err := Cases()
	must(t, err)
	d := newDriver(t, NewWorld(t), engine)
	watch := d.w.watch(t)
	for i, c := range cases {
		if i%every != 0 {
			continue
		}
		watch.phase.Store(c.Name)
		t.Run(strings.ReplaceAll(c.Name, " ", "_"), func(t *testing.T) { d.runCase(t, c) })
		if i%verifyEvery == 0 {
			if repaired, err := d.engine.Verify(t.Context()); err != nil || repaired {
				t.Errorf("after %q: verify: repaired %v, %v", c.Name, repaired, err)
			}
		}
	}
	stop(t, watch)
}

// driver keeps an engine at a model, as the node's agent does, and step by step.
type driver struct {
	// owner is the test whose end closes engines: they outlive the subtests
	// that start them.
	owner   testing.TB
	w       *World
	about   Engine
	engine  proxy.Engine
	store   *model.Store
	watch   *model.Watcher
	planner *proxy.Planner
	config  []string
	// proxyName is that of the configuration.
	proxyName string
	full      bool // the next update is a Sync
	plan      *proxy.Plan
	present   map[model.Key]any
	// traceTook is how long the last look at the kernel's rules took.
	traceTook time.Duration
}

func newDriver(t *testing.T, w *World, about Engine) *driver {
	t.Helper()
	d := &driver{w: w, about: about, store: model.NewStore(), present: map[model.Key]any{}}
	d.start(t, w.Options())
	d.configure(t, nil)
	d.update(t, nil, "")
	return d
}

// start makes a new engine, which takes over at the next update.
func (d *driver) start(t *testing.T, o Options) {
	t.Helper()
	e, err := d.about.New(o)
	must(t, err)
	d.engine, d.full = e, true
	if d.owner == nil {
		d.owner = t
	}
	d.owner.Cleanup(func() { _ = e.Close() })
}

// configure makes a new planner; the engine gets its whole plan next.
func (d *driver) configure(t *testing.T, words []string) {
	t.Helper()
	if d.planner != nil && slices.Equal(words, d.config) {
		return
	}
	cfg, err := config(words)
	must(t, err)
	if d.watch != nil {
		d.watch.Stop()
	}
	d.proxyName = cfg.ProxyName
	d.watch, d.planner, d.config, d.full = d.store.Watch(), proxy.NewPlanner(cfg), words, true
}

// update makes the objects those that the model has, beside the node and the
// control Service, and programs it.
func (d *driver) update(t *testing.T, objects map[model.Key]any, zone string) {
	t.Helper()
	if err := d.apply(t, objects, zone); err != nil {
		t.Errorf("program: %v", err)
		must(t, d.engine.Sync(t.Context(), d.plan))
	}
}

// apply is update that returns the engine's error.
func (d *driver) apply(t *testing.T, objects map[model.Key]any, zone string) error {
	t.Helper()
	all := map[model.Key]any{{Kind: model.KindNode, Name: "node1"}: d.w.nodeObject(zone)}
	maps.Copy(all, d.w.control(d.proxyName))
	maps.Copy(all, objects)
	d.store.Update(func(tx *model.Txn) {
		for k := range d.present {
			if all[k] == nil {
				tx.Delete(k)
			}
		}
		for k, obj := range all {
			if !reflect.DeepEqual(obj, d.present[k]) {
				put(tx, obj)
			}
		}
	})
	d.present = all
	return d.follow(t.Context())
}

// follow has the engine make the step to the newest snapshot.
func (d *driver) follow(ctx context.Context) error {
	if d.plan != nil && !d.full && d.planner.Plan().Revision == d.store.Snapshot().Revision() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	up, err := d.watch.Next(ctx)
	if err != nil {
		return err
	}
	changes := d.planner.Update(up)
	d.plan = changes.New
	flows := proxy.Reconciliation{Plan: d.plan, Changes: changes.Services}
	if d.full {
		flows.Changes = nil
		err = d.engine.Sync(ctx, d.plan)
	} else {
		err = d.engine.Apply(ctx, changes)
	}
	if d.full = err != nil; d.full {
		return err
	}
	if flows.Changes != nil || len(changes.Services) > 0 {
		_, err = d.w.flows.Reconcile(ctx, flows)
	}
	return err
}

// put puts an object of any of the kinds that cases have.
func put(tx *model.Txn, obj any) {
	switch obj := obj.(type) {
	case *model.Service:
		model.Services.Put(tx, obj)
	case *model.EndpointSlice:
		model.EndpointSlices.Put(tx, obj)
	case *model.Split:
		model.Splits.Put(tx, obj)
	case *model.Pod:
		model.Pods.Put(tx, obj)
	case *model.Node:
		model.Nodes.Put(tx, obj)
	default:
		panic(fmt.Sprintf("cases have no %T", obj))
	}
}

// runCase runs the steps of one case.
func (d *driver) runCase(t *testing.T, c Case) {
	d.configure(t, c.Config)
	o := &objects{w: d.w, put: map[model.Key]any{}}
	p := newProber(d.w, d.about.Name)
	defer p.close()
	for i, step := range c.Steps {
		for _, l := range step.Objects {
			if err := o.line(l); err != nil {
				t.Fatalf("%s:%d: %v", c.File, l.Number, err)
			}
		}
		d.update(t, o.put, o.zone)
		failures := d.problems(step)
		if failures = append(failures, p.run(step.Probes)...); failures == nil {
			continue
		}
		for _, err := range failures {
			t.Errorf("%s, step %d: %v", c.File, i+1, err)
		}
		t.Logf("rule: %s", c.Rule)
		for k := range o.put {
			if s := d.plan.Service(model.Name{Namespace: k.Namespace, Name: k.Name}); k.Kind == model.KindService && s != nil {
				t.Logf("%s", s)
			}
		}
	}
}

// problems compares the mistakes that the plan tells of with those expected.
func (d *driver) problems(step Step) []error {
	var out []error
	for _, l := range step.Objects {
		if l.Directive != "problem" || len(l.Head) < 2 {
			continue
		}
		var reasons []string
		if s := d.plan.Service(model.Name{Namespace: namespace, Name: l.Head[0]}); s != nil {
			for _, p := range s.Problems {
				reasons = append(reasons, p.Reason)
			}
		}
		want := l.Head[1:]
		if want[0] == "none" {
			want = nil
		}
		if !sameSet(reasons, want) {
			out = append(out, fmt.Errorf("line %d: Service %s has the problems %v, want %v", l.Number, l.Head[0], reasons, want))
		}
	}
	return out
}
