package dns

import (
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/sluicenet/sluice/dns/dnstap"
	"github.com/sluicenet/sluice/dns/ratelimit"
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
	w := &worker{counters: s.metrics.newCounters(), six: isIPv6(conn.LocalAddr()), protocol: dnstap.UDP}
	w.server = conn.LocalAddr().(*net.UDPAddr).AddrPort()
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
	now := time.Now()
	w.now = now
	var answered [2]uint64 // by part
	for i := range n {
		msg := b.message(i)
		if len(msg) < wire.HeaderLen && s.isProber(&b.peers[i]) {
			b.reply(i, append(b.room(i), msg...))
			continue
		}
		w.client = peerAddrPort(&b.peers[i])
		if s.limiter != nil {
			switch s.limiter.Query(w.client.Addr(), now) {
			case ratelimit.Drop:
				continue
			case ratelimit.Slip:
				if reply := w.query.Slip(msg, b.room(i)); len(reply) > 0 {
					b.reply(i, reply)
				}
				continue
			}
		}
		reply, m := s.answer(w, msg, b.room(i), false, nil)
		switch {
		case len(reply) > 0:
			s.observe(w, msg, reply, now)
			answered[w.part()]++
			b.reply(i, reply)
		case m.name != nil:
			to, conn := b.origin(i), b.conn
			s.await(work, w, m, w.pend(msg, now, func(reply []byte) {
				if len(reply) > 0 {
					// A client that is gone is no concern of ours.
					_ = sendTo(conn, reply, &to)
				}
			}))
		}
	}
	err := b.send()
	// One look at the clock for all of a batch, which go out together.
	took := time.Since(now)
	for part, n := range answered {
		w.times[part].ObserveN(took, n)
	}
	return err
}
