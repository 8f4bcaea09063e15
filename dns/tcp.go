package dns

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/wire"
)

// maxPipelined is how many queries of one connection may wait for other servers
// before no more are read from it.
const maxPipelined = 64

// Times of the end of TCP. A connection that has begun for the kernel may not be
// done with its handshake, and a client that is slow to read our end of a
// connection goes on asking.
const (
	lastAccept = 200 * time.Millisecond
	lastQuery  = 200 * time.Millisecond
)

// serveTCP accepts connections until the context ends, and then those that were
// begun before.
func (s *Server) serveTCP(ctx, work context.Context, l *net.TCPListener, conns *sync.WaitGroup) error {
	stop := context.AfterFunc(ctx, func() {
		yieldConnections(l)
		_ = l.SetDeadline(time.Now().Add(lastAccept))
	})
	defer stop()
	defer func() { _ = l.Close() }()
	for {
		conn, err := l.AcceptTCP()
		switch {
		case err != nil && ctx.Err() != nil:
			return nil
		case isExhausted(err):
			time.Sleep(10 * time.Millisecond) // until another connection has ended
			continue
		case err != nil:
			return err
		}
		if s.metrics.connections.Add(1) > int64(s.MaxConnections) {
			s.metrics.connections.Add(-1)
			s.metrics.refused.Add(1)
			_ = conn.Close()
			continue
		}
		conns.Go(func() { s.serveConn(ctx, work, conn) })
	}
}

// stream is one connection. Answers go out as they are ready, in any order (RFC
// 7766 §6.2.1.1).
type stream struct {
	conn    net.Conn
	idle    time.Duration
	pending sync.WaitGroup
	slots   chan struct{}

	mu  sync.Mutex // guards out
	out *bufio.Writer
}

func (s *Server) serveConn(ctx, work context.Context, conn net.Conn) {
	c := &stream{conn: conn, idle: s.IdleTimeout, slots: make(chan struct{}, maxPipelined), out: bufio.NewWriter(conn)}
	// At the end the queries that are here already are answered, and so are
	// those that come before the client is silent for a moment. Then there is
	// no time left.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Now().Add(lastQuery)) })
	defer stop()
	cut := context.AfterFunc(work, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer cut()
	defer func() {
		c.pending.Wait()
		_ = c.flush()
		// Before the client sees the end, for it may come again at once.
		s.metrics.connections.Add(-1)
		_ = conn.Close()
	}()
	in := bufio.NewReader(conn)
	buf := make([]byte, 2, 512)
	for {
		// What is answered is sent before the next query is waited for, but
		// not between queries that are there already.
		if in.Buffered() == 0 && c.flush() != nil {
			return
		}
		if conn.SetReadDeadline(time.Now().Add(s.IdleTimeout)) != nil || work.Err() != nil {
			return
		}
		if ctx.Err() != nil && conn.SetReadDeadline(time.Now().Add(lastQuery)) != nil {
			return
		}
		msg, err := readMessage(in, buf)
		if err != nil || s.answerStream(work, c, msg) != nil {
			return
		}
	}
}

// readMessage reads a message with its length before it, into buf if it fits.
func readMessage(r io.Reader, buf []byte) ([]byte, error) {
	buf = buf[:2]
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	if n > cap(buf) {
		buf = make([]byte, n)
	}
	_, err := io.ReadFull(r, buf[:n])
	return buf[:n], err
}

func (s *Server) answerStream(work context.Context, c *stream, msg []byte) error {
	w := s.workers.Get().(*worker)
	defer s.workers.Put(w)
	w.six = isIPv6(c.conn.LocalAddr())
	room := s.rooms.Get().(*[]byte)
	reply, m := s.answer(w, msg, *room, true, nil)
	var err error
	if len(reply) > 0 {
		err = c.write(reply)
	}
	s.rooms.Put(room)
	if m.name == nil {
		return err
	}
	msg = append([]byte(nil), msg...)
	since, six := w.since, w.six
	c.slots <- struct{}{}
	c.pending.Add(1)
	late := func(it *cache.Item) {
		defer func() {
			<-c.slots
			c.pending.Done()
		}()
		w := s.workers.Get().(*worker)
		defer s.workers.Put(w)
		w.since, w.six = since, six
		room := s.rooms.Get().(*[]byte)
		defer s.rooms.Put(room)
		if reply, _ := s.answer(w, msg, *room, true, it); len(reply) > 0 && c.write(reply) == nil {
			// A client that is gone is no concern of ours.
			_ = c.flush()
		}
	}
	// A client that does not read must not hold up others that wait for the same.
	s.resolver.resolve(work, &w.query, m, func(it *cache.Item) { go late(it) })
	return nil
}

func (c *stream) write(msg []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.idle)); err != nil {
		return err
	}
	var length [2]byte
	binary.BigEndian.PutUint16(length[:], uint16(len(msg)))
	if _, err := c.out.Write(length[:]); err != nil {
		return err
	}
	_, err := c.out.Write(msg)
	return err
}

func (c *stream) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Flush()
}

// newRoom makes the room of an answer over TCP.
func newRoom() any {
	b := make([]byte, 0, wire.MaxMessage)
	return &b
}
