package localhost

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// dialTimeout is how long a backend may take to accept.
const dialTimeout = 5 * time.Second

// acceptPause is the wait after a failure to accept, as where the process has no
// more descriptors.
const acceptPause = 50 * time.Millisecond

func (l *listeners) listenTCP(p port, is *listener) error {
	ln, err := l.Listen(l.ctx, networkOf(p), p.address().String())
	if err != nil {
		return err
	}
	is.close, is.changed = closer(ln), func(*target) {}
	l.work.Go(func() { l.accept(ln, is) })
	return nil
}

// accept serves the connections of a listener until it is closed. Where there are
// too many, the next ones wait in the kernel.
func (l *listeners) accept(ln net.Listener, is *listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || l.ctx.Err() != nil {
				return
			}
			time.Sleep(acceptPause)
			continue
		}
		select {
		case l.tcp <- struct{}{}:
		case <-l.ctx.Done():
			_ = conn.Close()
			return
		}
		l.work.Go(func() {
			defer l.tcp.release()
			l.relay(conn, is)
		})
	}
}

// relay connects a client with a backend. A client whose backend does not answer
// is reset.
func (l *listeners) relay(client net.Conn, is *listener) {
	defer func() { _ = client.Close() }()
	l.metrics.accept("tcp")
	ctx, cancel := context.WithTimeout(l.ctx, dialTimeout)
	backend, err := l.Dial(ctx, "tcp", is.picker.pick(time.Now()).String())
	cancel()
	if err != nil {
		l.metrics.rejected.WithLabelValues("tcp").Inc()
		reset(client)
		return
	}
	defer func() { _ = backend.Close() }()
	stop := context.AfterFunc(l.ctx, closer(client, backend))
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { pipe(backend, client) })
	pipe(client, backend)
	both.Wait()
}

// pipe copies until the source ends, and ends the destination likewise: a half
// that is closed is closed, a connection that breaks is reset. Between TCP
// connections the kernel copies.
func pipe(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		reset(to)
		reset(from)
		_ = to.Close()
		_ = from.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	} else {
		_ = to.Close()
	}
}

// reset has the connection reset when it is closed.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}
