package delta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// pipe is a stream in memory. Like a real one with a full window, it makes the
// server wait when nobody reads.
type pipe struct {
	ctx      context.Context
	requests chan *discovery.DeltaDiscoveryRequest
	out      chan *discovery.DeltaDiscoveryResponse
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) Send(r *discovery.DeltaDiscoveryResponse) error {
	select {
	case p.out <- r:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

func (p *pipe) Recv() (*discovery.DeltaDiscoveryRequest, error) {
	select {
	case r, ok := <-p.requests:
		if !ok {
			return nil, io.EOF
		}
		return r, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

// gate holds a fake proxy up while it is closed.
type gate chan struct{}

func open() gate { g := make(gate, 1); g <- struct{}{}; return g }

func (g gate) close() { <-g }
func (g gate) open()  { g <- struct{}{} }

// dial connects a fake proxy to a server. It reads and answers until the
// context ends, while the gate is open.
func dial(ctx context.Context, t *testing.T, s *Server, hold gate) (*fakeProxy, <-chan error) {
	p := newFakeProxy(t)
	p.connect()
	st := &pipe{ctx, make(chan *discovery.DeltaDiscoveryRequest), make(chan *discovery.DeltaDiscoveryResponse)}
	done := make(chan error, 1)
	go func() { done <- s.Serve(st) }()
	go func() {
		for {
			var out chan *discovery.DeltaDiscoveryRequest
			var next *discovery.DeltaDiscoveryRequest
			if len(p.out) > 0 {
				out, next = st.requests, p.out[0]
			}
			hold.close()
			hold.open()
			select {
			case out <- next:
				p.out = p.out[1:]
			case r := <-st.out:
				p.mu.Lock()
				p.take(r)
				p.mu.Unlock()
			case <-ctx.Done():
				return
			}
		}
	}()
	return p, done
}

func everybody(names ...string) Options {
	return Options{Authorize: func(context.Context, *core.Node) ([]string, error) { return names, nil }}
}

// A client that hangs delays nobody, and what waits for it does not grow.
func TestHungClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := NewServer(everybody("g"))
		s.Apply(join(cl("a", "1"), sc("h", "1", "a"), Set("g", res(listener("l"), "1"))))
		free, hung := open(), open()
		_, done := dial(ctx, t, s, free)
		slow, slowDone := dial(ctx, t, s, hung)
		if err := s.Wait(ctx, "g", 2); err != nil {
			t.Fatal(err)
		}
		hung.close()
		for i := range 500 {
			s.Apply(join(cl("a", fmt.Sprint(i+2)), sc("h", fmt.Sprint(i+2), "a")))
			synctest.Wait()
			if p := s.Progress("g"); p.Clients != 2 || p.Current != 1 {
				t.Fatalf("change %d: %+v", i, p)
			}
		}
		for c := range s.all {
			if n := len(c.inbox.dirty); n > 3 {
				t.Errorf("%d changes wait for a client", n)
			}
			if n := len(c.flights); n > 16 {
				t.Errorf("%d responses wait for their answer", n)
			}
		}
		got := slow.got
		hung.open()
		if err := s.Wait(ctx, "g", 2); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := slow.got - got; n > 15 {
			t.Errorf("the slow one got %d resources after it woke", n)
		}
		if v := slow.have[scope("h")].Version; v != "501" {
			t.Errorf("the slow one has version %s", v)
		}
		cancel()
		if err := errors.Join(<-done, <-slowDone); err != nil {
			t.Error(err)
		}
		if p := s.Progress("g"); p.Clients != 0 || len(s.Clients()) != 0 {
			t.Errorf("after the end: %+v", p)
		}
	})
}

// Time limits fire by themselves.
func TestTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := NewServer(everybody("g"))
		s.Apply(join(cl("a", "1"), sc("h", "1", "a"), Set("g", res(listener("l"), "1"))))
		free := open()
		p, done := dial(ctx, t, s, free)
		if err := s.Wait(ctx, "g", 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		p.mu.Lock()
		p.warming["elsewhere"] = true
		p.mu.Unlock()
		began := time.Now()
		s.Apply(join(cl("b", "1"), sc("h", "2", "b")))
		version := func() string {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.have[scope("h")].Version
		}
		for version() != "2" {
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			if time.Since(began) > time.Minute {
				t.Fatal("h was never sent")
			}
		}
		if d := time.Since(began); d < s.opts.WarmLimit {
			t.Errorf("h was sent after %v", d)
		}
		cancel()
		<-done
	})
}

func TestRefusedStream(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{errors.New("who is that?"), codes.PermissionDenied},
		{status.Error(codes.Unauthenticated, "no certificate"), codes.Unauthenticated},
	} {
		s := NewServer(Options{Authorize: func(context.Context, *core.Node) ([]string, error) { return nil, c.err }})
		st := &pipe{t.Context(), make(chan *discovery.DeltaDiscoveryRequest, 1), nil}
		st.requests <- &discovery.DeltaDiscoveryRequest{TypeUrl: ClusterType}
		if err := s.Serve(st); status.Code(err) != c.want {
			t.Errorf("%v: got %v", c.err, err)
		}
	}
	s := NewServer(Options{})
	st := &pipe{t.Context(), make(chan *discovery.DeltaDiscoveryRequest, 1), nil}
	st.requests <- &discovery.DeltaDiscoveryRequest{TypeUrl: ClusterType}
	if err := s.Serve(st); status.Code(err) != codes.PermissionDenied {
		t.Errorf("without a decision: %v", err)
	}
}

// Everything at once, for the race detector; at rest all agree.
func TestConcurrency(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := NewServer(everybody("g", "h"))
	free := open()
	var ends []<-chan error
	for range 4 {
		_, done := dial(ctx, t, s, free)
		ends = append(ends, done)
	}
	w := s.Watch(func(string) bool { return true })
	defer w.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 300 {
			s.Apply(join(cl(fmt.Sprintf("c%d", i%7), fmt.Sprint(i)), sc("x", fmt.Sprint(i), fmt.Sprintf("c%d", i%7))))
		}
	})
	wg.Go(func() {
		for i := range 300 {
			s.Apply([]Change{Set("h", res(scope(fmt.Sprintf("y%d", i%5)), fmt.Sprint(i))), Set("h", res(listener("l"), fmt.Sprint(i/50)))})
		}
	})
	wg.Go(func() {
		for range 100 {
			s.Clients()
			s.Progress("g")
		}
	})
	wg.Go(func() {
		for range 3 {
			short, stop := context.WithCancel(ctx)
			_, done := dial(short, t, s, free)
			time.Sleep(time.Millisecond)
			stop()
			<-done
		}
	})
	wg.Wait()
	limit, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	for _, g := range []string{"g", "h"} {
		if err := s.Wait(limit, g, 4); err != nil {
			t.Fatalf("%s: %v: %+v", g, err, s.Progress(g))
		}
	}
	if names, err := w.Next(limit); err != nil || len(names) == 0 {
		t.Errorf("no news: %v", err)
	}
	cancel()
	for _, done := range ends {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
