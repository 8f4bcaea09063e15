package dns

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/sluicenet/sluice/dns/dnstap"
	"github.com/sluicenet/sluice/dns/wire"
)

// maxPipelined is how many queries of one connection may wait for other servers
// before no more are read from it.
const maxPipelined = 64

// What one connection may take.
const (
	// maxQuery is the longest query that is read, as over UDP. The longest name
	// with every option that is in use is shorter by far.
	maxQuery    = queryRoom
	readBuffer  = maxQuery + 2
	writeBuffer = 4096
	// messageTime is how long a message may take from its first octet to its last.
	messageTime = 2 * time.Second
	// handshakeTime is how long the handshake of TLS may take.
	handshakeTime = 5 * time.Second
)

// errOversized indicates a message over TCP that is too long for a query.
var errOversized = errors.New("longer than a query can be")

// Times of the end of TCP. A connection that has begun for the kernel may not be
// done with its handshake, and a client that is slow to read our end of a
// connection goes on asking.
const (
	lastAccept = 200 * time.Millisecond
	lastQuery  = 200 * time.Millisecond
)

// serveTCP accepts connections until the context ends, and then those that were
// begun before. With a configuration they are of TLS (RFC 7858).
func (s *Server) serveTCP(ctx, work context.Context, l *net.TCPListener, secure *tls.Config, conns *sync.WaitGroup) error {
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
			s.conns.evict()
			time.Sleep(10 * time.Millisecond) // until another connection has ended
			continue
		case err != nil:
			return err
		}
		c := s.conns.admit(conn, s.MaxConnections, s.MaxPerClient)
		if c == nil {
			_ = conn.Close()
			continue
		}
		c.patience = s.IdleTimeout
		if c.protocol = dnstap.TCP; secure != nil {
			c.conn, c.protocol = tls.Server(conn, secure), dnstap.DoT
		}
		c.out = bufio.NewWriterSize(c.conn, writeBuffer)
		conns.Go(func() { s.serveConn(ctx, work, c) })
	}
}

func (s *Server) serveConn(ctx, work context.Context, c *stream) {
	conn := c.conn
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
		s.conns.leave(c)
		_ = conn.Close()
	}()
	if t, ok := conn.(*tls.Conn); ok {
		shaking, cancel := context.WithTimeout(work, min(handshakeTime, s.IdleTimeout))
		err := t.HandshakeContext(shaking)
		cancel()
		if err != nil {
			return
		}
	}
	in := bufio.NewReaderSize(conn, readBuffer)
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
		msg, err := s.readMessage(ctx, c, in)
		if err != nil || s.answerStream(work, c, msg) != nil {
			return
		}
		if _, err := in.Discard(len(msg)); err != nil {
			return
		}
	}
}

// readMessage waits for a message with its length before it, and leaves it in the
// buffer. Once a message has begun, the rest has to follow soon: a client that
// sends one octet now and then keeps nothing busy for long.
func (s *Server) readMessage(ctx context.Context, c *stream, in *bufio.Reader) ([]byte, error) {
	c.rest()
	_, err := in.Peek(1)
	c.work()
	if err != nil {
		return nil, err
	}
	if in.Buffered() < 2 || in.Buffered() < 2+bufferedLength(in) {
		if err := c.conn.SetReadDeadline(time.Now().Add(min(messageTime, s.IdleTimeout))); err != nil {
			return nil, err
		}
		if ctx.Err() != nil && c.conn.SetReadDeadline(time.Now().Add(lastQuery)) != nil {
			return nil, ctx.Err()
		}
	}
	head, err := in.Peek(2)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head))
	if n > maxQuery {
		s.metrics.limits.oversized.Add(1)
		return nil, errOversized
	}
	if _, err := in.Discard(2); err != nil {
		return nil, err
	}
	return in.Peek(n)
}

// bufferedLength returns the length of the message whose start is in the buffer.
func bufferedLength(in *bufio.Reader) int {
	head, err := in.Peek(2)
	if err != nil {
		return 0
	}
	return int(binary.BigEndian.Uint16(head))
}

func (s *Server) answerStream(work context.Context, c *stream, msg []byte) error {
	if s.limiter != nil {
		if wait := s.limiter.Wait(c.client.Addr(), time.Now()); wait > 0 {
			select {
			case <-time.After(wait):
			case <-work.Done():
				return work.Err()
			}
		}
	}
	w := s.workers.Get().(*worker)
	defer s.workers.Put(w)
	w.six, w.client, w.server, w.protocol = isIPv6(c.conn.LocalAddr()), c.client, c.server, c.protocol
	now := time.Now()
	w.now = now
	m, err := s.answerAtOnce(work, c, w, msg)
	if err != nil || m.name == nil {
		return err
	}
	c.slots <- struct{}{}
	c.pending.Add(1)
	s.await(work, w, m, w.pend(msg, now, func(reply []byte) { s.answerLate(c, reply) }))
	return nil
}

// answerAtOnce answers a query, unless it returns what is missing.
func (s *Server) answerAtOnce(work context.Context, c *stream, w *worker, msg []byte) (miss, error) {
	if !s.conns.owe(c, wire.MaxMessage) {
		return miss{}, net.ErrClosed
	}
	defer s.conns.paid(c, wire.MaxMessage)
	room := s.rooms.Get().(*[]byte)
	defer s.rooms.Put(room)
	if len(s.Transfer) > 0 && w.query.Parse(msg, true) == wire.Refused && s.mayTransfer(w) {
		return miss{}, s.sendTransfer(work, c, w, msg, *room, w.now)
	}
	reply, m := s.answer(w, msg, *room, true, nil)
	if m.name != nil || len(reply) == 0 {
		return m, nil
	}
	s.observe(w, msg, reply, w.now)
	w.took(w.now)
	return miss{}, c.write(reply)
}

// answerLate sends an answer that was waited for. A client that does not read must not
// hold up others that wait for the same.
func (s *Server) answerLate(c *stream, reply []byte) {
	done := func() {
		<-c.slots
		c.pending.Done()
	}
	if len(reply) == 0 || !s.conns.owe(c, len(reply)) {
		done()
		return
	}
	reply = append([]byte(nil), reply...)
	go func() {
		defer done()
		defer s.conns.paid(c, len(reply))
		if c.write(reply) == nil {
			// A client that is gone is no concern of ours.
			_ = c.flush()
		}
	}()
}

func (c *stream) write(msg []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
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
