package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicenet/sluice/dns/wire"
)

func text(t testing.TB, name string) Question {
	q := question(t, name)
	q.Type = wire.TypeTXT
	return q
}

func over(p Protocol, addrs ...netip.AddrPort) []Zone {
	servers := Plain(addrs...)
	for i := range servers {
		servers[i].Protocol = p
	}
	return Root(servers...)
}

// askAll asks for many names at once and proves that each gets its own answer.
func askAll(t *testing.T, f *Forwarder, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		name := fmt.Sprintf("n%d.example.com.", i)
		wg.Go(func() {
			r, _, err := f.Ask(t.Context(), text(t, name))
			if err != nil || !strings.Contains(string(r.Msg[wire.HeaderLen+len(name)+5:]), name) {
				t.Errorf("%s: %+v, %v", name, r, err)
			}
		})
	}
	wg.Wait()
}

// TestPipelined asks a hundred questions over a few connections, and gets the
// answers in another order.
func TestPipelined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		count := 0
		var mu sync.Mutex
		s := &server{answer: func(q *dns.Msg, conn int) *dns.Msg {
			mu.Lock()
			count++
			wait := time.Duration(200-count) * time.Millisecond / 4
			mu.Unlock()
			time.Sleep(wait)
			return named(q, conn)
		}}
		f := n.forwarder(t, Options{Zones: over(TCP, n.add(1, s))})
		defer f.Close()
		start := time.Now()
		askAll(t, f, 100)
		if took := time.Since(start); took > 50*time.Millisecond {
			t.Errorf("took %v: questions wait for each other", took)
		}
		if udp, tcp, conns, _ := s.counts(); udp != 0 || tcp != 100 || conns != 4 {
			t.Errorf("%d questions over UDP, %d over %d connections of TCP, want 100 over 4", udp, tcp, conns)
		}
		if got := f.Stats()[0]; got.Connections != 4 || got.Failures != 0 {
			t.Errorf("%+v", got)
		}
		time.Sleep(idleTimeout + time.Second)
		if got := f.Stats()[0].Connections; got != 0 {
			t.Errorf("%d connections are kept without use", got)
		}
		askAll(t, f, 1)
	})
}

// TestSerialServer has one that answers the questions of a connection in turn.
func TestSerialServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		s := &server{serial: true, answer: func(q *dns.Msg, conn int) *dns.Msg {
			time.Sleep(10 * time.Millisecond)
			return named(q, conn)
		}}
		f := n.forwarder(t, Options{Zones: over(TCP, n.add(1, s))})
		defer f.Close()
		start := time.Now()
		askAll(t, f, 4)
		if took := time.Since(start); took != 10*time.Millisecond {
			t.Errorf("four questions took %v, want 10 ms", took)
		}
	})
}

// TestTCPStalls has a server whose TCP accepts and says nothing: UDP answers after a
// moment, and at once the next time.
func TestTCPStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		stalls := true
		var mu sync.Mutex
		s := &server{answer: func(q *dns.Msg, conn int) *dns.Msg {
			mu.Lock()
			defer mu.Unlock()
			if conn > 0 && stalls {
				return nil
			}
			return named(q, conn)
		}}
		f := n.forwarder(t, Options{Zones: over(TCP, n.add(1, s))})
		defer f.Close()
		for i, want := range []time.Duration{hedgeUnknown, 0, 0} {
			start := time.Now()
			askAll(t, f, 1)
			if took := time.Since(start); took != want {
				t.Errorf("question %d took %v, want %v", i, took, want)
			}
		}
		if got := f.Stats()[0]; got.Failures != 0 || !got.Healthy {
			t.Errorf("%+v", got)
		}
		mu.Lock()
		stalls = false
		mu.Unlock()
		time.Sleep(stalledRest)
		_, before, _, _ := s.counts()
		askAll(t, f, 1)
		if _, after, _, _ := s.counts(); after != before+1 {
			t.Error("TCP is not tried again")
		}
	})
}

// TestSlowNameOverTCP proves that a name that takes its time does not turn others away
// from TCP.
func TestSlowNameOverTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		s := &server{answer: func(q *dns.Msg, conn int) *dns.Msg {
			if strings.HasPrefix(q.Question[0].Name, "n0.") {
				time.Sleep(2 * hedgeUnknown)
			}
			return named(q, conn)
		}}
		f := n.forwarder(t, Options{Zones: over(TCP, n.add(1, s)), Attempts: 1})
		defer f.Close()
		askAll(t, f, 1)
		if _, _, err := f.Ask(t.Context(), text(t, "quick.example.com.")); err != nil {
			t.Fatal(err)
		}
		if udp, tcp, _, _ := s.counts(); udp != 1 || tcp != 2 {
			t.Errorf("%d questions over UDP and %d over TCP, want 1 for the slow name, and 2", udp, tcp)
		}
		time.Sleep(2 * hedgeUnknown) // for the server to be done
	})
}

// TestTCPRefused has a server without TCP.
func TestTCPRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		s := &server{answer: named, refuse: func(network string) error {
			if network == "tcp" {
				return errRefused
			}
			return nil
		}}
		f := n.forwarder(t, Options{Zones: over(TCP, n.add(1, s))})
		defer f.Close()
		start := time.Now()
		askAll(t, f, 10)
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}

// TestStalledConnectionIsLeft proves that a connection that says nothing is not
// used for the next question.
func TestStalledConnectionIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		s := &server{answer: func(q *dns.Msg, conn int) *dns.Msg {
			if conn == 0 {
				return &dns.Msg{MsgHdr: dns.MsgHdr{Id: q.Id, Response: true, Truncated: true}, Question: q.Question}
			}
			if conn == 1 {
				return nil
			}
			return named(q, conn)
		}}
		f := n.forwarder(t, Options{Zones: over(UDP, n.add(1, s)), Attempts: 1})
		defer f.Close()
		for i, truncated := range []bool{true, false} {
			r, _, err := f.Ask(t.Context(), text(t, "big.example.com"))
			if err != nil || r.Truncated != truncated {
				t.Errorf("question %d: %+v, %v", i, r, err)
			}
		}
	})
}

// TestConnectionsAreBounded proves the bounds of connections and of questions.
func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		s := &server{answer: nothing}
		f := n.secure(t, n.add(1, s))
		f.MaxQueries, f.MaxConns = 50, 3
		defer f.Close()
		var wg sync.WaitGroup
		var mu sync.Mutex
		busy := 0
		for range 200 {
			wg.Go(func() {
				_, _, err := f.Ask(t.Context(), text(t, "a.example.com"))
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, ErrBusy) {
					busy++
				} else if !errors.Is(err, ErrUnanswered) {
					t.Errorf("%v", err)
				}
			})
		}
		synctest.Wait()
		if got := f.inFlight.Load(); got != 50 {
			t.Errorf("%d questions under way, want 50", got)
		}
		wg.Wait()
		if _, tcp, _, most := s.counts(); most > 3 || tcp > 100 {
			t.Errorf("%d connections at a time with %d questions, want 3 and at most 100", most, tcp)
		}
		if busy == 0 || f.Busy() == 0 {
			t.Errorf("nobody is told that there are too many: %d, %d", busy, f.Busy())
		}
		if got := f.Stats()[0].Failures; got > 50 {
			t.Errorf("%d failures: questions that were not asked count", got)
		}
	})
}

// secure are servers that are asked over TLS, which never falls back to UDP. What
// carries it does not matter, so it is plain TCP.
func (n *network) secure(t *testing.T, addr netip.AddrPort) *Forwarder {
	f := n.forwarder(t, Options{Zones: over(TLS, addr)})
	f.table.Load().upstreams[0].streams.tls = nil
	return f
}

// TestClosesAfterSomeAnswers has a server that closes each connection after a number
// of answers: every question is answered, the server is not to blame, and once that
// is known it is asked nothing in vain.
func TestClosesAfterSomeAnswers(t *testing.T) {
	for _, after := range []int{1, 3, 20} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				s := &server{after: after, answer: func(q *dns.Msg, conn int) *dns.Msg {
					time.Sleep(10 * time.Millisecond)
					return named(q, conn)
				}}
				f := n.secure(t, n.add(1, s))
				defer f.Close()
				for range 2 {
					askAll(t, f, 60)
				}
				_, before, _, _ := s.counts()
				askAll(t, f, 60)
				_, asked, _, most := s.counts()
				// The server sees the end of one later than we do.
				if got := f.Stats()[0]; asked-before != 60 || most > 2*4*limitedConns || got.Failures != 0 || !got.Healthy {
					t.Errorf("%d questions for 60, %d connections at a time, %+v", asked-before, most, got)
				}
				time.Sleep(limitLife)
				s.mu.Lock()
				s.after = 0
				was, conns := s.tcp, s.conns
				s.mu.Unlock()
				askAll(t, f, 60)
				if _, asked, all, _ := s.counts(); asked-was != 60 || all-conns != 4 {
					t.Errorf("it is not tried again: %d questions over %d connections", asked-was, all-conns)
				}
			})
		})
	}
}

// TestRestartIsNoLimit has a server that closes one connection after its first answer,
// as when it starts anew: it is asked as before.
func TestRestartIsNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		s := &server{after: 1, answer: func(q *dns.Msg, conn int) *dns.Msg {
			time.Sleep(100 * time.Millisecond)
			return named(q, conn)
		}}
		addr := n.add(1, s)
		f := n.secure(t, addr)
		defer f.Close()
		f.MaxConns = 1
		time.AfterFunc(150*time.Millisecond, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.after = 0
		})
		askAll(t, f, 2)
		start := time.Now()
		askAll(t, f, 60)
		if _, _, conns, _ := s.counts(); conns != 2 || time.Since(start) != 100*time.Millisecond {
			t.Errorf("%d connections, 60 questions take %v", conns, time.Since(start))
		}
	})
}

// TestWaitsForAConnection has a server that takes one question a connection, and more
// questions than it can answer in time: what comes too late is no failure of it.
func TestWaitsForAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		s := &server{after: 1, answer: func(q *dns.Msg, conn int) *dns.Msg {
			time.Sleep(500 * time.Millisecond)
			return named(q, conn)
		}}
		f := n.secure(t, n.add(1, s))
		defer f.Close()
		for range 3 {
			var wg sync.WaitGroup
			for i := range 400 {
				wg.Go(func() {
					_, _, err := f.Ask(t.Context(), text(t, fmt.Sprintf("n%d.example.com.", i)))
					if err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrUnanswered) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			f.table.Load().upstreams[0].streams.mu.Lock()
			if waiting := len(f.table.Load().upstreams[0].streams.waiting); waiting != 0 {
				t.Errorf("%d wait for nothing", waiting)
			}
			f.table.Load().upstreams[0].streams.mu.Unlock()
		}
		if got := f.Stats()[0]; got.Failures != 0 || !got.Healthy {
			t.Errorf("%+v", got)
		}
		time.Sleep(time.Second)
		askAll(t, f, 30)
	})
}

// TestClosesWithoutAnswer has a server that takes questions and closes.
func TestClosesWithoutAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		f := n.secure(t, n.add(1, &server{}))
		f.dial = func(context.Context, string, netip.AddrPort) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				_, _ = read(far, true)
				_ = far.Close()
			}()
			return near, nil
		}
		defer f.Close()
		if _, _, err := f.Ask(t.Context(), text(t, "a.example.com")); !errors.Is(err, ErrUnanswered) || !errors.Is(err, errClosed) {
			t.Errorf("%v", err)
		}
		if got := f.Stats()[0]; got.Failures != 1 {
			t.Errorf("%+v", got)
		}
	})
}

// TestHostileStream has servers that say what nobody asked for; it must not be an
// answer, and not the end of what is.
func TestHostileStream(t *testing.T) {
	for what, write := range map[string][]byte{
		"short":   {0, 3, 1, 2, 3},
		"empty":   {0, 0},
		"garbage": append([]byte{0, 20}, make([]byte, 20)...),
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				s := &server{answer: named}
				addr := n.add(1, s)
				f := n.forwarder(t, Options{Zones: over(TCP, addr)})
				f.dial = func(ctx context.Context, proto string, addr netip.AddrPort) (net.Conn, error) {
					near, far := net.Pipe()
					go func() {
						_, _ = far.Write(write)
						s.serve(far, true)
					}()
					return near, nil
				}
				defer f.Close()
				askAll(t, f, 3)
			})
		})
	}
}
