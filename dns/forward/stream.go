package forward

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

const (
	idleTimeout = 8 * time.Second // below the 10 s after which servers close (RFC 7766 §6.2.3)
	dialTimeout = 2 * time.Second
	// stallAfter is how long a connection may say nothing while something is
	// expected of it.
	stallAfter = time.Second
)

var (
	errClosed  = errors.New("connection closed by the server")
	errStalled = errors.New("connection says nothing")
)

// stream is one connection.
type stream struct {
	streams *streams
	load    int           // questions under way; guarded by streams.mu
	asked   int           // questions of all time; guarded by streams.mu
	idle    *time.Timer   // closes it; guarded by streams.mu
	ready   chan struct{} // closed when it is open
	conn    net.Conn      // nil until ready

	write    sync.Mutex // one message after the other
	mu       sync.Mutex // guards all below; taken after streams.mu
	calls    map[uint16]*call
	answered int   // questions
	err      error // why it is not usable any more
	done     chan struct{}
	read     time.Time // when something came last
}

// call is one question under way.
type call struct {
	question *Question
	answer   chan *wire.Response
}

func (c *stream) closeIdle() {
	c.streams.mu.Lock()
	unused := c.load == 0
	c.streams.mu.Unlock()
	if unused {
		c.fail(errClosed)
	}
}

// serve opens the connection and hands out what arrives, until it ends.
func (c *stream) serve() {
	conn, err := c.dial()
	if err != nil {
		c.fail(err) // before anybody takes it for ready
		return
	}
	c.mu.Lock()
	c.conn = conn
	c.read = time.Now()
	closed := c.err != nil
	c.mu.Unlock()
	if closed { // meanwhile
		closeQuietly(conn)
		return
	}
	close(c.ready)
	c.fail(c.receive(conn))
}

func (c *stream) dial() (net.Conn, error) {
	u := c.streams.upstream
	ctx, cancel := context.WithTimeout(u.ctx, min(dialTimeout, u.forward.Timeout))
	defer cancel()
	conn, err := u.forward.dial(ctx, "tcp", u.Addr)
	if err != nil || c.streams.tls == nil {
		return conn, err
	}
	secure := tls.Client(conn, c.streams.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		closeQuietly(conn)
		return nil, fmt.Errorf("TLS with %v: %w", u.Addr, err)
	}
	return secure, nil
}

// receive hands each answer to who asked, in whatever order they come (RFC 7766
// §7). Its end is the end of the connection.
func (c *stream) receive(conn net.Conn) error {
	in := bufio.NewReader(conn)
	var length [2]byte
	for {
		if _, err := io.ReadFull(in, length[:]); err != nil {
			return errClosed
		}
		msg := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(in, msg); err != nil {
			return errClosed
		}
		c.arrived(msg)
	}
}

func (c *stream) arrived(msg []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = time.Now()
	if len(msg) < wire.HeaderLen {
		return
	}
	id := binary.BigEndian.Uint16(msg)
	asked := c.calls[id]
	if asked == nil {
		return // too late, or of no question of ours
	}
	if r, err := asked.question.read(msg); err == nil {
		asked.answer <- r
		delete(c.calls, id)
		c.answered++
	}
}

// fail ends the connection and all that waits for it.
func (c *stream) fail(err error) {
	s := c.streams
	s.mu.Lock()
	c.mu.Lock()
	if c.err == nil {
		c.err = err
		close(c.done)
		if errors.Is(err, errClosed) && c.answered > 0 && len(c.calls) > 0 && time.Since(c.read) < atOnce {
			s.learn(c.answered)
		}
	}
	conn := c.conn
	c.mu.Unlock()
	c.idle.Stop()
	s.remove(c)
	s.mu.Unlock()
	if conn != nil {
		closeQuietly(conn)
	}
}

// useful reports whether any question was answered over it.
func (c *stream) useful() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answered > 0
}

// ended returns why the connection is not usable any more, or nil.
func (c *stream) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *stream) ask(ctx context.Context, q *Question, edns bool) (*wire.Response, error) {
	select {
	case <-c.ready:
	case <-c.done:
		return nil, c.ended()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	asked := &call{q, make(chan *wire.Response, 1)}
	id, err := c.begin(asked)
	if err != nil {
		return nil, err
	}
	defer c.end(id, asked)
	sent := time.Now()
	if err := c.send(q, id, edns); err != nil {
		c.fail(errClosed)
		return nil, errClosed
	}
	select {
	case r := <-asked.answer:
		return r, nil
	case <-c.done:
		select {
		case r := <-asked.answer: // came before the end
			return r, nil
		default:
			return nil, c.ended()
		}
	case <-ctx.Done():
		c.mu.Lock()
		stalled := !c.read.After(sent) && time.Since(sent) >= stallAfter
		c.mu.Unlock()
		if stalled { // the next question goes over another one
			c.fail(errStalled)
		}
		return nil, context.Cause(ctx)
	}
}

// begin gives the call an ID that no other one under way has.
func (c *stream) begin(asked *call) (uint16, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	for {
		id := uint16(rand.Uint32())
		if c.calls[id] == nil {
			c.calls[id] = asked
			return id, nil
		}
	}
}

func (c *stream) end(id uint16, asked *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls[id] == asked {
		delete(c.calls, id)
	}
}

func (c *stream) send(q *Question, id uint16, edns bool) error {
	var room [512]byte
	msg := q.append(room[:2], id, edns)
	binary.BigEndian.PutUint16(msg, uint16(len(msg)-2))
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(stallAfter)); err != nil {
		return err
	}
	_, err := c.conn.Write(msg)
	return err
}
