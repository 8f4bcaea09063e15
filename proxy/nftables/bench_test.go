package nftables

import (
	"context"
	"fmt"
	"testing"

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

// BenchmarkColdStart programs a node from nothing.
func BenchmarkColdStart(b *testing.B) {
	sizes(b, func(b *testing.B, services int) {
		x := newBench(b, services)
		for b.Loop() {
			b.StopTimer()
			if err := x.engine.Cleanup(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := x.engine.Sync(b.Context(), x.plan); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkTakeOver starts where everything is there already.
func BenchmarkTakeOver(b *testing.B) {
	sizes(b, func(b *testing.B, services int) {
		x := newBench(b, services)
		for range 2 { // the second finds everything
			if err := x.engine.Sync(b.Context(), x.plan); err != nil {
				b.Fatal(err)
			}
		}
		for b.Loop() {
			if err := x.engine.Sync(b.Context(), x.plan); err != nil {
				b.Fatal(err)
			}
		}
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
		for i := 0; b.Loop(); i++ {
			x.store.Update(func(tx *model.Txn) { model.EndpointSlices.Put(tx, proxytest.Slice(services/2, 10, 1+i%2)) })
			if err := x.engine.Apply(b.Context(), x.next(b)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
