package forward

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

const (
	maxFails    = 2 // failures in a row after which a server is left out
	probeFirst  = 250 * time.Millisecond
	probeMost   = 5 * time.Second
	stalledRest = 10 * time.Second // for which UDP comes first after TCP stalled

	hedgeUnknown = 400 * time.Millisecond
	hedgeLeast   = 150 * time.Millisecond // many names take a server that long the first time
	hedgeMost    = time.Second
	// repeatAfter is how long a server may take before it is asked the same again,
	// which only helps where a datagram was lost (RFC 6298 §2.1).
	repeatAfter = time.Second
)

// upstream is one server.
type upstream struct {
	Server
	forward  *Forwarder
	ctx      context.Context // until nobody wants the server any more
	cancel   context.CancelFunc
	requests atomic.Uint64
	failures atomic.Uint64
	broken   atomic.Uint64 // times that it began to be left out
	probes   atomic.Uint64 // that failed
	looped   atomic.Bool   // queries to it come back
	down     atomic.Bool
	last     atomic.Pointer[error] // why it did not answer; nil once it has
	stalled  atomic.Int64          // Unix nanoseconds until which UDP comes before TCP
	rtt      rtt
	times    CodeTimes
	streams  streams
	ports    ports

	mu     sync.Mutex // guards inARow, and changes of down
	inARow int        // failures
}

func newUpstream(f *Forwarder, s Server) *upstream {
	u := &upstream{Server: s, forward: f}
	u.ctx, u.cancel = context.WithCancel(f.ctx)
	u.streams.init(u)
	u.ports.init(u)
	return u
}

func (u *upstream) close() {
	u.mu.Lock()
	u.cancel()
	u.mu.Unlock()
	u.streams.close()
	u.ports.close()
}

// rtt is the smoothed time that a server takes, and how much it varies, as TCP
// keeps them (RFC 6298 §2). A lost update of two at once does no harm.
type rtt struct{ mean, variance atomic.Int64 }

func (r *rtt) observe(d time.Duration) {
	mean := r.mean.Load()
	if mean == 0 {
		r.mean.Store(max(1, int64(d)))
		r.variance.Store(int64(d) / 2)
		return
	}
	diff := int64(d) - mean
	r.mean.Store(max(1, mean+diff/8))
	r.variance.Store(r.variance.Load() + (max(diff, -diff)-r.variance.Load())/4)
}

// hedge returns how long the server may take before another is asked too.
func (u *upstream) hedge() time.Duration {
	if h := u.forward.Hedge; h > 0 {
		return h
	}
	mean := u.rtt.mean.Load()
	if mean == 0 {
		return hedgeUnknown
	}
	return min(max(time.Duration(mean+4*u.rtt.variance.Load()), hedgeLeast), hedgeMost)
}

// repeat returns how long the server may take before it is asked once more. Many
// names take it longer than others, and a second question does not speed them up.
func (u *upstream) repeat() time.Duration {
	if h := u.forward.Hedge; h > 0 {
		return h
	}
	return max(u.hedge(), repeatAfter)
}

// succeeded notes that the server answered.
func (u *upstream) succeeded() {
	u.mu.Lock()
	u.inARow = 0
	was := u.down.Swap(false)
	if u.last.Load() != nil {
		u.last.Store(nil)
	}
	u.mu.Unlock()
	if was {
		u.forward.healthChanged()
		u.forward.Log.Info("dns: upstream answers again", "upstream", u.String())
	}
}

// failed notes that the server did not answer one question. Where nobody listens
// there is no need for a second try.
func (u *upstream) failed(err error) {
	u.failures.Add(1)
	least := maxFails
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) {
		least = 1
	}
	u.blame(err, least)
}

// slow notes that another server, asked later, answered first. If it is so each
// time the server is dead, or as good as dead.
func (u *upstream) slow() { u.blame(errSlower, maxFails+1) }

func (u *upstream) blame(err error, least int) {
	u.mu.Lock()
	u.last.Store(&err)
	u.inARow++
	goesDown := u.inARow >= least && u.ctx.Err() == nil && !u.down.Swap(true)
	if goesDown { // under the lock, so that close waits for it
		u.forward.background.Go(u.recover)
	}
	u.mu.Unlock()
	if goesDown {
		u.forward.healthChanged()
		u.broken.Add(1)
		u.forward.Log.Warn("dns: upstream left out until it answers", "upstream", u.String(), "err", err)
	}
}

// recover asks the server until it answers.
func (u *upstream) recover() {
	wait := probeFirst
	for u.down.Load() {
		select {
		case <-time.After(wait):
		case <-u.ctx.Done():
			return
		}
		wait = min(2*wait, probeMost)
		ctx, cancel := context.WithTimeout(u.ctx, u.forward.Timeout)
		_, err := u.exchange(ctx, &Question{Name: []byte{0}, Type: wire.TypeNS})
		cancel()
		if err == nil {
			u.succeeded()
			return
		}
		u.probes.Add(1)
	}
}

// exchange puts the question to the server and returns its answer.
func (u *upstream) exchange(ctx context.Context, q *Question) (*wire.Response, error) {
	if u.forward.inFlight.Add(1) > int64(u.forward.MaxQueries) {
		u.forward.inFlight.Add(-1)
		u.forward.busy.Add(1)
		return nil, ErrBusy
	}
	defer u.forward.inFlight.Add(-1)
	u.requests.Add(1)
	start := time.Now()
	r, err := u.by(ctx, q, true)
	if err == nil && (r.Rcode == wire.RcodeFormErr || r.Rcode == wire.RcodeNotImp || r.Rcode == wire.RcodeBadVers) {
		// RFC 6891 §7: a server that does not know EDNS says so.
		r, err = u.by(ctx, q, false)
	}
	if err == nil {
		if r.Rcode >= wire.RcodeBadVers { // about the message, which the client did not send
			r = wire.Failure(q.Name, q.Type, wire.RcodeServFail)
		}
		took := time.Since(start)
		u.rtt.observe(took)
		u.times.Observe(r.Rcode, took)
	}
	return r, err
}

func (u *upstream) by(ctx context.Context, q *Question, edns bool) (*wire.Response, error) {
	switch u.Protocol {
	case TCP:
		return u.byTCP(ctx, q, edns)
	case TLS:
		return u.streams.ask(ctx, q, edns)
	}
	return u.byUDP(ctx, q, edns)
}

// byUDP asks over UDP, and over TCP what is too big for it.
func (u *upstream) byUDP(ctx context.Context, q *Question, edns bool) (*wire.Response, error) {
	sent := q
	if u.forward.RandomCase {
		sent = q.spelled()
	}
	r, err := u.udp(ctx, sent, edns)
	if errors.Is(err, errCase) {
		// The letters are there to tell forgers; TCP tells them too.
		return u.streams.ask(ctx, q, edns)
	}
	if err != nil || !r.Truncated {
		return r, err
	}
	full, err := u.streams.ask(ctx, q, edns)
	if err != nil {
		return r, nil // the client can try TCP for itself, and has a part at least
	}
	return full, nil
}

// byTCP asks over TCP, and over UDP too when there is no answer in time: some
// servers and the way to them know only UDP. If that answers first it is so; if not, it
// is the name that takes long.
func (u *upstream) byTCP(ctx context.Context, q *Question, edns bool) (*wire.Response, error) {
	if time.Now().UnixNano() < u.stalled.Load() {
		r, err := u.byUDP(ctx, q, edns)
		if err == nil {
			return r, nil
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(errSlower)
	answers := make(chan result, 2)
	const tcp, udp = 0, 1
	ask := func(how int, by func(context.Context, *Question, bool) (*wire.Response, error)) {
		r, err := by(ctx, q, edns)
		answers <- result{how, r, err}
	}
	go ask(tcp, u.streams.ask)
	stall := time.NewTimer(u.hedge())
	defer stall.Stop()
	pending, both, silent := 1, false, true
	var part *wire.Response
	var errs []error
	for pending > 0 {
		select {
		case a := <-answers:
			pending--
			switch {
			case a.try == tcp:
				silent = false
				if a.err != nil && ctx.Err() == nil {
					u.tcpStalls(a.err)
				}
			case a.err == nil && silent:
				u.tcpStalls(nil)
			}
			switch {
			case a.err == nil && !a.resp.Truncated:
				return a.resp, nil
			case a.err == nil:
				part = a.resp
			default:
				errs = append(errs, a.err)
			}
		case <-stall.C:
		}
		if !both {
			both = true
			pending++
			go ask(udp, u.udp)
		}
	}
	if part != nil {
		return part, nil
	}
	return nil, errors.Join(errs...)
}

// tcpStalls has UDP tried first for a while.
func (u *upstream) tcpStalls(err error) {
	if errors.Is(err, ErrBusy) {
		return
	}
	now := time.Now()
	if u.stalled.Swap(now.Add(stalledRest).UnixNano()) < now.Add(-stalledRest).UnixNano() {
		u.forward.Log.Warn("dns: upstream is slow over TCP, asked over UDP too", "upstream", u.String(), "err", err)
	}
}

// buffers are for datagrams: what is sent says that it takes no more than
// [wire.MaxUDP], but not every server listens.
var buffers = sync.Pool{New: func() any { b := make([]byte, 4096); return &b }}

// udp asks over a socket that has no other question.
func (u *upstream) udp(ctx context.Context, q *Question, edns bool) (*wire.Response, error) {
	p, err := u.ports.get(ctx)
	if err != nil {
		return nil, err
	}
	release := unblock(ctx, p)
	r, err := u.askOn(ctx, p, q, edns)
	if !release() || err != nil {
		// An answer may come yet, or the socket is at its deadline.
		closeQuietly(p)
		return r, err
	}
	u.ports.put(p)
	return r, nil
}

func (u *upstream) askOn(ctx context.Context, conn net.Conn, q *Question, edns bool) (*wire.Response, error) {
	room := buffers.Get().(*[]byte)
	defer buffers.Put(room)
	buf := *room
	id := uint16(rand.Uint32()) // ChaCha8, seeded by the kernel
	if _, err := conn.Write(q.append(buf[:0], id, edns)); err != nil {
		return nil, contextError(ctx, err)
	}
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, contextError(ctx, err)
		}
		if n < wire.HeaderLen || binary.BigEndian.Uint16(buf) != id {
			continue // a forgery, or late
		}
		r, err := q.read(slices.Clone(buf[:n]))
		if err != nil {
			continue
		}
		if n == len(buf) { // there may be more of it
			return wire.Truncation(q.Name, q.Type), nil
		}
		if u.forward.RandomCase && !q.repeats(r.Msg) {
			return nil, errCase
		}
		return r, nil
	}
}

// unblock ends reads and writes of conn when ctx ends, until the function that it
// returns is called, which reports whether that is not so.
func unblock(ctx context.Context, conn net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		// An error means that the connection is closed, which is as good.
		_ = conn.SetDeadline(time.Unix(1, 0))
	})
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
