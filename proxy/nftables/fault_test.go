package nftables

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// failing is a kernel that does so many transactions and then no more.
type failing struct {
	kernel
	after int
}

func (f *failing) Commit(m *nfnl.Messages) error {
	if f.after--; f.after < 0 {
		return unix.ENOBUFS
	}
	return f.kernel.Commit(m)
}

// flaky is a kernel that fails at random: before it does something, or after it,
// as where the answer is lost.
type flaky struct {
	*fakeKernel
	rand  *rand.Rand
	rate  int // one in so many
	fails int
}

func (f *flaky) fault() error {
	if f.rand.IntN(f.rate) != 0 {
		return nil
	}
	f.fails++
	return []error{unix.ENOBUFS, unix.EINTR, unix.EBUSY, nfnl.ErrInterrupted, unix.ENOMEM}[f.rand.IntN(5)]
}

func (f *flaky) Commit(m *nfnl.Messages) error {
	if err := f.fault(); err != nil {
		return err
	}
	if err := f.fakeKernel.Commit(m); err != nil {
		return err
	}
	return f.fault()
}

func (f *flaky) Ask(ctx context.Context, m *nfnl.Messages, each func(nfnl.Message)) error {
	if err := f.fault(); err != nil {
		return err
	}
	return f.fakeKernel.Ask(ctx, m, each)
}

// TestFaults walks with a kernel that fails: after each step that is tried again
// until it works, the tables match the plan.
func TestFaults(t *testing.T) {
	w := newWalker(23)
	k := &flaky{fakeKernel: newFakeKernel(), rand: rand.New(rand.NewPCG(1, 2)), rate: 60}
	e := newEngine(k, k, Options{MasqueradeMark: 1 << 14, Log: testLog(t)})
	e.families = []proxy.Family{proxy.IPv4, proxy.IPv6}
	valid := false
	for step := range 500 {
		changes := w.step(t)
		e.budget = 4 << 10
		var err error
		if valid {
			err = e.Apply(t.Context(), changes)
		} else {
			err = e.Sync(t.Context(), changes.New)
		}
		for n := 0; err != nil; n++ {
			if n == 1000 {
				t.Fatalf("step %d: still %v", step, err)
			}
			e.budget = 4 << 10
			err = e.Sync(t.Context(), changes.New)
		}
		valid = true
		if step%10 == 5 {
			e.rested = time.Time{}
			if _, err := e.Verify(t.Context()); err != nil {
				valid = false
			}
		}
		if err := matches(k.elements, e, changes.New); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
	}
	if k.fails < 40 {
		t.Errorf("only %d faults", k.fails)
	}
}

// TestSmallerSteps checks that transactions that are too large become smaller.
func TestSmallerSteps(t *testing.T) {
	w := newWalker(1)
	for range 50 {
		_ = w.step(t)
	}
	k := newFakeKernel()
	e := newEngine(&failing{k, 0}, k, Options{Log: testLog(t)})
	e.families = []proxy.Family{proxy.IPv4, proxy.IPv6}
	before := e.budget
	if err := e.Sync(t.Context(), w.planner.Plan()); !errors.Is(err, unix.ENOBUFS) || !strings.Contains(err.Error(), "wmem_max") {
		t.Errorf("got %v", err)
	}
	if e.budget >= before {
		t.Errorf("transactions have %d bytes, before %d", e.budget, before)
	}
}

// TestLocked has another program own our table.
func TestLocked(t *testing.T) {
	w := newWorld(t, inCluster(nil))
	w.nft("flush", "ruleset")
	owner := w.node1.Command(t.Context(), "nft", "-i")
	in, err := owner.StdinPipe()
	w.must(err)
	w.must(owner.Start())
	_, err = fmt.Fprintln(in, "add table ip sluice { flags owner; }")
	w.must(err)
	for start := time.Now(); !strings.Contains(w.nft("list", "tables"), "sluice"); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			t.Fatal("nft does not make its table")
		}
	}
	var locked *LockedError
	if err := w.newEngine().Sync(t.Context(), w.plan); !errors.As(err, &locked) || !strings.Contains(err.Error(), "owner") {
		t.Errorf("Sync: got %v", err)
	}
	if err := w.newEngine().Cleanup(t.Context()); !errors.As(err, &locked) {
		t.Errorf("Cleanup: got %v", err)
	}
	w.must(in.Close())
	_ = owner.Wait()
	w.engine = w.newEngine()
	w.must(w.engine.Sync(t.Context(), w.plan))
	w.put(service("web", nil), w.b)
	if got := w.ask(w.a.Namespace, "tcp", vip4Port); !strings.HasPrefix(got, "b ") {
		t.Errorf("after the program has ended: %s", got)
	}
}

// TestNoCapability asks a kernel that denies everything.
func TestNoCapability(t *testing.T) {
	w := newWorld(t, inCluster(nil))
	got := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, &data[0]); err != nil {
			got <- err
			return
		}
		data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
		if err := unix.Capset(&header, &data[0]); err != nil {
			got <- err
			return
		}
		got <- probe(Options{NetNS: w.node1.FD()})
	}()
	var unsupported *proxy.UnsupportedError
	if err := <-got; !errors.As(err, &unsupported) || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("got %v", err)
	}
}
