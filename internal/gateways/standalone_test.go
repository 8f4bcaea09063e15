package gateways

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/route"
)

// TestMain is also the gateway process that the tests start.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "be-gateway" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := Hold(os.Args[2], route.Group(os.Args[3])); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Minute): // whatever the test does
		}
		return
	}
	os.Exit(m.Run())
}

type sink struct{ n int }

func (s *sink) Publish(c []route.Change) { s.n += len(c) }

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// run starts a Standalone and returns a function that ends it, as an exit of
// sluice would.
func run(t *testing.T, dir string) (*Standalone, func()) {
	t.Helper()
	s := NewStandalone(&sink{}, dir, func(g route.Group) []string { return []string{"be-gateway", dir, string(g)} }, slog.Default())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

func TestGatewaysOutliveSluice(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() { _ = Stop(context.Background(), dir) })
	web, shop := route.GatewayGroup("default", "web"), route.GatewayGroup("", "shop")
	pid := func(g route.Group) int { p, _ := holder(lockPath(dir, g)); return p }
	listener := &route.Listener{Name: "http"}

	s, stop := run(t, dir)
	s.Publish([]route.Change{route.Set(web, listener), route.Set(shop, listener), route.Set(route.MeshGroup, listener)})
	eventually(t, "both start", func() bool { return pid(web) != 0 && pid(shop) != 0 })
	first := pid(web)
	stop()
	if pid(web) != first {
		t.Fatal("the gateway ended with sluice")
	}

	s, stop = run(t, dir)
	defer stop()
	s.Publish([]route.Change{route.Set(web, listener), route.Set(shop, listener)})
	s.Publish([]route.Change{route.Remove(shop, route.KindListener, "http")})
	eventually(t, "the one without a listener ends", func() bool { return pid(shop) == 0 })
	if pid(web) != first {
		t.Error("the running gateway was not taken over")
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a killed one starts again", func() bool { p := pid(web); return p != 0 && p != first })

	if err := Stop(t.Context(), dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestHeldOnce(t *testing.T) {
	dir := t.TempDir()
	g := route.GatewayGroup("default", "web")
	if err := Hold(dir, g); err != nil {
		t.Fatal(err)
	}
	var held *HeldError
	if err := Hold(dir, g); !errors.As(err, &held) || held.PID != os.Getpid() {
		t.Errorf("second hold: %v", err)
	}
}
