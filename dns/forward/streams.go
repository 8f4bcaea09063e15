package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

const (
	// mostTries is how often one question is put to a server that closes
	// connections instead of answering it.
	mostTries = 4
	// A server may close a connection after some number of questions, often after
	// one. How many is learned from two connections that end after the same, with
	// questions left, at once after an answer. It holds for limitLife, and there may
	// be limitedConns times as many connections meanwhile.
	atOnce       = time.Second
	limitLife    = time.Minute
	limitedConns = 8
	// queuedLate is how long a question may wait for a connection. The server is not
	// to blame for what was asked later and is not answered in the time that is left.
	queuedLate = 250 * time.Millisecond
)

// streams are the connections to one server over TCP or TLS. Questions are
// spread among a few of them, because some servers answer those of one connection
// in turn.
type streams struct {
	upstream *upstream
	tls      *tls.Config // nil for TCP

	mu      sync.Mutex // guards all below
	open    []*stream
	waiting []chan struct{} // for one of them to end; closed in turn
	limit   int             // questions that the server takes on one
	until   time.Time       // the limit holds
	last    int             // after so many one ended last
	closed  bool
}

func (s *streams) init(u *upstream) {
	s.upstream = u
	if u.Protocol != TLS {
		return
	}
	name := u.Name
	if name == "" {
		name = u.Addr.Addr().WithZone("").String()
	}
	s.tls = &tls.Config{
		ServerName: name, RootCAs: u.forward.RootCAs, NextProtos: []string{"dot"},
		MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(8),
	}
}

// ask puts the question to the server over the connection that has the least to
// do. A server may close one at any time, and what it has not answered by then is
// asked again (RFC 7766 §6.2.4); that is a failure only where it answered nobody.
func (s *streams) ask(ctx context.Context, q *Question, edns bool) (*wire.Response, error) {
	for try := 1; ; try++ {
		start := time.Now()
		c, fresh, err := s.get(ctx)
		if err != nil {
			return nil, err
		}
		late := time.Since(start) >= queuedLate
		r, err := c.ask(ctx, q, edns)
		s.put(c)
		if late && err != nil && ctx.Err() != nil {
			return nil, ErrBusy
		}
		again := errors.Is(err, errClosed) && (!fresh || c.useful())
		if !again || try == mostTries || ctx.Err() != nil {
			return r, err
		}
	}
}

// get picks a connection, or begins to open one. fresh says that nothing was ever
// asked over it. It waits while there are as many as may be and each has as many
// questions as the server takes.
func (s *streams) get(ctx context.Context) (c *stream, fresh bool, err error) {
	for {
		s.mu.Lock()
		c, fresh, err = s.pick()
		turn := make(chan struct{})
		if c == nil && err == nil {
			s.waiting = append(s.waiting, turn)
		}
		s.mu.Unlock()
		if c != nil || err != nil {
			return c, fresh, err
		}
		select {
		case <-turn:
		case <-ctx.Done():
			s.giveUp(turn)
			return nil, false, ErrBusy
		}
	}
}

// wake has some of those that wait look again. s.mu is held.
func (s *streams) wake(n int) {
	n = min(n, len(s.waiting))
	for _, turn := range s.waiting[:n] {
		close(turn)
	}
	s.waiting = slices.Delete(s.waiting, 0, n)
}

// giveUp takes out one that does not wait any more, or passes its turn on.
func (s *streams) giveUp(turn chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, turn); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		return
	}
	s.wake(1)
}

// pick returns no connection where one has to end first. s.mu is held.
func (s *streams) pick() (c *stream, fresh bool, err error) {
	if s.closed {
		return nil, false, net.ErrClosed
	}
	for _, o := range s.open {
		if !s.spent(o) && (c == nil || o.load < c.load) {
			c = o
		}
	}
	o := &s.upstream.forward.Options
	switch most := o.MaxConns; {
	case c == nil && s.limited():
		fresh = len(s.open) < most*limitedConns
	case c == nil || c.load > 0:
		fresh = len(s.open) < most
	}
	if fresh {
		c = s.begin()
	}
	switch {
	case c == nil:
		return nil, false, nil
	case c.load >= o.MaxPipelined:
		return nil, false, ErrBusy
	}
	c.load++
	c.asked++
	c.idle.Stop()
	return c, fresh, nil
}

// begin begins to open a connection. s.mu is held.
func (s *streams) begin() *stream {
	c := &stream{streams: s, ready: make(chan struct{}), done: make(chan struct{}), calls: map[uint16]*call{}}
	c.idle = time.AfterFunc(time.Hour, c.closeIdle)
	c.idle.Stop()
	s.open = append(s.open, c)
	s.upstream.forward.background.Go(c.serve)
	return c
}

func (s *streams) put(c *stream) {
	s.mu.Lock()
	c.load--
	unused, spent := c.load == 0, s.spent(c)
	if unused && !spent {
		c.idle.Reset(idleTimeout)
	}
	if !s.limited() {
		s.wake(len(s.waiting))
	}
	s.mu.Unlock()
	if unused && spent {
		c.fail(errClosed)
	}
}

// limited reports whether a limit is known. s.mu is held.
func (s *streams) limited() bool { return s.limit > 0 && time.Now().Before(s.until) }

// spent reports whether the connection has had all questions that the server takes.
// s.mu is held.
func (s *streams) spent(c *stream) bool { return s.limited() && c.asked >= s.limit }

// learn takes in that the server closed a connection after so many answers. s.mu is
// held.
func (s *streams) learn(answered int) {
	if answered == s.last {
		s.limit, s.until = answered, time.Now().Add(limitLife)
	}
	s.last = answered
}

// remove takes in that a connection has ended. s.mu is held.
func (s *streams) remove(c *stream) {
	if i := slices.Index(s.open, c); i >= 0 {
		s.open = slices.Delete(s.open, i, i+1)
		if s.limited() {
			s.wake(s.limit)
		} else {
			s.wake(len(s.waiting))
		}
	}
}

func (s *streams) close() {
	s.mu.Lock()
	s.closed = true
	s.wake(len(s.waiting))
	open := slices.Clone(s.open)
	s.mu.Unlock()
	for _, c := range open {
		c.fail(net.ErrClosed)
	}
}

func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}
