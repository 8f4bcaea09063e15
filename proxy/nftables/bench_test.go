package nftables

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/proxytest"
)

// bench is an engine in a namespace, with a cluster planned.
type bench struct {
	store   *model.Store
	watch   *model.Watcher
	planner *proxy.Planner
	engine  *Engine
	plan    *proxy.Plan
}

func newBench(b *testing.B, services int) *bench {
	b.Helper()
	node := lab.ForTest(b, lab.Options{}).MustNode("node1")
	e, err := New(Options{NetNS: node.FD()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	x := &bench{store: model.NewStore(), planner: proxy.NewPlanner(proxy.Config{Node: "node1"}), engine: e}
	x.watch = x.store.Watch()
	x.store.Update(func(tx *model.Txn) { proxytest.Cluster(tx, services, 10) })
	x.plan = x.next(b).New
	return x
}

func (x *bench) next(b *testing.B) proxy.Changes {
	b.Helper()
	up, err := x.watch.Next(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	return x.planner.Update(up)
}

func sizes(b *testing.B, f func(b *testing.B, services int)) {
	for _, services := range []int{1000, 10000, 40000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) { f(b, services) })
	}
}

// cpu sums the processor time of an operation, which on a busy machine says
// more than the time that has passed.
type cpu struct {
	user, system, allUser, allSystem time.Duration
}

func (c *cpu) begin(b *testing.B) { c.user, c.system = usage(b) }

func (c *cpu) end(b *testing.B) {
	user, system := usage(b)
	c.allUser += user - c.user
	c.allSystem += system - c.system
}

func (c *cpu) all() time.Duration { return c.allUser + c.allSystem }

func (c *cpu) report(b *testing.B) {
	b.ReportMetric(float64(c.allUser.Microseconds())/1000/float64(b.N), "user-ms/op")
	b.ReportMetric(float64(c.allSystem.Microseconds())/1000/float64(b.N), "system-ms/op")
}

func usage(b *testing.B) (user, system time.Duration) {
	b.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano()), time.Duration(r.Stime.Nano())
}

// BenchmarkColdStart programs a node from nothing.
func BenchmarkColdStart(b *testing.B) {
	sizes(b, func(b *testing.B, services int) {
		x := newBench(b, services)
		var used cpu
		for b.Loop() {
			b.StopTimer()
			if err := x.engine.Cleanup(b.Context()); err != nil {
				b.Fatal(err)
			}
			used.begin(b)
			b.StartTimer()
			if err := x.engine.Sync(b.Context(), x.plan); err != nil {
				b.Fatal(err)
			}
			used.end(b)
		}
		used.report(b)
	})
}

// BenchmarkTakeOver starts where everything is there already.
func BenchmarkTakeOver(b *testing.B) {
	sizes(b, func(b *testing.B, services int) {
		x := newBench(b, services)
		if err := x.engine.Sync(b.Context(), x.plan); err != nil {
			b.Fatal(err)
		}
		var used cpu
		used.begin(b)
		for b.Loop() {
			if err := x.engine.Sync(b.Context(), x.plan); err != nil {
				b.Fatal(err)
			}
		}
		used.end(b)
		used.report(b)
	})
}

// BenchmarkOneEndpoint replaces one endpoint, from the model to the kernel.
func BenchmarkOneEndpoint(b *testing.B) {
	sizes(b, func(b *testing.B, services int) {
		x := newBench(b, services)
		if err := x.engine.Sync(b.Context(), x.plan); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		var used cpu
		used.begin(b)
		for i := 0; b.Loop(); i++ {
			x.store.Update(func(tx *model.Txn) { model.EndpointSlices.Put(tx, proxytest.Slice(services/2, 10, 1+i%2)) })
			if err := x.engine.Apply(b.Context(), x.next(b)); err != nil {
				b.Fatal(err)
			}
		}
		used.end(b)
		used.report(b)
	})
}

// BenchmarkVerify looks for what others have changed: nothing, something of
// their own, one of our elements.
func BenchmarkVerify(b *testing.B) {
	sizes(b, func(b *testing.B, services int) {
		x := newBench(b, services)
		for range 2 { // the second takes over, and something is to be swept
			if err := x.engine.Sync(b.Context(), x.plan); err != nil {
				b.Fatal(err)
			}
		}
		run := func(name string, before func()) {
			b.Run(name, func(b *testing.B) {
				var used cpu
				for b.Loop() {
					b.StopTimer()
					before()
					used.begin(b)
					b.StartTimer()
					if _, err := x.engine.Verify(b.Context()); err != nil {
						b.Fatal(err)
					}
					used.end(b)
				}
				used.report(b)
			})
		}
		run("swept", x.engine.sweepAll)
		run("quiet", func() {})
		run("others", func() { x.engine.drift.others = true })
		run("touched", func() { x.engine.drift.touched = true })
	})
}
