package memory

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestPercent(t *testing.T) {
	for _, c := range []struct {
		alive, added uint64
		want         int
	}{
		{0, 0, 40}, {1 << 20, 0, 40}, {8 << 20, 0, 40}, {16 << 20, 0, 40}, {32 << 20, 1 << 20, 25}, {32 << 20, 32 << 20, 40}, {64 << 20, 0, 12}, {1 << 30, 0, 12},
		{64 << 20, 16 << 20, 25}, {64 << 20, 64 << 20, 100}, {64 << 20, 1 << 30, 100}, {1 << 30, 256 << 20, 25},
	} {
		if got := percent(c.alive, c.added); got != c.want {
			t.Errorf("%d MiB and %d more: %d, want %d", c.alive>>20, c.added>>20, got, c.want)
		}
	}
}

// TestTend holds much and lets go of more, as a start does.
func TestTend(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	model := make([][]byte, 64)
	for i := range model {
		model[i] = make([]byte, 1<<20)
	}
	for range 100 {
		garbage := make([]byte, 1<<20)
		runtime.KeepAlive(garbage)
	}
	runtime.GC()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		Tend(ctx)
		close(ended)
	}()
	r := newReader()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		s := r.read()
		now := debug.SetGCPercent(-1)
		debug.SetGCPercent(now)
		if now < 50 && s.held < s.alive*3/2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("GOGC %d, %d MiB held for %d MiB alive", now, s.held>>20, s.alive>>20)
		}
	}
	runtime.KeepAlive(model)
	cancel()
	<-ended
}

func TestGiveBack(t *testing.T) {
	const alive, garbage = 80 << 20, 80 << 20 * 12 / 100
	const bound = alive + garbage
	for _, c := range []struct {
		held, added, since uint64
		want               bool
	}{
		{bound + idle + 1, 0, 0, true},
		{bound + idle + 1, little, 0, false}, // something allocates
		{bound, 0, garbage, false},
		{bound, 0, 2*garbage + 1, true},
		{alive + spare + 1, 0, 2*garbage + 1, true},
		{alive + spare + 1, little, 2*garbage + 1, false},
		{alive + spare, 0, 10 * alive, false}, // nothing to give back
	} {
		if got := giveBack(sample{alive: alive, held: c.held}, c.added, c.since, 12); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// TestHoles lets go of every second object, so that no page gets free: there is
// nothing to give back.
func TestHoles(t *testing.T) {
	objects := make([]*[256]byte, 1<<18)
	for i := range objects {
		objects[i] = new([256]byte)
	}
	for i := 0; i < len(objects); i += 2 {
		objects[i] = nil
	}
	debug.FreeOSMemory()
	s := newReader().read()
	if s.alive < uint64(len(objects))/2*256 {
		t.Fatalf("%d MiB alive", s.alive>>20)
	}
	if giveBack(s, 0, 0, 12) {
		t.Errorf("%d MiB held for %d MiB alive, after all was given back", s.held>>20, s.alive>>20)
	}
	runtime.KeepAlive(objects)
}

// TestTendLeavesAlone checks that an operator's choice stays.
func TestTendLeavesAlone(t *testing.T) {
	t.Setenv("GOGC", "100")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	Tend(ctx)
	if now := debug.SetGCPercent(100); now != 100 {
		t.Errorf("GOGC became %d", now)
	}
}
