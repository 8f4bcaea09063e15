package healthcheck

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// engine blocks, fails or does nothing.
type engine struct {
	proxy.Engine
	mu    sync.Mutex // guards all
	block chan struct{}
	fail  error
}

func (e *engine) set(block chan struct{}, fail error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.block, e.fail = block, fail
}

func (e *engine) Sync(context.Context, *proxy.Plan) error    { return e.do() }
func (e *engine) Apply(context.Context, proxy.Changes) error { return e.do() }
func (e *engine) Verify(context.Context) (bool, error)       { return false, nil }

func (e *engine) do() error {
	e.mu.Lock()
	block, fail := e.block, e.fail
	e.mu.Unlock()
	if block != nil {
		<-block
	}
	return fail
}

// TestHealth follows the pages through what happens to a proxy.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, progress, eligible := model.NewStore(), &proxy.Progress{}, true
		e := &engine{}
		h := NewHealth(progress, func() bool { return eligible }, 0)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- proxy.Run(ctx, proxy.Options{
				Updates: store.Watch(), Planner: proxy.NewPlanner(proxy.Config{Node: "node1"}), Engine: e, Progress: progress,
			})
		}()
		page := func(path string) (int, state) {
			w := httptest.NewRecorder()
			h.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s has the headers %v", path, w.Header())
			}
			var s state
			if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil {
				t.Fatalf("%s: %v in %s", path, err, w.Body)
			}
			return w.Code, s
		}
		expect := func(when string, healthz, livez int) {
			t.Helper()
			synctest.Wait()
			code, s := page("/healthz")
			if code != healthz || s.NodeEligible == nil || *s.NodeEligible != eligible || s.Healthy != (livez == 200) {
				t.Errorf("%s /healthz is %d %+v, want %d", when, code, s, healthz)
			}
			if code == 200 && !s.LastUpdated.Equal(s.CurrentTime) {
				t.Errorf("%s /healthz was updated at %v, now is %v", when, s.LastUpdated, s.CurrentTime)
			}
			if code, s := page("/livez"); code != livez || s.NodeEligible != nil {
				t.Errorf("%s /livez is %d %+v, want %d", when, code, s, livez)
			}
		}
		put := func(name string) {
			store.Update(func(tx *model.Txn) { putService(tx, name) })
		}
		put("aa")
		time.Sleep(time.Hour)
		expect("while the source is read", 200, 200)
		store.Update(func(tx *model.Txn) { tx.MarkSynced(model.KindService); tx.MarkSynced(model.KindEndpointSlice) })
		expect("after the start", 200, 200)
		if _, s := page("/livez"); len(s.Status) != 2 || !s.Status["IPv6"].Healthy {
			t.Errorf("the families are %v", s.Status)
		}
		time.Sleep(time.Hour)
		expect("after an hour without updates", 200, 200)

		eligible = false
		expect("with the node being deleted", 503, 200)
		eligible = true

		block := make(chan struct{})
		e.set(block, nil)
		put("bb")
		time.Sleep(Late - time.Second)
		expect("with an engine that is slow", 200, 200)
		time.Sleep(2 * time.Second)
		expect("with an engine that hangs", 503, 503)
		close(block)
		expect("with an engine that goes on", 200, 200)

		e.set(nil, errors.New("no"))
		put("cc")
		for range 5 {
			time.Sleep(Late / 6)
			put("dd")
		}
		expect("with an engine that fails", 200, 200)
		time.Sleep(Late)
		expect("with an engine that has failed for long", 503, 503)
		e.set(nil, nil)
		time.Sleep(time.Minute)
		expect("with an engine that is well again", 200, 200)
		cancel()
		<-done

		if problems, err := testutil.CollectAndLint(h); err != nil || len(problems) > 0 {
			t.Error(problems, err)
		}
		if n := testutil.ToFloat64(h.healthz.WithLabelValues("503")); n != 3 {
			t.Errorf("%v answers of 503 are counted", n)
		}
	})
}

// TestServe checks that the pages come when the address is free at last.
func TestServe(t *testing.T) {
	const address = "127.0.0.1:10256"
	taken, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	h := NewHealth(&proxy.Progress{}, func() bool { return true }, 0)
	if err := Serve(t.Context(), address, h.Handler(), true, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a taken address, hard: %v", err)
	}
	_ = taken.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Serve(ctx, address, h.Handler(), false, slog.New(slog.DiscardHandler)) }()
	eventually(t, "the page", func() error {
		_, _, _, err := get(address)
		return err
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Serve ended with %v", err)
	}
}

func putService(tx *model.Txn, name string) { put(tx, name, 0, 1) }
