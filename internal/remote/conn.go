package remote

import (
	"io"
	"net"
	"sync"
	"time"
)

// pipeConn makes a connection of two pipes. It has no deadlines: what it
// carries has its own.
type pipeConn struct {
	io.Reader
	io.WriteCloser
	once   sync.Once
	closed chan struct{}
}

// Close implements [net.Conn].
func (c *pipeConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.WriteCloser.Close()
		close(c.closed)
	})
	return err
}

// LocalAddr implements [net.Conn].
func (c *pipeConn) LocalAddr() net.Addr { return pipeAddr{} }

// RemoteAddr implements [net.Conn].
func (c *pipeConn) RemoteAddr() net.Addr { return pipeAddr{} }

// SetDeadline implements [net.Conn].
func (c *pipeConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements [net.Conn].
func (c *pipeConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements [net.Conn].
func (c *pipeConn) SetWriteDeadline(time.Time) error { return nil }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// oneListener accepts one connection, and ends with it.
type oneListener struct {
	conn  net.Conn
	ended chan struct{}
	taken bool
}

// Accept implements [net.Listener].
func (l *oneListener) Accept() (net.Conn, error) {
	if !l.taken {
		l.taken = true
		return l.conn, nil
	}
	<-l.ended
	return nil, net.ErrClosed
}

// Close implements [net.Listener].
func (l *oneListener) Close() error { return nil }

// Addr implements [net.Listener].
func (l *oneListener) Addr() net.Addr { return pipeAddr{} }
