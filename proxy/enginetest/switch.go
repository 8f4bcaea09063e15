package enginetest

import (
	"testing"
	"time"

	"github.com/sluicenet/sluice/model"
)

// Switch replaces an engine by another one under load and back, several times:
// the new one programs everything, then the old one is cleaned up. No connection
// fails, new or kept; kept ones only where the kernel keeps them beside the
// engine's part of it.
func Switch(t *testing.T, one, other Engine) {
	w := NewWorld(t)
	d := newDriver(t, w, one)
	o := &objects{w: w, put: map[model.Key]any{}}
	must(t, o.service("web", []string{"nodeport", "lb=lb"}))
	must(t, o.endpoints("web", nil, []string{"b", "c"}))
	d.update(t, o.put, "")
	for i := range 4 {
		from, to := one, other
		if i%2 == 1 {
			from, to = other, one
		}
		t.Run(from.Name+" to "+to.Name, func(t *testing.T) {
			kept := !from.ForgetsConnections && !to.ForgetsConnections
			watches := []*watcher{
				w.watchTCP(t, "vip", "a", "client"), w.watchTCP(t, "nodeport", "client"), w.watchTCP(t, "lb", "stranger"),
			}
			for _, o := range watches {
				o.wait(10)
				o.forgetful.Store(!kept)
			}
			e, err := to.New(w.Options())
			must(t, err)
			must(t, e.Sync(t.Context(), d.plan))
			time.Sleep(50 * time.Millisecond) // both are there
			must(t, d.engine.Cleanup(t.Context()))
			must(t, d.engine.Close())
			d.engine, d.about = e, to
			for _, o := range watches {
				o.wait(20)
				o.stop(t)
			}
		})
	}
	must(t, d.engine.Cleanup(t.Context()))
	must(t, d.engine.Close())
}
