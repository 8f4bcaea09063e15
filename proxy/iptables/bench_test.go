package iptables

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/proxytest"
)

func sizes(b *testing.B, f func(b *testing.B, p *planned, e *Engine, plan *proxy.Plan, services int)) {
	for _, v := range []Variant{NFT, Legacy} {
		for _, services := range []int{1000, 10000} {
			b.Run(fmt.Sprintf("variant=%s/services=%d", v, services), func(b *testing.B) {
				b.Setenv("XTABLES_LOCKFILE", filepath.Join(b.TempDir(), "lock"))
				node := lab.ForTest(b, lab.Options{}).MustNode("node1")
				e := newEngine(b, Options{Variant: v, NetNS: node.FD()})
				p := newPlanned(proxy.Config{})
				plan := p.update(b, func(tx *model.Txn) { proxytest.Cluster(tx, services, 10) }).New
				f(b, p, e, plan, services)
			})
		}
	}
}

// BenchmarkColdStart programs a node from nothing.
func BenchmarkColdStart(b *testing.B) {
	sizes(b, func(b *testing.B, _ *planned, e *Engine, plan *proxy.Plan, _ int) {
		for b.Loop() {
			b.StopTimer()
			if err := e.Cleanup(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := e.Sync(b.Context(), plan); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkTakeOver starts where everything is there already.
func BenchmarkTakeOver(b *testing.B) {
	sizes(b, func(b *testing.B, _ *planned, e *Engine, plan *proxy.Plan, _ int) {
		if err := e.Sync(b.Context(), plan); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := e.Sync(b.Context(), plan); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkOneEndpoint replaces one endpoint, from the model to the kernel.
func BenchmarkOneEndpoint(b *testing.B) {
	sizes(b, func(b *testing.B, p *planned, e *Engine, plan *proxy.Plan, services int) {
		if err := e.Sync(b.Context(), plan); err != nil {
			b.Fatal(err)
		}
		for i := 0; b.Loop(); i++ {
			changes := p.update(b, func(tx *model.Txn) { model.EndpointSlices.Put(tx, proxytest.Slice(services/2, 10, 1+i%2)) })
			if err := e.Apply(b.Context(), changes); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkVerify looks whether somebody has changed something, where nobody has.
func BenchmarkVerify(b *testing.B) {
	sizes(b, func(b *testing.B, _ *planned, e *Engine, plan *proxy.Plan, _ int) {
		if err := e.Sync(b.Context(), plan); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			e.looks.ended = time.Now() // nor is it time for a whole look
			if repaired, err := e.Verify(b.Context()); repaired || err != nil {
				b.Fatal(repaired, err)
			}
		}
	})
}

// BenchmarkRepair finds and repairs what somebody has flushed.
func BenchmarkRepair(b *testing.B) {
	for _, v := range []Variant{NFT, Legacy} {
		b.Run(fmt.Sprintf("variant=%s/services=3000", v), func(b *testing.B) {
			b.Setenv("XTABLES_LOCKFILE", filepath.Join(b.TempDir(), "lock"))
			node := lab.ForTest(b, lab.Options{}).MustNode("node1")
			e := newEngine(b, Options{Variant: v, NetNS: node.FD()})
			plan := newPlanned(proxy.Config{}).update(b, func(tx *model.Txn) { proxytest.Cluster(tx, 3000, 3) }).New
			if err := e.Sync(b.Context(), plan); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				b.StopTimer()
				e.looks, e.repaired = share{}, false
				if out, err := node.Command(b.Context(), "iptables-"+string(v), "-t", "nat", "-F", chainAddresses).CombinedOutput(); err != nil {
					b.Fatal(err, string(out))
				}
				b.StartTimer()
				if repaired, err := e.Verify(b.Context()); !repaired || err != nil {
					b.Fatal(repaired, err)
				}
			}
		})
	}
}
