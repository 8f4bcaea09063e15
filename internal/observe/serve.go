package observe

import (
	"context"
	"errors"
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
		var failed error
		err := c.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
		return errors.Join(err, failed)
	}}
	return config.Listen(ctx, network, address)
}

// RetryEvery is how often a port that is taken is tried again.
const RetryEvery = 5 * time.Second

// Serve serves by servers of newServer on an address until the context ends, and
// returns its error. If the address is taken, it says so and tries again, unless
// the failure is to be hard: then it returns that. kube-proxy calls the
// difference bindAddressHardFail.
func Serve(ctx context.Context, address string, newServer func() *http.Server, hard bool, log *slog.Logger) error {
	said := ""
	for {
		l, err := Listen(ctx, "tcp", address)
		if err == nil {
			srv := newServer()
			stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
			err = srv.Serve(l)
			stop()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if hard {
			return err
		}
		if err.Error() != said && !errors.Is(err, http.ErrServerClosed) {
			said = err.Error()
			log.Error("cannot listen; trying again until it works", "address", address, "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(RetryEvery):
		}
	}
}
