package forward

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

// Forwarder is safe for concurrent use.
type Forwarder struct {
	Options
	stubs     []stub // longest zone first
	upstreams []*upstream
}

// New checks the options and returns a forwarder. Without servers it answers
// every question with [ErrNoUpstream].
func New(o Options) (*Forwarder, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	f := &Forwarder{Options: o}
	stubs, err := newStubs(&o, f.upstream)
	if err != nil {
		return nil, err
	}
	f.stubs = stubs
	return f, nil
}

func (f *Forwarder) upstream(addr netip.AddrPort) *upstream {
	for _, u := range f.upstreams {
		if u.addr == addr {
			return u
		}
	}
	u := &upstream{addr: addr}
	f.upstreams = append(f.upstreams, u)
	return u
}

// Handles reports whether there is a server to ask for the name, in lower case.
func (f *Forwarder) Handles(name []byte) bool { return f.stub(name) != nil }

func (f *Forwarder) stub(name []byte) *stub {
	for i := range f.stubs {
		if wire.InZone(name, f.stubs[i].zone) {
			return &f.stubs[i]
		}
	}
	return nil
}

// result is what one server said.
type result struct {
	server *upstream
	resp   *wire.Response
	err    error
}

// good reports whether the answer settles the question. Others may know what one
// that refuses or fails does not.
func (r result) good() bool {
	return r.err == nil && (r.resp.Rcode == wire.RcodeSuccess || r.resp.Rcode == wire.RcodeNXDomain)
}

// Ask puts the question to the servers of its zone until one answers. An answer
// that says that the server failed or refused is returned only if no other server
// has a better one.
func (f *Forwarder) Ask(ctx context.Context, q Question) (*wire.Response, netip.AddrPort, error) {
	s := f.stub(wire.AppendLower(make([]byte, 0, len(q.Name)), q.Name))
	if s == nil {
		return nil, netip.AddrPort{}, ErrNoUpstream
	}
	ctx, cancel := context.WithTimeoutCause(ctx, f.Total, ErrUnanswered)
	defer cancel()
	servers := order(s.servers, time.Now())
	if len(servers) == 0 {
		return nil, netip.AddrPort{}, fmt.Errorf("%w: each of them asks this server", ErrNoUpstream)
	}

	results := make(chan result, len(servers))
	hedge := time.NewTimer(f.Hedge)
	defer hedge.Stop()
	asked, pending := 0, 0
	askNext := func() {
		u := servers[asked]
		asked++
		pending++
		hedge.Reset(f.Hedge)
		go func() { results <- f.askOne(ctx, u, q) }()
	}
	askNext()
	var worst result
	var errs []error
	for {
		select {
		case r := <-results:
			pending--
			if r.good() {
				return r.resp, r.server.addr, nil
			}
			if r.err != nil {
				errs = append(errs, fmt.Errorf("%v: %w", r.server.addr, r.err))
			} else {
				worst = r
			}
			switch {
			case asked < len(servers):
				askNext()
			case pending == 0 && worst.resp != nil:
				return worst.resp, worst.server.addr, nil
			case pending == 0:
				return nil, netip.AddrPort{}, fmt.Errorf("%w: %w", ErrUnanswered, errors.Join(errs...))
			}
		case <-hedge.C:
			if asked < len(servers) {
				askNext()
			}
		case <-ctx.Done():
			return nil, netip.AddrPort{}, fmt.Errorf("%w: %w", context.Cause(ctx), errors.Join(errs...))
		}
	}
}

// errSlower is why a server's answer is not waited for.
var errSlower = errors.New("another server answered first")

func (f *Forwarder) askOne(ctx context.Context, u *upstream, q Question) result {
	try, cancel := context.WithTimeoutCause(ctx, f.Timeout, context.DeadlineExceeded)
	defer cancel()
	resp, err := u.ask(try, q)
	switch {
	case err == nil && resp.Rcode == wire.RcodeServFail:
		// The server is alive; it is the name that fails. Resting it would
		// let one broken name turn away all others.
	case err == nil:
		u.succeeded()
	case errors.Is(context.Cause(ctx), context.Canceled):
		err = errSlower // which says nothing of this server
	default:
		u.failed(time.Now())
	}
	return result{u, resp, err}
}

// order returns the servers to ask: in their order, but those that failed lately
// after the others, and without those that would ask us.
func order(servers []*upstream, now time.Time) []*upstream {
	ordered := make([]*upstream, 0, len(servers))
	var resting []*upstream
	for _, u := range servers {
		switch {
		case u.looped.Load():
		case u.healthy(now):
			ordered = append(ordered, u)
		default:
			resting = append(resting, u)
		}
	}
	return append(ordered, resting...)
}

// Probe asks one server, whatever is known of it; see [Forwarder.Looped].
func (f *Forwarder) Probe(ctx context.Context, server netip.AddrPort, q Question) {
	for _, u := range f.upstreams {
		if u.addr == server {
			ctx, cancel := context.WithTimeout(ctx, f.Timeout)
			defer cancel()
			// What it answers does not matter, only whom it asks.
			_, _ = u.udp(ctx, q, true)
		}
	}
}

// Looped says whether queries to the server come back to us; if so it is not
// asked.
func (f *Forwarder) Looped(server netip.AddrPort, looped bool) {
	for _, u := range f.upstreams {
		if u.addr == server {
			u.looped.Store(looped)
		}
	}
}

// UpstreamStats are counts of one server's life.
type UpstreamStats struct {
	Server             netip.AddrPort
	Requests, Failures uint64
	Healthy, Looped    bool
}

// Stats returns the counts of every server.
func (f *Forwarder) Stats() []UpstreamStats {
	stats := make([]UpstreamStats, 0, len(f.upstreams))
	for _, u := range f.upstreams {
		stats = append(stats, UpstreamStats{
			Server: u.addr, Requests: u.requests.Load(), Failures: u.failures.Load(),
			Healthy: u.healthy(time.Now()), Looped: u.looped.Load(),
		})
	}
	slices.SortFunc(stats, func(a, b UpstreamStats) int { return a.Server.Compare(b.Server) })
	return stats
}

// Close closes idle connections.
func (f *Forwarder) Close() {
	for _, u := range f.upstreams {
		u.close()
	}
}
