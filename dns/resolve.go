package dns

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/wire"
)

const (
	// staleWait is how long a client waits for a newer answer than one that
	// has expired (RFC 8767 §5, client response timer).
	staleWait = 1800 * time.Millisecond
	// staleRest is how long an expired answer is good enough after that.
	staleRest = 30 * time.Second

	// Of each zone.
	maxQueued  = 4096  // flights that wait for their turn
	maxWaiters = 16384 // queries that wait for a flight
)

// resolver asks other servers for what the cache lacks: once for equal questions
// at the same time, and not too many at once of a zone, so that one whose servers
// are dead holds up no other. When there are more, the newest go first, because their
// clients are still waiting.
type resolver struct {
	cache   *cache.Cache
	servers asker
	limit   int // of flights at a time, of each zone
	counts  *resolverCounts
	lives   []life // the longest name first

	mu      sync.Mutex // guards all below
	flights map[string]*flight
	lanes   map[int]*lane // by the number of the zone
	running int           // in all lanes
	idle    chan struct{} // closed when nothing is under way; nil if nobody waits
}

// lane is what is under way to the servers of one zone.
type lane struct {
	queue   []*flight // oldest first
	running int
	waiters int
}

// asker asks other servers; it is a [forward.Forwarder].
type asker interface {
	Ask(context.Context, forward.Question) (*wire.Response, netip.AddrPort, error)
	// Dead reports whether no server that knows the name answered lately.
	Dead(name []byte) bool
	// Zone returns the number of the zone whose servers know the name.
	Zone(name []byte) int
}

// flight is one question to other servers, and who waits for its answer.
type flight struct {
	key      string
	lane     *lane
	question forward.Question
	stale    *cache.Item
	waiters  []waiter
}

// waiter is called once, with the answer or a failure.
type waiter func(*cache.Item)

func newResolver(c *cache.Cache, servers asker, limit int, counts *resolverCounts) *resolver {
	return &resolver{cache: c, servers: servers, limit: limit, counts: counts, flights: map[string]*flight{}, lanes: map[int]*lane{}}
}

// resolve finds out what m says is missing for the query and calls done, from
// another goroutine or, if there are too many queries, at once. It keeps nothing
// of q and m but the stale item.
func (r *resolver) resolve(ctx context.Context, q *wire.Query, m miss, done waiter) {
	var buf [cache.MaxKey]byte
	key := cache.AppendKey(buf[:0], m.name, q)
	r.mu.Lock()
	f := r.flights[string(key)]
	l := r.lane(m.name)
	if f != nil {
		l = f.lane // the servers may have come to know another zone since
	}
	if l.waiters >= maxWaiters {
		// Whoever has been waiting for his turn for longest makes room.
		if len(l.queue) == 0 {
			r.mu.Unlock()
			r.counts.shed.Add(1)
			done(&cache.Item{Response: wire.Failure(m.name, q.Type, wire.RcodeServFail)})
			return
		}
		oldest := l.queue[0]
		l.queue = l.queue[1:]
		defer r.shed(oldest)
	}
	l.waiters++
	if f != nil {
		f.waiters = append(f.waiters, done)
		late := f.stale == nil && m.stale != nil // it began before the answer expired
		if late {
			f.stale = m.stale
		}
		r.mu.Unlock()
		r.counts.coalesced.Add(1)
		if late {
			r.limitWait(f)
		}
		return
	}
	f = newFlight(key, m.name, q)
	f.lane, f.stale, f.waiters = l, m.stale, []waiter{done}
	r.flights[f.key] = f
	var shed *flight
	if l.running < r.limit {
		r.start(ctx, f)
	} else {
		l.queue = append(l.queue, f)
		if len(l.queue) > maxQueued {
			shed, l.queue = l.queue[0], l.queue[1:]
		}
	}
	r.mu.Unlock()
	if shed != nil {
		r.shed(shed)
	}
}

// lane returns that of a name. The mutex is held.
func (r *resolver) lane(name []byte) *lane {
	zone := r.servers.Zone(name)
	l := r.lanes[zone]
	if l == nil {
		l = &lane{}
		r.lanes[zone] = l
	}
	return l
}

// start lets a flight begin. The mutex is held.
func (r *resolver) start(ctx context.Context, f *flight) {
	f.lane.running++
	r.running++
	go r.run(ctx, f)
}

// shed gives up a flight that was taken out of the queue.
func (r *resolver) shed(f *flight) {
	r.counts.shed.Add(1)
	r.finish(f, &cache.Item{Response: wire.Failure(f.question.Name, f.question.Type, wire.RcodeServFail)})
}

// newFlight returns one for the answer to q of a name. It keeps the key and nothing
// else.
func newFlight(key, name []byte, q *wire.Query) *flight {
	f := &flight{key: string(key)}
	kept := []byte(f.key)
	f.question = forward.Question{Name: kept[:len(name):len(name)], Type: q.Type, DO: q.DO, CD: q.Flags&wire.FlagCD != 0}
	if q.Subnet != nil {
		f.question.Subnet = kept[len(name)+3:]
	}
	return f
}

// refresh asks for an answer that is still fresh and that nobody waits for. If
// there is no room for it, it is asked for when somebody does.
func (r *resolver) refresh(q *wire.Query, name []byte) {
	var buf [cache.MaxKey]byte
	key := cache.AppendKey(buf[:0], name, q)
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lane(name)
	if r.flights[string(key)] != nil || l.running >= r.limit {
		return
	}
	f := newFlight(key, name, q)
	f.lane = l
	r.flights[f.key] = f
	r.start(context.Background(), f) // the servers' own time limits it
}

// run flies f, and then what has been waiting for its turn.
func (r *resolver) run(ctx context.Context, f *flight) {
	for f != nil {
		l := f.lane
		r.fly(ctx, f)
		r.mu.Lock()
		f = nil
		if last := len(l.queue) - 1; last >= 0 {
			f, l.queue[last] = l.queue[last], nil
			l.queue = l.queue[:last]
		} else {
			l.running--
			if r.running--; r.running == 0 && r.idle != nil {
				close(r.idle)
				r.idle = nil
			}
		}
		r.mu.Unlock()
	}
}

// limitWait gives those that wait for a flight the answer that has expired, if there
// is one: at once where no server is alive, else when they have waited long enough.
// The function that it returns ends that.
func (r *resolver) limitWait(f *flight) (end func() bool) {
	if r.servers.Dead(f.question.Name) {
		r.giveStale(f)
		return func() bool { return false }
	}
	return time.AfterFunc(staleWait, func() { r.giveStale(f) }).Stop
}

// giveStale answers all that wait for f, if it is still under way, with what has
// expired.
func (r *resolver) giveStale(f *flight) {
	r.mu.Lock()
	stale := f.stale
	if r.flights[f.key] != f {
		stale = nil
	}
	r.mu.Unlock()
	if stale != nil {
		stale.RefreshFailed(time.Now().Add(staleRest))
		r.deliver(f, stale)
	}
}

func (r *resolver) fly(ctx context.Context, f *flight) {
	r.mu.Lock()
	stale := f.stale
	r.mu.Unlock()
	if stale != nil {
		defer r.limitWait(f)()
	}
	resp, from, err := r.servers.Ask(ctx, f.question)
	now := time.Now()
	if err != nil {
		r.counts.failed.Add(1)
	}
	failed := err != nil || resp.Rcode != wire.RcodeSuccess && resp.Rcode != wire.RcodeNXDomain
	if !failed {
		r.shorten(f.question.Name, resp)
		r.finish(f, r.cache.Put([]byte(f.key), resp, from, now))
		return
	}
	r.mu.Lock()
	stale = f.stale
	r.mu.Unlock()
	if stale != nil {
		stale.RefreshFailed(now.Add(staleRest))
		r.finish(f, stale)
		return
	}
	rcode := uint16(wire.RcodeServFail)
	if err == nil {
		rcode = resp.Rcode
	}
	failure := wire.Failure(f.question.Name, f.question.Type, rcode)
	r.finish(f, r.cache.PutFailure([]byte(f.key), failure, from, now))
}

// deliver answers all that wait for f now.
func (r *resolver) deliver(f *flight, it *cache.Item) {
	r.mu.Lock()
	waiters := f.waiters
	f.waiters = nil
	f.lane.waiters -= len(waiters)
	r.mu.Unlock()
	for _, done := range waiters {
		done(it)
	}
}

// finish ends f. The cache has its answer already, so that nobody asks again in
// between.
func (r *resolver) finish(f *flight, it *cache.Item) {
	r.mu.Lock()
	delete(r.flights, f.key)
	r.mu.Unlock()
	r.deliver(f, it)
}

// drain waits until nothing is under way.
func (r *resolver) drain(ctx context.Context) {
	r.mu.Lock()
	if r.running == 0 {
		r.mu.Unlock()
		return
	}
	if r.idle == nil {
		r.idle = make(chan struct{})
	}
	idle := r.idle
	r.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}
