package enginetest

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/vm"
	"github.com/sluicenet/sluice/model"
)

// Hostile gives an engine what users and machines get wrong: it says so in a
// clear error, and everything else keeps working.
func Hostile(t *testing.T, engine Engine) {
	w := NewWorld(t)
	d := newDriver(t, w, engine)
	watch := w.watch(t)
	defer stop(t, watch)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *driver)
	}{{"ten thousand ports", manyPorts}, {"locked", locked}, {"no right", noRight}, {"Apply after a failure", applyAfterFailure}} {
		watch.phase.Store(test.name)
		t.Run(test.name, func(t *testing.T) { test.run(t, d) })
	}
}

// check runs probes that are written as in cases.
func (d *driver) check(t *testing.T, probes string) {
	t.Helper()
	cases, err := parseCases("probes", "case "+t.Name()+"\n"+probes)
	must(t, err)
	p := newProber(d.w, d.about.Name)
	defer p.close()
	for _, err := range p.run(cases[0].Steps[0].Probes) {
		t.Error(err)
	}
}

// manyPorts has a Service with 10,000 ports come, change and go. A guest, whose
// processor is emulated, gets a tenth of them.
func manyPorts(t *testing.T, d *driver) {
	o := &objects{w: d.w, put: map[model.Key]any{}}
	last := 10999
	if vm.Guest() {
		last = 1999
	}
	must(t, o.service("big", []string{fmt.Sprintf("ports=p:1000-%d/tcp>8080", last), "families=4"}))
	must(t, o.endpoints("big", []string{"only=4"}, []string{"b"}))
	start := time.Now()
	d.update(t, o.put, "")
	added := time.Since(start)
	d.check(t, fmt.Sprintf("probe a vip:1000 tcp 4: b\nprobe a vip:1555 tcp 4: b\nprobe client vip:%d tcp 4: b from=node\nprobe a vip:%d tcp 4: refused", last, last+1))
	must(t, o.endpoints("big", []string{"only=4"}, []string{"c"}))
	start = time.Now()
	d.update(t, o.put, "")
	changed := time.Since(start)
	d.check(t, fmt.Sprintf("probe a vip:1000 tcp 4: c\nprobe a vip:%d tcp 4: c", last))
	start = time.Now()
	d.update(t, nil, "")
	t.Logf("programmed in %v, changed in %v, removed in %v", added, changed, time.Since(start))
	if s := d.plan.Service(model.Name{Namespace: namespace, Name: "big"}); s != nil {
		t.Error("it is still planned")
	}
}

// locked has somebody hold what the engine needs.
func locked(t *testing.T, d *driver) {
	if d.about.Lock == nil {
		t.Logf("nobody can lock %s", d.about.Name)
		return
	}
	w := NewWorld(t) // of its own: taking the lock may take the rules
	own := newDriver(t, w, d.about)
	unlock, err := d.about.Lock(t.Context(), w)
	must(t, err)
	o := &objects{w: w, put: map[model.Key]any{}}
	must(t, o.service("web", nil))
	must(t, o.endpoints("web", nil, []string{"b"}))
	if err := own.apply(t, o.put, ""); err == nil {
		t.Error("programming worked in spite of the lock")
	} else {
		t.Logf("locked: %v", err)
		if err := own.engine.Sync(t.Context(), own.plan); err == nil {
			t.Error("programming all worked in spite of the lock")
		}
	}
	unlock()
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if err = own.engine.Sync(t.Context(), own.plan); err == nil {
			break
		} else if time.Since(start) > patience {
			t.Fatalf("after the lock was given back: %v", err)
		}
	}
	own.check(t, "probe a vip: b\nprobe a control tcp: c d")
}

// noRight has a process without CAP_NET_ADMIN try.
func noRight(t *testing.T, d *driver) {
	p := d.w.child(t, role{Engine: d.about.Name, Powerless: true})
	<-p.ended
	if state := p.cmd.ProcessState; !state.Success() {
		t.Errorf("without CAP_NET_ADMIN: %v: %v", state, p.said)
	} else {
		t.Log(p.said)
	}
	d.check(t, "probe a control tcp: c d")
}

// applyAfterFailure has every second operation fail, and the kernel nevertheless
// end at the plan.
func applyAfterFailure(t *testing.T, d *driver) {
	o := &objects{w: d.w, put: map[model.Key]any{}}
	must(t, o.service("web", []string{"nodeport"}))
	must(t, o.endpoints("web", nil, []string{"b"}))
	var n atomic.Int64 // engines may do several things at the same time
	fails := true
	options := d.w.Options()
	options.Log = nil
	options.Intercept = func(do func() error) error {
		if i := n.Add(1); fails && i%2 == 0 {
			return fmt.Errorf("operation %d: %w", i, errInjected)
		}
		return do()
	}
	d.start(t, options)
	for i := range 10 {
		names := []string{"b"}
		if i%2 == 1 {
			names = []string{"c", "d"}
		}
		must(t, o.endpoints("web", nil, names))
		fails = true
		if d.apply(t, o.put, "") != nil {
			fails = false
			must(t, d.engine.Sync(t.Context(), d.plan))
			d.full = false
		}
	}
	fails = false
	d.check(t, "probe a vip: c d\nprobe client nodeport: c d\nprobe a control tcp: c d")
}

// Hold runs a program on the node that reads commands, gives it one, and keeps it
// running until it is told to end.
func (w *World) Hold(ctx context.Context, program, flag, input string) (func(), error) {
	cmd := w.Node.Command(ctx, program, flag)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(in, input+"\n"); err != nil {
		return nil, err
	}
	time.Sleep(300 * time.Millisecond) // it says nothing when it is done
	return func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}, nil
}
