// Package envoytest runs the real Envoy in tests.
package envoytest

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/envoy"
)

// Path returns the path of the Envoy binary. Without one the test is skipped,
// under CI=true it fails.
func Path(t testing.TB) string {
	t.Helper()
	path, err := envoy.Find("")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return path
}

// Start runs an Envoy until the end of the test and returns when it was
// started; use Live to wait for its configuration. It has one worker
// unless opt says otherwise, and its log goes to the test's.
func Start(t testing.TB, opt envoy.Options) *envoy.Process {
	t.Helper()
	opt.Path = Path(t)
	if opt.Concurrency == 0 {
		opt.Concurrency = 1
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	p, err := envoy.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx := t.Context() // done before the first clean-up
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Errorf("running Envoy: %v", err)
		}
	})
	return p
}

// Live waits until p is live and fails the test if it is not within 30 s.
func Live(t testing.TB, p *envoy.Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := p.Ready(ctx); err != nil {
		t.Fatal(err)
	}
}
