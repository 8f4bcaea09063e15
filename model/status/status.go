// Package status gathers what the parts of sluice have to say about a user's
// objects: conditions in the form of the Kubernetes API. It is shown by
// `sluice get` and, on a cluster, written back to the objects.
package status

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/model"
)

// Report is what one part says of one object.
type Report struct {
	// Conditions of the object as a whole. LastTransitionTime is filled in
	// by the board.
	Conditions []metav1.Condition
	// Value is the whole status as the API has it, such as
	// gatewayv1.GatewayStatus, for kinds whose status is more than
	// conditions; nil for the others. It must not be written to afterwards.
	Value any
	// Where tells where a standalone object was read: "web.yaml:12".
	Where string
}

// Board holds the newest report of each part on each object. It is safe for
// concurrent use.
type Board struct {
	mu       sync.Mutex // guards all below
	reports  map[model.Key]map[string]Report
	watchers map[*Watcher]struct{}
	now      func() metav1.Time
}

// NewBoard returns an empty board.
func NewBoard() *Board {
	return &Board{
		reports:  map[model.Key]map[string]Report{},
		watchers: map[*Watcher]struct{}{},
		now:      metav1.Now,
	}
}

// Set replaces what part says of the object. A report that says the same as
// the one before changes nothing and wakes nobody.
func (b *Board) Set(part string, key model.Key, r Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old, had := b.reports[key][part]
	r.Conditions = slices.Clone(r.Conditions)
	b.keepTransitionTimes(old.Conditions, r.Conditions)
	if had && reflect.DeepEqual(old, r) {
		return
	}
	if b.reports[key] == nil {
		b.reports[key] = map[string]Report{}
	}
	b.reports[key][part] = r
	b.wake(key)
}

// Clear removes what part says of the object.
func (b *Board) Clear(part string, key model.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, had := b.reports[key][part]; !had {
		return
	}
	delete(b.reports[key], part)
	if len(b.reports[key]) == 0 {
		delete(b.reports, key)
	}
	b.wake(key)
}

// Get returns what each part says of the object.
func (b *Board) Get(key model.Key) map[string]Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.reports[key])
}

// All returns every report, by object and part.
func (b *Board) All() map[model.Key]map[string]Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[model.Key]map[string]Report, len(b.reports))
	for k, r := range b.reports {
		all[k] = maps.Clone(r)
	}
	return all
}

// keepTransitionTimes gives each condition the time of its last change of
// status, as the API wants it.
func (b *Board) keepTransitionTimes(old, next []metav1.Condition) {
	for i := range next {
		next[i].LastTransitionTime = b.now()
		for _, o := range old {
			if o.Type == next[i].Type && o.Status == next[i].Status {
				next[i].LastTransitionTime = o.LastTransitionTime
			}
		}
	}
}

func (b *Board) wake(key model.Key) {
	for w := range b.watchers {
		w.pending[key] = struct{}{}
		select {
		case w.woken <- struct{}{}:
		default:
		}
	}
}

// Watcher learns which objects have new reports.
type Watcher struct {
	board   *Board
	pending map[model.Key]struct{} // guarded by board.mu
	woken   chan struct{}
}

// Watch returns a watcher whose first Next names every object with a report.
func (b *Board) Watch() *Watcher {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := &Watcher{board: b, pending: map[model.Key]struct{}{}, woken: make(chan struct{}, 1)}
	for k := range b.reports {
		w.pending[k] = struct{}{}
	}
	if len(w.pending) > 0 {
		w.woken <- struct{}{}
	}
	b.watchers[w] = struct{}{}
	return w
}

// Next waits for reports that changed and returns their objects. The error is
// the context's.
func (w *Watcher) Next(ctx context.Context) ([]model.Key, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-w.woken:
	}
	w.board.mu.Lock()
	defer w.board.mu.Unlock()
	keys := slices.Collect(maps.Keys(w.pending))
	clear(w.pending)
	return keys, nil
}

// Stop ends the watch.
func (w *Watcher) Stop() {
	w.board.mu.Lock()
	defer w.board.mu.Unlock()
	delete(w.board.watchers, w)
}
