package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/wire"
)

type askFunc func(context.Context, forward.Question) (*wire.Response, error)

func (f askFunc) Ask(ctx context.Context, q forward.Question) (*wire.Response, netip.AddrPort, error) {
	r, err := f(ctx, q)
	return r, netip.AddrPort{}, err
}

// Dead says that there is always a server worth waiting for.
func (f askFunc) Dead([]byte) bool { return false }

// Zone says that there is one for each last label.
func (f askFunc) Zone(name []byte) int { return int(name[len(name)-2]) }

// lookup does what a query does: the cache, then the servers.
func lookup(s *Server, name string) *cache.Item {
	w := &worker{counters: &counters{}}
	w.query.Parse(query(name, wire.TypeA, true, false), false)
	it, m := s.cached(w, w.query.Name, 0, time.Now())
	if it != nil {
		return it
	}
	done := make(chan *cache.Item, 1)
	s.resolver.resolve(context.Background(), &w.query, m, func(it *cache.Item) { done <- it })
	return <-done
}

func newResolving(limit int, ask askFunc) *Server {
	s := &Server{cache: cache.New(cache.Options{}), metrics: &metrics{}}
	s.resolver = newResolver(s.cache, ask, limit, &s.metrics.resolver)
	return s
}

// ttl returns the TTL that a client sees.
func ttl(t *testing.T, it *cache.Item) uint32 {
	t.Helper()
	var rr wire.RR
	var q wire.Query
	q.Parse(query("web.example.com", wire.TypeA, false, false), false)
	msg := it.Write(make([]byte, 0, wire.MinUDP), &q, time.Now(), 0)
	if !rr.Parse(msg, wire.HeaderLen+len(q.Question)) {
		t.Fatalf("no record in %x", msg)
	}
	return rr.TTL
}

var errDown = errors.New("down")

// TestStale follows one name through the failure of its servers.
func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		answer := func(context.Context) (*wire.Response, error) { return response(t, "web.example.com", 60), nil }
		s := newResolving(10, func(ctx context.Context, _ forward.Question) (*wire.Response, error) {
			asked.Add(1)
			return answer(ctx)
		})
		expect := func(what string, wantTTL uint32, wantAsked int32, wantWait time.Duration) {
			t.Helper()
			start := time.Now()
			it := lookup(s, "web.example.com")
			waited := time.Since(start)
			if got := ttl(t, it); got != wantTTL || asked.Load() != wantAsked || waited != wantWait {
				t.Errorf("%s: TTL %d after %d questions and %v, want %d after %d and %v", what, got, asked.Load(), waited, wantTTL, wantAsked, wantWait)
			}
			synctest.Wait()
		}
		expect("cold", 60, 1, 0)
		time.Sleep(20 * time.Second)
		expect("cached", 40, 1, 0)
		time.Sleep(41 * time.Second)
		expect("expired, refreshed", 60, 2, 0)

		time.Sleep(61 * time.Second)
		answer = func(context.Context) (*wire.Response, error) { return nil, errDown }
		expect("expired, servers down", cache.StaleTTL, 3, 0)
		expect("not asked again at once", cache.StaleTTL, 3, 0)
		time.Sleep(staleRest)
		answer = func(context.Context) (*wire.Response, error) {
			time.Sleep(3 * time.Second)
			return response(t, "web.example.com", 60), nil
		}
		expect("servers slow: stale in time", cache.StaleTTL, 4, staleWait)
		expect("refresh under way", cache.StaleTTL, 4, 0)
		time.Sleep(2 * time.Second)
		expect("refreshed", 60, 4, 0)

		time.Sleep(25 * time.Hour)
		answer = func(context.Context) (*wire.Response, error) { return nil, errDown }
		it := lookup(s, "web.example.com")
		if it.Rcode != wire.RcodeServFail {
			t.Errorf("after a day: code %d, want SERVFAIL", it.Rcode)
		}
		n := asked.Load()
		lookup(s, "web.example.com")
		if asked.Load() != n {
			t.Error("a failure was not kept at all")
		}
		time.Sleep(s.cache.Failure)
		lookup(s, "web.example.com")
		if asked.Load() != n+1 {
			t.Error("a failure was kept too long")
		}
	})
}

// TestNewestFirst fills the queue while the servers are busy: the newest question
// goes first, and the oldest is given up when there are too many.
func TestNewestFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var order []string
		s := newResolving(1, func(_ context.Context, q forward.Question) (*wire.Response, error) {
			if <-release; len(order) < 2 {
				order = append(order, wire.NameString(q.Name))
			}
			return wire.Failure(q.Name, q.Type, wire.RcodeServFail), nil
		})
		done := make(chan string, maxQueued+2)
		for i := range maxQueued + 2 {
			name := fmt.Sprintf("n%d.example.com", i)
			go func() {
				lookup(s, name)
				done <- name
			}()
			synctest.Wait()
		}
		if first := <-done; first != "n1.example.com" || s.metrics.resolver.shed.Load() != 1 {
			t.Errorf("given up: %s, %d in all", first, s.metrics.resolver.shed.Load())
		}
		close(release)
		for range maxQueued + 1 {
			<-done
		}
		s.resolver.drain(t.Context())
		if want := fmt.Sprintf("n%d.example.com.", maxQueued+1); len(order) < 2 || order[1] != want {
			t.Errorf("order %v, want %s second", order, want)
		}
	})
}

// TestStaleAfterPrefetch proves that who joins a question that was asked before the
// answer expired gets what has expired in time, too, and when the question fails.
func TestStaleAfterPrefetch(t *testing.T) {
	for name, c := range map[string]struct{ fails, wait time.Duration }{
		"slow":  {10 * time.Second, staleWait},
		"fails": {4 * time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int32
				s := newResolving(10, func(context.Context, forward.Question) (*wire.Response, error) {
					if asked.Add(1) == 1 {
						return response(t, "web.example.com", 60), nil
					}
					time.Sleep(c.fails)
					return nil, errDown
				})
				lookup(s, "web.example.com")
				time.Sleep(58 * time.Second)
				w := &worker{counters: &counters{}}
				w.query.Parse(query("web.example.com", wire.TypeA, true, false), false)
				s.resolver.refresh(&w.query, w.query.Name)
				time.Sleep(3 * time.Second)
				start := time.Now()
				it := lookup(s, "web.example.com")
				if waited := time.Since(start); ttl(t, it) != cache.StaleTTL || waited != c.wait || asked.Load() != 2 {
					t.Errorf("TTL %d after %v and %d questions", ttl(t, it), waited, asked.Load())
				}
				s.resolver.drain(t.Context())
			})
		})
	}
}

// TestZonesApart proves that a zone whose servers are silent holds up no other one.
func TestZonesApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newResolving(2, func(_ context.Context, q forward.Question) (*wire.Response, error) {
			if wire.NameString(q.Name) != "web.example.com." {
				time.Sleep(time.Second)
				return nil, errDown
			}
			return response(t, "web.example.com", 60), nil
		})
		for i := range maxWaiters + 1000 {
			go lookup(s, fmt.Sprintf("n%d.example.dead", i))
		}
		synctest.Wait()
		start := time.Now()
		if it := lookup(s, "web.example.com"); it.Rcode != wire.RcodeSuccess || time.Since(start) != 0 {
			t.Errorf("code %d after %v", it.Rcode, time.Since(start))
		}
		s.resolver.drain(t.Context())
	})
}
