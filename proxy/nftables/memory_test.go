package nftables

import (
	"context"
	"runtime"
	"testing"

	"github.com/sluicenet/sluice/internal/bigcluster"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// forgetful is a kernel that takes everything and remembers nothing.
type forgetful struct{}

func (forgetful) Commit(*nfnl.Messages) error { return nil }
func (forgetful) Try(*nfnl.Messages) error    { return nil }
func (forgetful) Limit() int                  { return 4 << 20 }
func (forgetful) Close()                      {}
func (forgetful) Ask(context.Context, *nfnl.Messages, func(nfnl.Message)) error {
	return nil
}

// TestMemory bounds what a Service with four endpoints takes in each part of a
// node's service proxy: a node has all of the cluster's.
func TestMemory(t *testing.T) {
	const services, endpoints = 6000, 4
	before := liveHeap()
	part := func(name string, most int) {
		t.Helper()
		now := liveHeap()
		each := (now - before) / services
		t.Logf("%-7s %4d bytes a Service", name, each)
		if each > most {
			t.Errorf("%s takes %d bytes a Service with %d endpoints, expected at most %d", name, each, endpoints, most)
		}
		before = now
	}
	store := model.NewStore()
	bigcluster.Fill(store, services, endpoints)
	part("model", 1600)
	watch := store.Watch()
	defer watch.Stop()
	up, err := watch.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	planner := proxy.NewPlanner(proxy.Config{Node: "node-000.example.com"})
	planner.Update(up)
	up = model.Update{} //nolint:ineffassign // so that the collector may take what it holds
	part("plan", 800)
	engine := newEngine(forgetful{}, forgetful{}, Options{})
	if err := engine.Sync(t.Context(), planner.Plan()); err != nil {
		t.Fatal(err)
	}
	part("engine", 330)
	runtime.KeepAlive(store)
	runtime.KeepAlive(planner)
	runtime.KeepAlive(engine)
}

func liveHeap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
