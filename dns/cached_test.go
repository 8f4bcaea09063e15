package dns

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/wire"
)

// upstream is an [asker] that a test switches off.
type upstream struct {
	ask  askFunc
	dead atomic.Bool
}

func (u *upstream) Ask(ctx context.Context, q forward.Question) (*wire.Response, netip.AddrPort, error) {
	return u.ask.Ask(ctx, q)
}

func (u *upstream) Zone([]byte) int { return 0 }

func (u *upstream) Dead([]byte) bool { return u.dead.Load() }

// TestPrefetch proves that a name that is used is asked for again before its
// answer expires, once and without a client waiting, and that others are not.
func TestPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		fail := false
		s := newResolving(10, func(_ context.Context, q forward.Question) (*wire.Response, error) {
			asked.Add(1)
			time.Sleep(500 * time.Millisecond)
			if fail {
				return nil, errDown
			}
			return response(t, wire.NameString(q.Name), 60), nil
		})
		use := func(name string, want time.Duration) uint32 {
			t.Helper()
			start := time.Now()
			it := lookup(s, name)
			if took := time.Since(start); took != want {
				t.Errorf("%s took %v, want %v", name, took, want)
			}
			return ttl(t, it)
		}
		use("hot.example.com", 500*time.Millisecond)
		use("old.example.com", 500*time.Millisecond)
		for range 4 {
			use("hot.example.com", 0)
		}
		time.Sleep(55 * time.Second)
		for range 10 {
			use("hot.example.com", 0)
		}
		use("old.example.com", 0)
		time.Sleep(time.Second)
		if got := asked.Load(); got != 3 {
			t.Errorf("asked %d times, want 3: two names, and the one that is used once more", got)
		}
		if got := use("hot.example.com", 0); got < 58 {
			t.Errorf("TTL %d: not refreshed", got)
		}

		// One that fails changes nothing for clients.
		for range 4 {
			use("hot.example.com", 0)
		}
		fail = true
		time.Sleep(55 * time.Second)
		use("hot.example.com", 0)
		time.Sleep(time.Second)
		if got := use("hot.example.com", 0); asked.Load() != 4 || got == 0 || got > 5 {
			t.Errorf("asked %d times, TTL %d", asked.Load(), got)
		}
		s.resolver.drain(t.Context())
	})
}

// TestStaleAtOnce proves that nobody waits for servers that are known to be dead,
// and that one refresh is under way all the same.
func TestStaleAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		slow := false
		u := &upstream{ask: func(_ context.Context, q forward.Question) (*wire.Response, error) {
			asked.Add(1)
			if slow {
				time.Sleep(time.Second)
				return nil, errDown
			}
			return response(t, "web.example.com", 60), nil
		}}
		s := newResolving(10, nil)
		s.resolver.servers = u
		lookup(s, "web.example.com")
		time.Sleep(2 * time.Hour)
		slow = true
		u.dead.Store(true)
		start := time.Now()
		for range 50 {
			if got := ttl(t, lookup(s, "web.example.com")); got != cache.StaleTTL {
				t.Errorf("TTL %d", got)
			}
		}
		if took := time.Since(start); took != 0 || asked.Load() != 2 {
			t.Errorf("took %v and %d questions, want none and one refresh", took, asked.Load()-1)
		}
		s.resolver.drain(t.Context())
	})
}

// TestNoStale turns stale answers off.
func TestNoStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail := false
		s := newResolving(10, func(context.Context, forward.Question) (*wire.Response, error) {
			if fail {
				return nil, errDown
			}
			return response(t, "web.example.com", 60), nil
		})
		s.cache = cache.New(cache.Options{Stale: -1})
		s.resolver.cache = s.cache
		lookup(s, "web.example.com")
		fail = true
		time.Sleep(time.Minute)
		if it := lookup(s, "web.example.com"); it.Rcode != wire.RcodeServFail {
			t.Errorf("code %d, want SERVFAIL", it.Rcode)
		}
	})
}

// TestMissAllocations keeps what a miss costs besides the servers' part in bounds.
func TestMissAllocations(t *testing.T) {
	r := response(t, "web.example.com", 0)
	s := newResolving(10, func(context.Context, forward.Question) (*wire.Response, error) { return r, nil })
	w := &worker{counters: &counters{}}
	msg := query("web.example.com", wire.TypeA, true, false)
	done := make(chan *cache.Item, 1)
	finish := func(it *cache.Item) { done <- it }
	now := time.Now()
	if allocs := testing.AllocsPerRun(200, func() {
		w.query.Parse(msg, false)
		it, m := s.cached(w, w.query.Name, 0, now)
		if it != nil {
			t.Fatal("a TTL of 0 is kept")
		}
		s.resolver.resolve(t.Context(), &w.query, m, finish)
		<-done
	}); allocs > 10 {
		t.Errorf("%v allocations", allocs)
	}
}
