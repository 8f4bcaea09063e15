package delta

import (
	"context"
	"errors"
	"sort"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// Problem is a resource whose newest version a client does not have and will
// not get unless something changes.
type Problem struct {
	Ref    Ref
	Reason string
	// Held says that the client did not refuse it, but that it was held back
	// for want of what it needs.
	Held bool
}

// Progress tells how far the clients of a group are.
type Progress struct {
	Clients int
	// Current counts the clients that acknowledged all that was applied.
	Current int
	// Settled counts those for which nothing is to be waited for: they are
	// current or have problems.
	Settled  int
	Problems []Problem // of all clients, each resource once, by type and name
}

// progress is how a group's progress is announced. Guarded by news.mu.
type progress struct{ changed chan struct{} }

// news hands out the names of groups whose progress may have changed.
type news struct {
	mu       sync.Mutex
	watchers map[*Watcher]struct{}
}

// Watcher tells one reader whose progress may have changed. However slow the
// reader is, a group waits for it once only.
type Watcher struct {
	srv    *Server
	match  func(group string) bool
	groups map[string]struct{} // guarded by news.mu
	bell   chan struct{}
}

// Watch returns a watcher of the groups that match accepts, beginning with
// those that there are. It must be closed.
func (s *Server) Watch(match func(group string) bool) *Watcher {
	w := &Watcher{srv: s, match: match, groups: map[string]struct{}{}, bell: make(chan struct{}, 1)}
	s.mu.RLock()
	defer s.mu.RUnlock()
	s.news.mu.Lock()
	defer s.news.mu.Unlock()
	s.news.watchers[w] = struct{}{}
	for name := range s.groups {
		w.tell(name)
	}
	return w
}

func (w *Watcher) tell(name string) {
	if !w.match(name) {
		return
	}
	w.groups[name] = struct{}{}
	select {
	case w.bell <- struct{}{}:
	default:
	}
}

// Next waits until the progress of groups may have changed since the last
// call and returns their names. It returns the error of ctx when that ends.
func (w *Watcher) Next(ctx context.Context) ([]string, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.bell:
		}
		w.srv.news.mu.Lock()
		names := sorted(w.groups)
		clear(w.groups)
		w.srv.news.mu.Unlock()
		if len(names) > 0 {
			return names, nil
		}
	}
}

// Close ends the watcher.
func (w *Watcher) Close() {
	w.srv.news.mu.Lock()
	defer w.srv.news.mu.Unlock()
	delete(w.srv.news.watchers, w)
}

// moved announces that the progress of a group may have changed.
func (s *Server) moved(g *group) {
	s.news.mu.Lock()
	defer s.news.mu.Unlock()
	close(g.progress.changed)
	g.progress.changed = make(chan struct{})
	for w := range s.news.watchers {
		w.tell(g.name)
	}
}

// Progress returns how far the clients of a group are.
func (s *Server) Progress(name string) Progress {
	s.mu.RLock()
	defer s.mu.RUnlock()
	g := s.groups[name]
	if g == nil {
		return Progress{}
	}
	return g.progressLocked()
}

func (g *group) progressLocked() Progress {
	p := Progress{Clients: len(g.clients)}
	problems := map[Ref]Problem{}
	for c := range g.clients {
		c.mu.Lock()
		m := c.member(g)
		if c.caughtUp(m) {
			p.Settled++
			if len(m.problems) == 0 {
				p.Current++
			}
		}
		for it := range m.problems {
			pr := Problem{Ref: it.ref(), Reason: it.work.reason}
			if it.work.held != "" {
				pr.Reason, pr.Held = it.work.held, true
			}
			// A refusal says more than that it was held back.
			if old, ok := problems[pr.Ref]; !ok || old.Held {
				problems[pr.Ref] = pr
			}
		}
		c.mu.Unlock()
	}
	for _, pr := range problems {
		p.Problems = append(p.Problems, pr)
	}
	sort.Slice(p.Problems, func(i, j int) bool {
		a, b := p.Problems[i].Ref, p.Problems[j].Ref
		return a.TypeURL < b.TypeURL || a.TypeURL == b.TypeURL && a.Name < b.Name
	})
	return p
}

func (c *client) member(g *group) *membership {
	for _, m := range c.groups {
		if m.group == g {
			return m
		}
	}
	return &membership{group: g}
}

// caughtUp reports whether nothing of a group is on its way to the client. A
// starting proxy asks for clusters and then for listeners: until it has, it
// lacks them.
func (c *client) caughtUp(m *membership) bool {
	if m.unsettled > 0 || m.seen != m.group.seq {
		return false
	}
	for _, url := range [...]string{ClusterType, ListenerType} {
		if len(m.group.types[url]) == 0 {
			continue
		}
		if t := c.byURL[url]; t == nil || !t.seen {
			return false
		}
	}
	for _, t := range c.types {
		if t.opening {
			return false
		}
	}
	return len(c.byURL) > 0
}

// ErrProblems is what [Server.Wait] returns when clients refused something.
var ErrProblems = errors.New("refused or held back")

// Wait waits until all clients of a group, and at least n, acknowledged all
// that was applied to it. It returns an error that wraps [ErrProblems] when
// they will not, with the first reason, and that of ctx when it ends.
func (s *Server) Wait(ctx context.Context, name string, n int) error {
	for {
		s.mu.Lock()
		g := s.groupLocked(name)
		s.news.mu.Lock()
		changed := g.progress.changed
		s.news.mu.Unlock()
		p := g.progressLocked()
		s.mu.Unlock()
		if p.Clients >= n && p.Current == p.Clients {
			return nil
		}
		if p.Clients >= n && p.Settled == p.Clients && len(p.Problems) > 0 {
			return &waitError{p.Problems[0]}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

type waitError struct{ Problem }

func (e *waitError) Error() string { return short(e.Ref) + ": " + e.Reason }
func (e *waitError) Unwrap() error { return ErrProblems }

// ClientStatus is what is known of a connected client.
type ClientStatus struct {
	Node   *core.Node
	Groups []string
	Since  time.Time
	Types  []TypeStatus // in the order of sending
}

// TypeStatus counts a client's resources of a type.
type TypeStatus struct {
	TypeURL      string
	Sent         int // acknowledged ones and those on their way
	Acknowledged int // of the newest version
	Rejected     int // at their last good version, or missing
	Held         int // held back
	Rejections   int // responses refused since the client connected
	LastError    string
}

// Clients returns the connected clients, by node.
func (s *Server) Clients() []ClientStatus {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]ClientStatus, 0, len(s.all))
	for c := range s.all {
		out = append(out, c.status())
	}
	sort.Slice(out, func(i, j int) bool {
		a, b := out[i], out[j]
		if a.Node.GetId() != b.Node.GetId() {
			return a.Node.GetId() < b.Node.GetId()
		}
		return a.Since.Before(b.Since)
	})
	return out
}

func (c *client) status() ClientStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := ClientStatus{Node: c.node, Since: c.since}
	for _, m := range c.groups {
		st.Groups = append(st.Groups, m.group.name)
	}
	for _, t := range c.types {
		if !t.seen {
			continue
		}
		ts := TypeStatus{TypeURL: t.url, Rejections: t.nacks, LastError: t.lastError}
		for _, it := range t.items {
			w := it.work
			if it.acked != nil || w != nil && w.flights > 0 {
				ts.Sent++
			}
			switch {
			case w != nil && w.state == stuck && w.held != "":
				ts.Held++
			case w != nil && w.state == stuck:
				ts.Rejected++
			case it.acked != nil && (w == nil || w.state == settled):
				ts.Acknowledged++
			}
		}
		st.Types = append(st.Types, ts)
	}
	return st
}
