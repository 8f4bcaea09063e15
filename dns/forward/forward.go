package forward

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

// deadTotal is how long all servers together have if none of them answered
// lately: the client is better served with a stale answer or a failure now.
const deadTotal = time.Second

// Forwarder is safe for concurrent use.
type Forwarder struct {
	Options
	ctx        context.Context
	cancel     context.CancelFunc
	background sync.WaitGroup
	table      atomic.Pointer[table]
	inFlight   atomic.Int64
	busy       atomic.Uint64
	broken     atomic.Uint64

	mu      sync.Mutex // held by who replaces table
	changed chan struct{}
	health  chan struct{}
}

// New checks the options and returns a forwarder. Without servers it answers
// every question with [ErrNoUpstream].
func New(o Options) (*Forwarder, error) {
	o.complete()
	f := &Forwarder{Options: o, changed: make(chan struct{}, 1), health: make(chan struct{}, 1)}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	t, err := f.newTable(o.Zones)
	if err != nil {
		f.cancel()
		return nil, err
	}
	f.table.Store(t)
	return f, nil
}

// SetZone replaces the zone of that name, which the options must have. What is known
// of servers that stay is kept.
func (f *Forwarder) SetZone(zone Zone) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.table.Load()
	zones := slices.Clone(old.zones)
	i := indexZone(zones, zone.Name)
	if i < 0 {
		return fmt.Errorf("%w: %s is not among the zones", ErrNoUpstream, zone.Name)
	}
	zones[i] = zone
	t, err := f.newTable(zones)
	if err != nil {
		return err
	}
	f.table.Store(t)
	for _, u := range old.upstreams {
		if !slices.Contains(t.upstreams, u) {
			u.close()
		}
	}
	select {
	case f.changed <- struct{}{}:
	default:
	}
	f.healthChanged()
	return nil
}

// Changed delivers when the servers have changed.
func (f *Forwarder) Changed() <-chan struct{} { return f.changed }

// Zone returns the number of the zone whose servers are asked for the name, in
// lower case, or -1 if there are none. It is that of the zone in [Forwarder.Zones].
func (f *Forwarder) Zone(name []byte) int {
	if s := f.table.Load().find(name); s != nil {
		return s.index
	}
	return -1
}

// Handles reports whether there is a server to ask for the name, in lower case.
func (f *Forwarder) Handles(name []byte) bool { return f.table.Load().find(name) != nil }

// Forwards reports whether there is a server to ask for any name.
func (f *Forwarder) Forwards() bool { return len(f.table.Load().upstreams) > 0 }

// Dead reports whether none of the servers for the name answered lately.
func (f *Forwarder) Dead(name []byte) bool {
	s := f.table.Load().find(name)
	return s == nil || s.dead()
}

// result is what one server said.
type result struct {
	try  int
	resp *wire.Response
	err  error
}

// good reports whether the answer settles the question. Others may know what one
// that refuses or fails does not.
func (r result) good() bool {
	return r.err == nil && (r.resp.Rcode == wire.RcodeSuccess || r.resp.Rcode == wire.RcodeNXDomain)
}

// Ask puts the question to the servers of its zone until one answers. An answer
// that says that the server failed or refused is returned only if no other server
// has a better one. However often it is asked, a server fails a question once.
func (f *Forwarder) Ask(ctx context.Context, q Question) (*wire.Response, netip.AddrPort, error) {
	s := f.table.Load().find(wire.AppendLower(make([]byte, 0, wire.MaxName), q.Name))
	if s == nil {
		return nil, netip.AddrPort{}, ErrNoUpstream
	}
	up, down := s.order()
	if len(up)+len(down) == 0 {
		return nil, netip.AddrPort{}, fmt.Errorf("%w: each of them asks this server", ErrNoUpstream)
	}
	total := f.Total
	if len(up) == 0 {
		up, down, total = down, nil, min(deadTotal, total)
		f.broken.Add(1)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, total, ErrUnanswered)
	defer cancel()
	a := &asking{stub: s, q: &q, ctx: ctx, up: up, down: down, results: make(chan result, s.attempts*len(up)+len(down))}
	a.hedge = time.NewTimer(time.Hour)
	defer a.hedge.Stop()
	return a.run()
}

// asking is one question on its way through the servers. Only its goroutine
// touches it.
type asking struct {
	stub     *stub
	q        *Question
	ctx      context.Context
	up, down []*upstream // to ask; those that are down only if nothing else is left
	tries    []try
	round    int // of up, and the next of it
	next     int
	hedge    *time.Timer
	results  chan result
	pending  int
	worst    result
	errs     []error
}

// try is one question to one server.
type try struct {
	server *upstream
	since  time.Time
	ended  bool
	blamed bool
}

// errSlower is why a server's answer is not waited for.
var errSlower = errors.New("another server answered first")

func (a *asking) run() (*wire.Response, netip.AddrPort, error) {
	a.ask(true)
	for {
		select {
		case r := <-a.results:
			a.pending--
			t := &a.tries[r.try]
			t.ended = true
			if r.good() {
				t.server.succeeded()
				a.blameSlow(t.server)
				return r.resp, t.server.Addr, nil
			}
			a.note(t, r)
			a.ask(false)
			switch {
			case a.pending > 0:
			case a.worst.resp != nil:
				return a.worst.resp, a.tries[a.worst.try].server.Addr, nil
			default:
				return nil, netip.AddrPort{}, fmt.Errorf("%w: %w", ErrUnanswered, errors.Join(a.errs...))
			}
		case <-a.hedge.C:
			a.ask(true)
		case <-a.ctx.Done():
			cause := context.Cause(a.ctx)
			if errors.Is(cause, ErrUnanswered) {
				a.blameSilent(cause)
			}
			if a.worst.resp != nil {
				return a.worst.resp, a.tries[a.worst.try].server.Addr, nil
			}
			return nil, netip.AddrPort{}, fmt.Errorf("%w: %w", cause, errors.Join(a.errs...))
		}
	}
}

// note takes in that a server failed, or could not say.
func (a *asking) note(t *try, r result) {
	switch {
	case r.err == nil:
		// The server is alive; it is the name that fails. Resting it would let
		// one broken name turn away all others.
		t.server.succeeded()
		a.worst = r
	case a.ctx.Err() != nil, errors.Is(r.err, ErrBusy):
		a.errs = append(a.errs, r.err)
	default:
		a.errs = append(a.errs, fmt.Errorf("%v: %w", t.server.Server, r.err))
		a.blame(t, r.err)
	}
}

// blame marks a server's failure, unless it is for the same question once more.
func (a *asking) blame(t *try, err error) {
	for i := range a.tries {
		if a.tries[i].server == t.server && a.tries[i].blamed {
			return
		}
	}
	t.blamed = true
	t.server.failed(err)
}

func (a *asking) blameSilent(err error) {
	for i := range a.tries {
		if t := &a.tries[i]; !t.ended && !a.answered(t.server) {
			a.blame(t, err)
		}
	}
}

// blameSlow marks those that had their time and were overtaken.
func (a *asking) blameSlow(winner *upstream) {
	for i := range a.tries {
		t := &a.tries[i]
		if !t.ended && t.server != winner && !a.answered(t.server) && time.Since(t.since) >= t.server.hedge() {
			t.server.slow()
		}
	}
}

func (a *asking) answered(u *upstream) bool {
	return slices.ContainsFunc(a.tries, func(t try) bool { return t.server == u && t.ended })
}

// ask asks the next server, if there is one: of those that are up first each
// once; then, if it is only that time has passed, each again, for a datagram may
// be lost; and if there is nothing to wait for one that is down.
func (a *asking) ask(late bool) {
	var u *upstream
	switch {
	case a.next < len(a.up):
		u = a.up[a.next]
		a.next++
	case late && a.round+1 < a.stub.attempts:
		a.round++
		u = a.up[0]
		a.next = 1
	case a.pending == 0 && len(a.down) > 0 && a.worst.resp == nil:
		u = a.down[0]
		a.down = a.down[1:]
	default:
		return
	}
	if a.round > 0 && a.answered(u) { // whatever it said, it will say again
		a.ask(late)
		return
	}
	i := len(a.tries)
	a.tries = append(a.tries, try{server: u, since: time.Now()})
	a.pending++
	wait := u.hedge()
	if a.next == len(a.up) { // the next is one that was asked before
		wait = u.repeat()
	}
	a.hedge.Reset(wait << a.round)
	go func() {
		ctx, cancel := context.WithTimeoutCause(a.ctx, a.stub.timeout, context.DeadlineExceeded)
		defer cancel()
		resp, err := u.exchange(ctx, a.q)
		a.results <- result{i, resp, err}
	}()
}

// Probe asks one server, whatever is known of it; see [Forwarder.Looped].
func (f *Forwarder) Probe(ctx context.Context, server Server, q Question) {
	if u := f.table.Load().upstream(server); u != nil {
		ctx, cancel := context.WithTimeout(ctx, f.Timeout)
		defer cancel()
		// What it answers does not matter, only whom it asks.
		_, _ = u.exchange(ctx, &q)
	}
}

// Looped says whether queries to the server come back to us; if so it is not
// asked.
func (f *Forwarder) Looped(server Server, looped bool) {
	if u := f.table.Load().upstream(server); u != nil {
		u.looped.Store(looped)
		f.healthChanged()
	}
}

// Close ends connections and what is done in the background.
func (f *Forwarder) Close() {
	f.cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.table.Load().upstreams {
		u.close()
	}
	f.background.Wait()
}
