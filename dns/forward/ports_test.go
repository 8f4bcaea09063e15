package forward

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// counted counts the sockets that a forwarder opens, and has open.
type counted struct{ opened, open atomic.Int32 }

type countedConn struct {
	net.Conn
	close func()
}

func (c countedConn) Close() error {
	c.close()
	return c.Conn.Close()
}

func (c *counted) in(f *Forwarder) {
	inner := f.dial
	f.dial = func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
		conn, err := inner(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c.opened.Add(1)
		c.open.Add(1)
		return countedConn{conn, sync.OnceFunc(func() { c.open.Add(-1) })}, nil
	}
}

// TestPorts proves that a port is given up after a few questions and after a short
// time, is used for one question at a time, and not again when an answer may still
// come to it.
func TestPorts(t *testing.T) {
	ask := func(t *testing.T, f *Forwarder, name string) error {
		q := question(t, name)
		q.Type = dns.TypeTXT
		_, _, err := f.Ask(t.Context(), q)
		return err
	}
	run := func(what string, s *server, act func(*testing.T, *Forwarder, *counted)) {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork()
				f := n.forwarder(t, Options{Zones: over(UDP, n.add(1, s)), Attempts: 1})
				defer f.Close()
				var c counted
				c.in(f)
				act(t, f, &c)
			})
		})
	}
	run("questions", &server{answer: named}, func(t *testing.T, f *Forwarder, c *counted) {
		for i := range 3*portQuestions + 1 {
			if err := ask(t, f, fmt.Sprintf("n%d.example.com", i)); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.opened.Load(); got != 4 {
			t.Errorf("%d ports for %d questions", got, 3*portQuestions+1)
		}
	})
	run("time", &server{answer: named}, func(t *testing.T, f *Forwarder, c *counted) {
		for i := range 10 {
			if err := ask(t, f, fmt.Sprintf("n%d.example.com", i)); err != nil {
				t.Fatal(err)
			}
			if i == 0 && c.open.Load() != 1 {
				t.Error("the port is closed at once")
			}
			time.Sleep(portLife / 3)
		}
		if got := c.opened.Load(); got < 3 || got > 4 {
			t.Errorf("%d ports in 10/3 of a port's life", got)
		}
		time.Sleep(portLife)
		if got := c.open.Load(); got != 0 {
			t.Errorf("%d ports are open after a port's life of silence", got)
		}
	})
	slow := &server{answer: func(q *dns.Msg, conn int) *dns.Msg {
		time.Sleep(100 * time.Millisecond)
		return named(q, conn)
	}}
	run("at a time", slow, func(t *testing.T, f *Forwarder, c *counted) {
		var asking sync.WaitGroup
		for i := range 2 * maxIdlePorts {
			asking.Go(func() {
				if err := ask(t, f, fmt.Sprintf("n%d.example.com", i)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if got := c.open.Load(); got != 2*maxIdlePorts {
			t.Errorf("%d ports for %d questions under way", got, 2*maxIdlePorts)
		}
		asking.Wait()
		if got := c.open.Load(); got != maxIdlePorts {
			t.Errorf("%d idle ports are kept", got)
		}
	})
	run("silence", &server{answer: nothing}, func(t *testing.T, f *Forwarder, c *counted) {
		if ask(t, f, "www.example.com") == nil {
			t.Error("an answer")
		}
		if got := c.open.Load(); got != 0 {
			t.Errorf("%d ports without an answer are kept", got)
		}
	})
}
