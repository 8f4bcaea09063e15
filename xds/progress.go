package xds

import (
	"context"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
)

// Progress returns how far the proxies of a group are, and what they, or the
// check before sending, refused.
func (s *Server) Progress(name route.Group) route.Progress {
	d := s.delta.Progress(string(name))
	p := route.Progress{Group: name, Proxies: d.Clients, Current: d.Current}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[name]
	if g == nil {
		return p
	}
	reasons := map[route.Ref]string{}
	for _, pr := range d.Problems {
		for _, ref := range g.sources[pr.Ref] {
			// A refusal says more than that something was held back.
			if _, ok := reasons[ref]; !ok || !pr.Held {
				reasons[ref] = pr.Reason
			}
		}
	}
	for ref, err := range g.invalid {
		reasons[ref] = err.Error()
	}
	for ref, reason := range reasons {
		p.Rejected = append(p.Rejected, route.Rejection{Ref: ref, Origins: g.origins[ref], Reason: reason})
	}
	slices.SortFunc(p.Rejected, func(a, b route.Rejection) int {
		if a.Ref.Kind != b.Ref.Kind {
			return int(a.Ref.Kind) - int(b.Ref.Kind)
		}
		return strings.Compare(a.Ref.ID, b.Ref.ID)
	})
	return p
}

// Watcher tells one reader of progress. A slow reader finds the newest
// progress of each group, not all there was.
type Watcher struct {
	srv *Server
	w   *delta.Watcher
}

// Watch returns a watcher of the groups that match accepts, beginning with
// those that there are. It must be closed.
func (s *Server) Watch(match func(route.Group) bool) *Watcher {
	return &Watcher{srv: s, w: s.delta.Watch(func(name string) bool { return match(route.Group(name)) })}
}

// Next waits until the progress of groups may have changed since the last
// call, and returns it. It returns the error of ctx when that ends.
func (w *Watcher) Next(ctx context.Context) ([]route.Progress, error) {
	names, err := w.w.Next(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]route.Progress, len(names))
	for i, n := range names {
		out[i] = w.srv.Progress(route.Group(n))
	}
	return out, nil
}

// Close ends the watcher.
func (w *Watcher) Close() { w.w.Close() }

// WaitCurrent waits until the proxies of a group, and at least proxies of
// them, acknowledged all that was published for it. It returns an error that
// wraps [delta.ErrProblems] as soon as they will not, for what they refused or
// for what was held back, and the error of ctx when that ends.
func (s *Server) WaitCurrent(ctx context.Context, g route.Group, proxies int) error {
	return s.delta.Wait(ctx, string(g), proxies)
}
