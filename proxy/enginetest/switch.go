package enginetest

import (
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/model"
)

// Switch replaces an engine by another one under load and back, so many times:
// the new one programs everything, then the old one is cleaned up, unless they
// are of one family: then the new one's first Sync does that. No connection
// fails, new or kept; those of an engine that keeps them in its own part of the
// kernel may end with it.
func Switch(t *testing.T, one, other Engine, times int) {
	w := NewWorld(t)
	d := newDriver(t, w, one)
	o := &objects{w: w, put: map[model.Key]any{}}
	must(t, o.service("web", []string{"nodeport", "lb=lb"}))
	must(t, o.endpoints("web", nil, []string{"b", "c"}))
	d.update(t, o.put, "")
	for i := range times {
		from, to := one, other
		if i%2 == 1 {
			from, to = other, one
		}
		t.Run(from.Name+" to "+to.Name, func(t *testing.T) {
			watches := w.loadAll(t)
			for _, o := range watches {
				o.wait(10)
				o.forgetful.Store(from.ForgetsConnections)
			}
			e, err := to.New(w.Options())
			must(t, err)
			d.owner.Cleanup(func() { _ = e.Close() })
			at := func(phase string) {
				for _, o := range watches {
					o.phase.Store(phase)
				}
			}
			at("the first Sync")
			must(t, e.Sync(t.Context(), d.plan))
			at("both are there")
			time.Sleep(50 * time.Millisecond)
			at("the cleanup")
			if from.Mark == "" || from.Mark != to.Mark {
				must(t, d.engine.Cleanup(t.Context()))
			}
			must(t, d.engine.Close())
			d.engine, d.about = e, to
			at("one is there")
			for _, o := range watches {
				o.wait(20)
			}
			stop(t, watches...)
			if from.Mark == "" {
				return
			}
			text, err := from.Dump(t.Context(), w)
			must(t, err)
			if strings.Contains(text, from.Mark) {
				t.Errorf("%s left\n%s", from.Name, text)
			}
		})
	}
	if !t.Failed() {
		must(t, d.engine.Cleanup(t.Context()))
		must(t, d.engine.Close())
	}
}
