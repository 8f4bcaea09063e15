package forward

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// A forger has to hit the port of a question, which the kernel picked at random.
// To find one out takes many seconds and hundreds of packets, so it is given up
// before (RFC 5452 §9.2).
const (
	portQuestions = 32
	portLife      = time.Second
	maxIdlePorts  = 64 // for one server
)

// ports are the sockets from which one server is asked over UDP. Each is connected,
// so that only the server can answer, and has one question at a time, so that no two
// under way share a port. One that got its answer serves a few more: to open and to
// close a socket costs half of what a question does, and each port is one more entry
// in the connection tracking of every hop.
type ports struct {
	upstream *upstream

	mu     sync.Mutex // guards all below
	idle   []*port
	sweep  *time.Timer // closes what is idle for too long
	closed bool
}

// port is one socket.
type port struct {
	net.Conn
	opened time.Time
	asked  int // questions
}

func (p *ports) init(u *upstream) {
	p.upstream = u
	p.sweep = time.AfterFunc(time.Hour, p.closeOld)
	p.sweep.Stop()
}

// get returns a socket that nobody else uses.
func (p *ports) get(ctx context.Context) (*port, error) {
	if o := p.take(); o != nil {
		o.asked++
		return o, nil
	}
	conn, err := p.upstream.forward.dial(ctx, "udp", p.upstream.Addr)
	if err != nil {
		return nil, err
	}
	return &port{Conn: conn, opened: time.Now(), asked: 1}, nil
}

// take takes one of those that are idle, nobody can tell which.
func (p *ports) take() *port {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	i := rand.IntN(n)
	o := p.idle[i]
	p.idle[i], p.idle[n-1] = p.idle[n-1], nil
	p.idle = p.idle[:n-1]
	if time.Since(o.opened) >= portLife { // the sweep is late
		closeQuietly(o)
		return nil
	}
	return o
}

// put takes back a socket that got its answer.
func (p *ports) put(o *port) {
	left := portLife - time.Since(o.opened)
	if o.asked >= portQuestions || left <= 0 || !p.keep(o, left) {
		closeQuietly(o)
	}
}

func (p *ports) keep(o *port, left time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= maxIdlePorts {
		return false
	}
	if len(p.idle) == 0 {
		p.sweep.Reset(left)
	}
	p.idle = append(p.idle, o)
	return true
}

// closeOld closes the sockets whose time is up.
func (p *ports) closeOld() {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept, next := p.idle[:0], portLife
	for _, o := range p.idle {
		if left := portLife - time.Since(o.opened); left > 0 {
			kept, next = append(kept, o), min(next, left)
		} else {
			closeQuietly(o)
		}
	}
	clear(p.idle[len(kept):])
	if p.idle = kept; len(kept) > 0 {
		p.sweep.Reset(next)
	}
}

func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.sweep.Stop()
	for _, o := range p.idle {
		closeQuietly(o)
	}
	p.idle = nil
}
