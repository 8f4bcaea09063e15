package healthcheck

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/sluicenet/sluice/internal/observe"
)

// newServer returns a server that nobody can keep busy by being slow.
func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 90 * time.Second,
		MaxHeaderBytes: 1 << 14, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Serve serves pages on an address until the context ends, and returns its error.
// If the address is taken, it says so and tries again, unless the failure is to be
// hard: then it returns that.
func Serve(ctx context.Context, address string, pages http.Handler, hard bool, log *slog.Logger) error {
	err := observe.Serve(ctx, address, func() *http.Server { return newServer(pages, log) }, hard, log)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("health: %w", err)
}
