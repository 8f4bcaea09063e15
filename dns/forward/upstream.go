package forward

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

const (
	maxIdle     = 4                // TCP connections kept for each server
	idleTimeout = 8 * time.Second  // below the 10 s after which servers close (RFC 7766 §6.2.3)
	restLeast   = time.Second      // how long a failed server is asked last
	restMost    = 30 * time.Second // after many failures
)

// Question is what is asked.
type Question struct {
	Name []byte // wire form
	Type uint16
	DO   bool
	CD   bool
}

// upstream is one server.
type upstream struct {
	addr     netip.AddrPort
	requests atomic.Uint64
	failures atomic.Uint64
	looped   atomic.Bool // queries to it come back

	mu       sync.Mutex // guards all below
	inARow   int        // failures
	restedBy time.Time  // until then others are asked first
	idle     []idleConn
}

type idleConn struct {
	net.Conn
	since time.Time
}

// healthy reports whether the server is to be asked before others.
func (u *upstream) healthy(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return !now.Before(u.restedBy)
}

func (u *upstream) succeeded() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.inARow, u.restedBy = 0, time.Time{}
}

func (u *upstream) failed(now time.Time) {
	u.failures.Add(1)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.restedBy = now.Add(min(restMost, restLeast<<min(u.inARow, 10)))
	u.inARow++
}

// ask puts the question to the server and returns its answer, by TCP if it is too
// big for UDP.
func (u *upstream) ask(ctx context.Context, q Question) (*wire.Response, error) {
	u.requests.Add(1)
	r, err := u.udp(ctx, q, true)
	if err == nil && r.Rcode == wire.RcodeFormErr {
		// RFC 6891 §7: a server that does not know EDNS says so.
		r, err = u.udp(ctx, q, false)
	}
	if err != nil || !r.Truncated {
		return r, err
	}
	full, err := u.tcp(ctx, q)
	if err != nil {
		return r, nil // the client can try TCP for itself, and has a part at least
	}
	return full, nil
}

func (q Question) append(dst []byte, id uint16, edns bool) []byte {
	var flags uint16
	if q.CD {
		flags = wire.FlagCD
	}
	return wire.AppendQuery(dst, id, flags, q.Name, q.Type, edns, q.DO)
}

// udp asks over a socket of its own, so that the kernel picks a random port each
// time (RFC 5452 §9.2), and one that is connected, so that only the server can
// answer.
func (u *upstream) udp(ctx context.Context, q Question, edns bool) (*wire.Response, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", u.addr.String())
	if err != nil {
		return nil, err
	}
	defer closeQuietly(conn)
	defer unblock(ctx, conn)()
	id := uint16(rand.Uint32()) // ChaCha8, seeded by the kernel
	if _, err := conn.Write(q.append(nil, id, edns)); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, contextError(ctx, err)
		}
		if n < wire.HeaderLen || binary.BigEndian.Uint16(buf) != id {
			continue // a forgery, or late
		}
		if r, err := q.read(slices.Clone(buf[:n])); err == nil {
			return r, nil
		}
	}
}

// read parses an answer. A server that does not understand the question may
// leave it out.
func (q Question) read(msg []byte) (*wire.Response, error) {
	r, err := wire.ParseResponse(msg, q.Name, q.Type)
	if err == nil {
		return r, nil
	}
	if flags := binary.BigEndian.Uint16(msg[2:]); flags&wire.FlagQR != 0 && flags&0xf == wire.RcodeFormErr {
		return &wire.Response{Rcode: wire.RcodeFormErr}, nil
	}
	return nil, err
}

// tcp asks over a kept connection, or a new one if there is none or the server
// has closed it meanwhile.
func (u *upstream) tcp(ctx context.Context, q Question) (*wire.Response, error) {
	for {
		conn, kept, err := u.dial(ctx)
		if err != nil {
			return nil, err
		}
		stop := unblock(ctx, conn)
		r, err := exchangeTCP(conn, q)
		stop()
		if err == nil {
			u.keep(conn)
			return r, nil
		}
		closeQuietly(conn)
		if !kept || ctx.Err() != nil {
			return nil, contextError(ctx, err)
		}
	}
}

func exchangeTCP(conn net.Conn, q Question) (*wire.Response, error) {
	id := uint16(rand.Uint32())
	msg := q.append(make([]byte, 2, 512), id, true)
	binary.BigEndian.PutUint16(msg, uint16(len(msg)-2))
	if _, err := conn.Write(msg); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	msg = make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, msg); err != nil {
		return nil, err
	}
	if len(msg) < wire.HeaderLen || binary.BigEndian.Uint16(msg) != id {
		return nil, wire.ErrResponse
	}
	return wire.ParseResponse(msg, q.Name, q.Type)
}

func (u *upstream) dial(ctx context.Context) (conn net.Conn, kept bool, err error) {
	u.mu.Lock()
	var expired []idleConn
	for len(u.idle) > 0 && conn == nil {
		last := u.idle[len(u.idle)-1]
		u.idle = u.idle[:len(u.idle)-1]
		if time.Since(last.since) < idleTimeout {
			conn = last.Conn
		} else {
			expired = append(expired, last)
		}
	}
	u.mu.Unlock()
	for _, c := range expired {
		closeQuietly(c)
	}
	if conn != nil {
		return conn, true, nil
	}
	var d net.Dialer
	conn, err = d.DialContext(ctx, "tcp", u.addr.String())
	return conn, false, err
}

func (u *upstream) keep(conn net.Conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.idle) < maxIdle && conn.SetDeadline(time.Time{}) == nil {
		u.idle = append(u.idle, idleConn{conn, time.Now()})
		return
	}
	closeQuietly(conn)
}

func (u *upstream) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.idle {
		closeQuietly(c)
	}
	u.idle = nil
}

// unblock ends reads and writes of conn when ctx ends, until the function that it
// returns is called.
func unblock(ctx context.Context, conn net.Conn) (stop func()) {
	cancel := context.AfterFunc(ctx, func() {
		// An error means that the connection is closed, which is as good.
		_ = conn.SetDeadline(time.Unix(1, 0))
	})
	return func() { cancel() }
}

// contextError says that it was the context if it was.
func contextError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	}
	return err
}

// closeQuietly closes a connection that nothing is expected of any more.
func closeQuietly(c io.Closer) { _ = c.Close() }
