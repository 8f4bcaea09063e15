package ingress

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/route"
)

// fakeProxies is a publisher whose proxies acknowledge when told to.
type fakeProxies struct {
	got       *state
	published int
	progress  route.Progress
	moved     chan []route.Group
}

func (f *fakeProxies) Publish(changes []route.Change) {
	f.published++
	f.got.apply(Result{Changes: changes})
}

func (f *fakeProxies) Progress(g route.Group) route.Progress {
	p := f.progress
	p.Group = g
	return p
}

func (f *fakeProxies) next(ctx context.Context) ([]route.Group, error) {
	select {
	case g := <-f.moved:
		return g, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestRun applies plans: nothing before the source is complete, then one
// publication a change, and status that follows the proxies.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		store, board := model.NewStore(), status.NewBoard()
		proxies := &fakeProxies{got: newState(), moved: make(chan []route.Group)}
		var log strings.Builder
		var groups []GroupChange
		planned, metrics := 0, NewMetrics()
		done := make(chan error)
		go func() {
			done <- Run(ctx, Options{
				PlannerOptions: PlannerOptions{Standalone: true},
				Store:          store, Publisher: proxies, Board: board, Progress: proxies, Moved: proxies.next,
				Groups:  func(g []GroupChange) { groups = append(groups, g...) },
				Planned: func() { planned++ },
				Metrics: metrics,
				Log:     slog.New(slog.NewTextHandler(&log, nil)),
			})
		}()
		objects := decodeText(t, progressManifests)
		for _, o := range objects {
			store.Update(func(tx *model.Txn) { tx.Put(o.Key.Kind, o.Value) })
			synctest.Wait()
		}
		if proxies.published != 0 || planned != 0 {
			t.Fatal("planned from half of the source's state")
		}
		store.Update(func(tx *model.Txn) {
			for _, k := range Kinds() {
				tx.MarkSynced(k)
			}
		})
		synctest.Wait()
		if proxies.published != 1 || planned != 1 || len(groups) != 2 || len(proxies.got.resources) == 0 {
			t.Fatalf("published %d times, planned %d times, groups %v", proxies.published, planned, groups)
		}
		gw := model.Key{Kind: model.KindGateway, Namespace: "default", Name: "web"}
		programmed := func() string {
			for _, c := range board.Get(gw)[Part].Conditions {
				if c.Type == string(gatewayv1.GatewayConditionProgrammed) {
					return string(c.Status)
				}
			}
			return "missing"
		}
		if s := programmed(); s != "False" {
			t.Errorf("Programmed is %s before a proxy is there", s)
		}
		proxies.progress = route.Progress{Proxies: 1, Current: 1}
		proxies.moved <- []route.Group{route.GatewayGroup("default", "web")}
		synctest.Wait()
		if s := programmed(); s != "True" {
			t.Errorf("Programmed is %s after the acknowledgement", s)
		}
		store.Update(func(tx *model.Txn) {
			for _, o := range objects {
				tx.Delete(o.Key)
			}
		})
		synctest.Wait()
		if len(board.All()) != 0 || len(proxies.got.resources) != 0 {
			t.Errorf("left over: %v, %v", board.All(), proxies.got)
		}
		if !slices.ContainsFunc(groups, func(g GroupChange) bool { return g.Gone && g.Gateway.Name == "web" }) {
			t.Errorf("groups: %v", groups)
		}
		if n := strings.Count(log.String(), "\n"); n != 2 {
			t.Errorf("%d lines of log for two changes:\n%s", n, log.String())
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestRunNeedsItsOptions(t *testing.T) {
	if err := Run(t.Context(), Options{}); err == nil {
		t.Error("Run began without a store")
	}
}
