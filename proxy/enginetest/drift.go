package enginetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// repairTime is how soon damage is to be repaired, on a machine that is busy
// with other tests; the agent looks every two seconds.
const repairTime = 30 * time.Second

// Drift damages the engine's rules from outside, with their own tools, while the
// agent's loop runs: it repairs and counts each time, and is then content.
func Drift(t *testing.T, engine Engine) {
	w := NewWorld(t)
	o := &objects{w: w, put: w.control("")}
	must(t, o.service("web", []string{"nodeport", "lb=lb", "affinity=1h", "etp=Local", "sources=10.0.0.0/8,fd00::/16"}))
	must(t, o.endpoints("web", nil, []string{"b", "c"}))
	store := model.NewStore()
	store.Update(func(tx *model.Txn) {
		for _, obj := range o.put {
			put(tx, obj)
		}
		put(tx, w.nodeObject(""))
		tx.MarkSynced(model.KindService)
		tx.MarkSynced(model.KindEndpointSlice)
	})
	e, err := engine.New(w.Options())
	must(t, err)
	cfg, err := config(nil)
	must(t, err)
	metrics, applied, ended := proxy.NewMetrics(), make(chan struct{}, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- proxy.Run(ctx, proxy.Options{Updates: store.Watch(), Planner: proxy.NewPlanner(cfg), Engine: e, Flows: w.flows, Metrics: metrics,
			VerifyEvery: 50 * time.Millisecond, Applied: func(*proxy.Plan, []proxy.Change) {
				select {
				case applied <- struct{}{}:
				default:
				}
			}})
	}()
	defer func() {
		cancel()
		<-ended //nolint:errcheck // it says that it was cancelled
		must(t, e.Close())
	}()
	<-applied
	works := func() error {
		p := newProber(w, engine.Name)
		defer p.close()
		for _, text := range []string{"a control: c d", "client control: c d", "client nodeport: b from=kept", "client lb: b from=kept", "node nodeport:32100: c d"} {
			probes, err := parseCases("", "case x\nprobe "+text)
			if err != nil {
				return err
			}
			for _, probe := range probes[0].Steps[0].Probes {
				for _, family := range probe.Families {
					if err := p.one(probe, "tcp", family); err != nil {
						return fmt.Errorf("%s: %w", text, err)
					}
				}
			}
		}
		return nil
	}
	must(t, works())
	if n := repairs(t, metrics); n != 0 {
		t.Errorf("%v repairs without any damage", n)
	}
	for _, damage := range engine.Damage {
		t.Run(damage.Name, func(t *testing.T) {
			before := repairs(t, metrics)
			if damage.Do != nil {
				must(t, damage.Do(t.Context(), w))
			} else {
				_, err := w.Command(t.Context(), damage.Command[0], damage.Command[1:]...)
				must(t, err)
			}
			for start := time.Now(); repairs(t, metrics) == before; time.Sleep(10 * time.Millisecond) {
				if time.Since(start) > repairTime {
					t.Fatal("nothing was repaired")
				}
			}
			if err := works(); err != nil {
				t.Errorf("after the repair: %v", err)
			}
			after := repairs(t, metrics)
			time.Sleep(200 * time.Millisecond) // some more looks
			if again := repairs(t, metrics); again != after || after > before+2 {
				t.Errorf("%v repairs, and %v more when all was well", after-before, again-after)
			}
		})
	}
}

// repairs returns how many repairs were counted.
func repairs(t *testing.T, m *proxy.Metrics) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	must(t, r.Register(m))
	families, err := r.Gather()
	must(t, err)
	for _, f := range families {
		if f.GetName() == "sluice_proxy_repairs_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatal("repairs are not counted")
	return 0
}
