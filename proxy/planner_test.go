package proxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy/internal/proxytest"
)

// TestIncremental compares the plan along a random walk with one made at once.
// Who has what two Services claim depends on who came first, so that is left out.
func TestIncremental(t *testing.T) {
	store := model.NewStore()
	w := store.Watch()
	p := NewPlanner(Config{Node: "node1"})
	walk := proxytest.NewWalk(3)
	for n := range 400 {
		revision := store.Snapshot().Revision()
		for store.Snapshot().Revision() == revision {
			store.Update(walk.Step)
		}
		up, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		before := p.Plan().String()
		changes := p.Update(up)
		if before != changes.Old.String() {
			t.Fatalf("step %d: a plan has changed", n)
		}
		conflict := false
		for s := range changes.New.Services() {
			conflict = conflict || slices.ContainsFunc(s.Problems, func(p Problem) bool { return p.Lost != FrontendKey{} })
		}
		if conflict {
			continue
		}
		fresh := NewPlanner(Config{Node: "node1"})
		again, err := store.Watch().Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := changes.New.String(), fresh.Update(again).New.String(); got != want {
			t.Fatalf("step %d: got\n%s\nwant\n%s", n, got, want)
		}
	}
}

// TestClaims checks that exactly one Service has each frontend along a walk, and
// that the others say who.
func TestClaims(t *testing.T) {
	store := model.NewStore()
	w := store.Watch()
	p := NewPlanner(Config{Node: "node1"})
	walk := proxytest.NewWalk(5)
	conflicts := 0
	for n := range 1500 {
		revision := store.Snapshot().Revision()
		for store.Snapshot().Revision() == revision {
			store.Update(walk.Step)
		}
		up, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		plan := p.Update(up).New
		owners := map[FrontendKey]model.Name{}
		for s := range plan.Services() {
			for _, port := range s.Ports {
				for i := range port.Frontends {
					key := port.Frontends[i].Key(port)
					if other, ok := owners[key]; ok {
						t.Fatalf("step %d: %s and %s both have %s", n, other, s.Name, key)
					}
					owners[key] = s.Name
				}
			}
		}
		for s := range plan.Services() {
			for _, problem := range s.Problems {
				if problem.Lost == (FrontendKey{}) {
					continue
				}
				conflicts++
				if owner, ok := owners[problem.Lost]; !ok || !strings.HasSuffix(problem.Message, fmt.Sprintf(" %s belongs to Service %s", problem.Lost, owner)) {
					t.Fatalf("step %d: %s says %q, but %s has it", n, s.Name, problem.Message, owner)
				}
			}
		}
		if len(p.claims) != len(owners) {
			t.Fatalf("step %d: %d claims of %d frontends", n, len(p.claims), len(owners))
		}
	}
	if conflicts == 0 {
		t.Error("the walk made no conflicts")
	}
}

// TestFirstKeeps checks that a Service which claims what another one has gets it
// when that one goes, and not before.
func TestFirstKeeps(t *testing.T) {
	store := model.NewStore()
	w, p := store.Watch(), NewPlanner(Config{Node: "node1"})
	step(t, store, w, p, func(tx *model.Txn) { put(tx, web("web", loadBalancer), slice("web", ep(1))) })
	changes := step(t, store, w, p, func(tx *model.Txn) { put(tx, web("a", loadBalancer), slice("a", ep(2))) })
	if len(changes.Services) != 1 || len(changes.Services[0].New.Problems) != 3 {
		t.Errorf("a newcomer changes\n%v", changes.Services)
	}
	changes = step(t, store, w, p, func(tx *model.Txn) {
		tx.Delete(model.Key{Kind: model.KindService, Namespace: "default", Name: "web"})
	})
	if a := changes.New.Service(model.Name{Namespace: "default", Name: "a"}); len(a.Problems) != 0 || len(a.Ports[0].Frontends) != 3 {
		t.Errorf("after the owner went:\n%s", a)
	}
}

func TestSlots(t *testing.T) {
	set := func(weights ...uint32) []Backend {
		var out []Backend
		for _, w := range weights {
			out = append(out, Backend{Weight: w})
		}
		return out
	}
	for _, test := range []struct {
		weights []uint32
		want    []int
	}{
		{nil, []int{}},
		{[]uint32{1, 1, 1}, []int{1, 1, 1}},
		{[]uint32{9, 1}, []int{9, 1}},
		{[]uint32{999, 1}, []int{255, 1}},
		{[]uint32{65536, 65535, 1}, []int{128, 127, 1}},
		{[]uint32{1 << 24, 1, 1, 1}, []int{253, 1, 1, 1}},
	} {
		if got := Slots(set(test.weights...)); !slices.Equal(got, test.want) {
			t.Errorf("%v: got %v, want %v", test.weights, got, test.want)
		}
	}
	many := make([]uint32, 1000)
	for i := range many {
		many[i] = uint32(1 + i%7)
	}
	total := 0
	for i, n := range Slots(set(many...)) {
		if total += n; n < 1 {
			t.Fatalf("backend %d has %d slots", i, n)
		}
	}
	if total != 1000 {
		t.Errorf("1,000 backends fill %d slots", total)
	}
}

// TestAllocations guards what planning one changed endpoint costs.
func TestAllocations(t *testing.T) {
	store := model.NewStore()
	w, p := store.Watch(), NewPlanner(Config{Node: "node1"})
	step(t, store, w, p, func(tx *model.Txn) { proxytest.Cluster(tx, 1000, 10) })
	var ups []model.Update
	for i := range 101 {
		store.Update(func(tx *model.Txn) { model.EndpointSlices.Put(tx, proxytest.Slice(500, 10, 1+i%2)) })
		up, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ups = append(ups, up)
	}
	i := 0
	got := testing.AllocsPerRun(100, func() {
		if changes := p.Update(ups[i]); len(changes.Services) != 1 {
			t.Fatalf("one endpoint changes %d Services", len(changes.Services))
		}
		i++
	})
	if got > 70 {
		t.Errorf("one changed endpoint takes %.0f allocations, want at most 70", got)
	}
	t.Logf("%.0f allocations", got)
}

func BenchmarkUpdateOneEndpoint(b *testing.B) {
	for _, services := range []int{1000, 10000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			store := model.NewStore()
			store.Update(func(tx *model.Txn) { proxytest.Cluster(tx, services, 10) })
			w, p := store.Watch(), NewPlanner(Config{Node: "node1"})
			up, _ := w.Next(b.Context())
			p.Update(up)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				store.Update(func(tx *model.Txn) { model.EndpointSlices.Put(tx, proxytest.Slice(services/2, 10, 1+i%2)) })
				up, _ := w.Next(b.Context())
				b.StartTimer()
				p.Update(up)
			}
		})
	}
}

func BenchmarkPlanAll(b *testing.B) {
	for _, services := range []int{1000, 10000} {
		b.Run(fmt.Sprint(services), func(b *testing.B) {
			store := model.NewStore()
			store.Update(func(tx *model.Txn) { proxytest.Cluster(tx, services, 10) })
			up, _ := store.Watch().Next(b.Context())
			b.ReportAllocs()
			for b.Loop() {
				NewPlanner(Config{Node: "node1"}).Update(up)
			}
		})
	}
}
