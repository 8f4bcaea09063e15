package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen listens on a TCP address that another process of the same user may
// listen on too, if it also says so: the next one takes over before the last one
// ends.
func Listen(ctx context.Context, network, address string) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if failed := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}); failed != nil {
			return failed
		}
		return err
	}}
	return config.Listen(ctx, network, address)
}

// newServer returns a server that nobody can keep busy by being slow.
func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 90 * time.Second,
		MaxHeaderBytes: 1 << 14, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// retryEvery is how often a port that is taken is tried again.
const retryEvery = 5 * time.Second

// Serve serves pages on an address until the context ends, and returns its error.
// If the address is taken, it says so and tries again, unless the failure is to be
// hard: then it returns that.
func Serve(ctx context.Context, address string, pages http.Handler, hard bool, log *slog.Logger) error {
	said := ""
	for {
		l, err := Listen(ctx, "tcp", address)
		if err == nil {
			srv := newServer(pages, log)
			stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
			err = srv.Serve(l)
			stop()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err = fmt.Errorf("health: %w", err); hard {
			return err
		}
		if err.Error() != said && !errors.Is(err, http.ErrServerClosed) {
			said = err.Error()
			log.Error("cannot answer health checks", "address", address, "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryEvery):
		}
	}
}
