package dns

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"time"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/wire"
)

// serveUDP answers what arrives on one socket until the context ends, and then
// what has arrived by then.
func (s *Server) serveUDP(ctx, work context.Context, l *loop, conn *net.UDPConn, wildcard bool) error {
	b, err := newBatch(conn, wildcard)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	w := &worker{counters: s.metrics.newCounters(), six: isIPv6(conn.LocalAddr())}
	for {
		n, err := b.receive(false)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return s.drainUDP(work, w, b, conn)
		}
		if err != nil {
			return err
		}
		l.begin()
		err = s.answerBatch(work, w, b, n)
		l.end()
		if err != nil {
			return err
		}
	}
}

// drainUDP answers what is left in the socket's queue, to which nothing is added
// any more where another process has the address, too.
func (s *Server) drainUDP(work context.Context, w *worker, b *batch, conn *net.UDPConn) error {
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	leaveGroup(conn)
	for {
		n, err := b.receive(true)
		if err != nil || n == 0 {
			return err
		}
		if err := s.answerBatch(work, w, b, n); err != nil {
			return err
		}
	}
}

func (s *Server) answerBatch(work context.Context, w *worker, b *batch, n int) error {
	for i := range n {
		msg := b.message(i)
		if len(msg) < wire.HeaderLen && s.isProber(&b.peers[i]) {
			b.reply(i, append(b.room(i), msg...))
			continue
		}
		reply, m := s.answer(w, msg, b.room(i), false, nil)
		switch {
		case len(reply) > 0:
			b.reply(i, reply)
		case m.name != nil:
			s.resolveUDP(work, w, b, i, m)
		}
	}
	return b.send()
}

// resolveUDP answers the i-th message when what it lacks is known.
func (s *Server) resolveUDP(work context.Context, w *worker, b *batch, i int, m miss) {
	msg, to, conn, since, six := slices.Clone(b.message(i)), b.origin(i), b.conn, w.since, w.six
	s.resolver.resolve(work, &w.query, m, func(it *cache.Item) {
		late := s.workers.Get().(*worker)
		defer s.workers.Put(late)
		late.since, late.six = since, six
		if reply, _ := s.answer(late, msg, make([]byte, 0, wire.MaxUDP), false, it); len(reply) > 0 {
			// A client that is gone is no concern of ours.
			_ = sendTo(conn, reply, &to)
		}
	})
}
