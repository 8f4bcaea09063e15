package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/source"
)

// proxies is a publisher whose proxies are all current, or none.
type proxies struct {
	mu      sync.Mutex
	current bool
	calls   [][]route.Change
}

func (p *proxies) Publish(changes []route.Change) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, changes)
}

func (p *proxies) Progress(g route.Group) route.Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := route.Progress{Group: g, Proxies: 1}
	if p.current {
		at.Current = 1
	}
	return at
}

func (p *proxies) setCurrent(current bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = current
}

func fill(t *testing.T, store *model.Store, manifest string) {
	t.Helper()
	objects, problems := source.Decode([]byte(manifest))
	for _, p := range problems {
		t.Fatal(p)
	}
	store.Update(func(tx *model.Txn) {
		for _, o := range objects {
			tx.Put(o.Key.Kind, o.Value)
		}
	})
}

const splitManifest = `{apiVersion: v1, kind: Service, metadata: {name: x, namespace: a}, spec: {clusterIP: 10.96.0.1, ports: [{name: db, port: 5432}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v, namespace: a}, spec: {hosts: [x], tcp: [{route: [{destination: {host: x}, weight: 1}]}]}}
`

func markSynced(store *model.Store, kinds []model.KindID) {
	store.Update(func(tx *model.Txn) {
		for _, k := range kinds {
			tx.MarkSynced(k)
		}
	})
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, board, p := model.NewStore(), status.NewBoard(), &proxies{}
		ctx, cancel := context.WithCancel(t.Context())
		planned := 0
		done := make(chan error)
		go func() {
			done <- Run(ctx, Options{
				Config: testConfig, Store: store, Publisher: p, Progress: p, Board: board, Planned: func() { planned++ },
				Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
			})
		}()
		fill(t, store, splitManifest)
		synctest.Wait()
		if planned != 0 || len(p.calls) != 0 {
			t.Fatal("published before the source had delivered everything")
		}
		markSynced(store, Kinds())
		synctest.Wait()
		split, ok := model.Splits.Get(store.Snapshot(), "a", "x:5432")
		vs := model.Key{Kind: model.KindVirtualService, Namespace: "a", Name: "v"}
		if planned != 1 || len(p.calls) != 1 || !ok || len(split.Backends) != 1 || len(board.Get(vs)) != 1 {
			t.Fatalf("planned %d times, %d calls, split %v, reports %v", planned, len(p.calls), split, board.All())
		}

		// A change of mode waits for the proxies, and for nothing else.
		fill(t, store, `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a, annotations: {sluice.io/sidecar: injected}}, spec: {containers: [{name: c}]}}`)
		synctest.Wait()
		fill(t, store, `{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: a}, spec: {mtls: {mode: DISABLE}}}`)
		synctest.Wait()
		mode := func() route.MTLSMode {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, call := range slices.Backward(p.calls) {
				for _, c := range call {
					if l, ok := c.Resource.(*route.Listener); ok && l.Inbound != nil {
						return l.Inbound.Default
					}
				}
			}
			return ""
		}
		if got := mode(); got != route.Permissive {
			t.Errorf("%v while nobody is current", got)
		}
		p.setCurrent(true)
		time.Sleep(10 * pollInterval)
		if got := mode(); got != route.Disable {
			t.Errorf("%v when all are current", got)
		}

		store.Update(func(tx *model.Txn) { tx.Delete(vs) })
		synctest.Wait()
		if model.Splits.Len(store.Snapshot()) != 0 || len(board.Get(vs)) != 0 {
			t.Errorf("left: %v", board.All())
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// A node that is no control plane makes the shares alone.
func TestRunSplitsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := model.NewStore()
		conf := Config{SplitsOnly: true}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- Run(ctx, Options{Config: conf, Store: store}) }()
		fill(t, store, splitManifest)
		markSynced(store, conf.Kinds())
		synctest.Wait()
		if model.Splits.Len(store.Snapshot()) != 1 {
			t.Error("no share was made")
		}
		cancel()
		<-done
	})
}

// world of n Services, each with an endpoint of its own.
func big(t testing.TB, n int) *world {
	w := newWorld(t, testConfig)
	w.store.Update(func(tx *model.Txn) {
		for i := range n {
			name := fmt.Sprintf("s%d", i)
			objects, problems := source.Decode([]byte(strings.ReplaceAll(
				`{apiVersion: v1, kind: Service, metadata: {name: NAME, namespace: a}, spec: {clusterIP: None, ports: [{name: http, port: 80}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: NAME, namespace: a}, spec: {hosts: [NAME], http: [{route: [{destination: {host: NAME}}]}]}}
`, "NAME", name)))
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			for _, o := range objects {
				tx.Put(o.Key.Kind, o.Value)
			}
			tx.Put(model.KindEndpointSlice, slice(name, 1))
		}
	})
	return w.plan()
}

func slice(service string, last byte) *model.EndpointSlice {
	return &model.EndpointSlice{
		Meta: model.Meta{Namespace: "a", Name: service}, Service: service, Weight: 1,
		Ports:     []model.EndpointPort{{Name: "http", Port: 8080}},
		Endpoints: []model.Endpoint{{Addr: netip.AddrFrom4([4]byte{10, 0, 0, last}), Ready: true, Serving: true}},
	}
}

// TestCost guards that an update costs what it changes: as much among 2,000
// Services as among 20.
func TestCost(t *testing.T) {
	for what, change := range map[string]func(tx *model.Txn, i int){
		"an endpoint": func(tx *model.Txn, i int) { tx.Put(model.KindEndpointSlice, slice("s7", byte(i))) },
		"a policy": func(tx *model.Txn, i int) {
			objects, _ := source.Decode(fmt.Appendf(nil, `{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: p, namespace: a}, spec: {selector: {matchLabels: {app: x%d}}}}`, i))
			tx.Put(objects[0].Key.Kind, objects[0].Value)
		},
	} {
		cost := map[int]float64{}
		for _, n := range []int{20, 2000} {
			w := big(t, n)
			i := 1
			cost[n] = testing.AllocsPerRun(50, func() {
				i++
				w.store.Update(func(tx *model.Txn) { change(tx, i) })
				w.plan()
			})
			if changes := len(w.last.Changes); changes > 1 {
				t.Errorf("%s: %d resources change: %v", what, changes, w.last.Changes)
			}
		}
		// The trees of a snapshot are deeper in the bigger one.
		if cost[2000] > 1.5*cost[20]+50 {
			t.Errorf("%s costs %v allocations among 20 Services, %v among 2,000", what, cost[20], cost[2000])
		}
		t.Logf("%s: %v", what, cost)
	}
}

func BenchmarkEndpoint(b *testing.B) {
	w := big(b, 10_000)
	i := 0
	for b.Loop() {
		i++
		w.store.Update(func(tx *model.Txn) { tx.Put(model.KindEndpointSlice, slice("s7", byte(i))) })
		w.plan()
	}
}
