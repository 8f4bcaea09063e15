package kube

import (
	"context"
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/source"
)

// item is an object converted.
type item struct {
	key   model.Key
	value source.Value // nil if nothing usable is in the object
	errs  []source.FieldError
}

// GetObjectMeta lets client-go find the object's name.
func (i *item) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: i.key.Namespace, Name: i.key.Name}
}

// feed is what a reflector writes to: it converts, and hands on to the queue.
type feed struct {
	kind   *source.Kind
	queue  *queue
	labels []string // that are kept of Services
}

// Transformer makes the reflector convert each object of a streamed list as it
// arrives, so that the list is never there as a whole.
func (f *feed) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return f.convert(obj) }
}

func (f *feed) convert(obj any) (*item, error) {
	if it, done := obj.(*item); done {
		return it, nil
	}
	api, ok := obj.(runtime.Object)
	if !ok {
		return nil, fmt.Errorf("%T is no API object", obj)
	}
	m, ok := obj.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("%T has no metadata", obj)
	}
	it := &item{key: model.Key{Kind: f.kind.ID, Namespace: m.GetNamespace(), Name: m.GetName()}}
	values, errs := f.kind.Convert(api, f.labels...)
	if len(values) > 0 {
		it.value = values[0]
	}
	it.errs = errs
	return it, nil
}

// Add implements cache.ReflectorStore.
func (f *feed) Add(obj any) error { return f.Update(obj) }

// Update implements cache.ReflectorStore.
func (f *feed) Update(obj any) error {
	it, err := f.convert(obj)
	if err != nil {
		return err
	}
	f.queue.add(op{kind: f.kind, items: []*item{it}})
	return nil
}

// Delete implements cache.ReflectorStore.
func (f *feed) Delete(obj any) error {
	m, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("%T has no metadata", obj)
	}
	key := model.Key{Kind: f.kind.ID, Namespace: m.GetNamespace(), Name: m.GetName()}
	f.queue.add(op{kind: f.kind, items: []*item{{key: key}}})
	return nil
}

// Replace implements cache.ReflectorStore.
func (f *feed) Replace(list []any, _ string) error {
	o := op{kind: f.kind, replace: true, synced: true, items: make([]*item, 0, len(list))}
	for _, obj := range list {
		it, err := f.convert(obj)
		if err != nil {
			return err
		}
		o.items = append(o.items, it)
	}
	f.queue.add(o)
	return nil
}

// Resync implements cache.ReflectorStore; there is nothing to do.
func (f *feed) Resync() error { return nil }

// op is one thing to do to the store.
type op struct {
	kind    *source.Kind
	items   []*item // to put, or to delete where there is no value
	replace bool    // the items are all that there are
	synced  bool    // the kind is complete now
}

// queue gathers what the reflectors bring while the store is being updated, so
// that what comes at once is one update.
type queue struct {
	store *model.Store
	board *status.Board

	mu   sync.Mutex // guards following
	ops  []op
	wake chan struct{} // holds one token while there are ops

	reported map[model.Key]bool // only touched by run
}

func newQueue(store *model.Store, board *status.Board) *queue {
	return &queue{store: store, board: board, wake: make(chan struct{}, 1), reported: map[model.Key]bool{}}
}

func (q *queue) add(o op) {
	q.mu.Lock()
	q.ops = append(q.ops, o)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run applies what is added until the context ends. synced is called with each
// kind that has become complete.
func (q *queue) run(ctx context.Context, synced func(model.KindID)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		}
		q.mu.Lock()
		ops := q.ops
		q.ops = nil
		q.mu.Unlock()
		q.store.Update(func(tx *model.Txn) {
			for _, o := range ops {
				apply(tx, o)
			}
		})
		for _, o := range ops {
			q.report(o)
			if o.synced {
				synced(o.kind.ID)
			}
		}
	}
}

// apply takes over what is different; an object that says the same as before,
// after a new list or a change of nothing that is kept, stays the same.
func apply(tx *model.Txn, o op) {
	listed := map[model.Key]struct{}{}
	for _, it := range o.items {
		if it.value == nil {
			tx.Delete(it.key)
			continue
		}
		if o.replace {
			listed[it.key] = struct{}{}
		}
		if old, ok := tx.Any(it.key).(source.Value); !ok || !o.kind.Equal(old, it.value) {
			tx.Put(o.kind.ID, it.value)
		}
	}
	if o.replace {
		var gone []model.Key
		for key := range tx.Keys(o.kind.ID) {
			if _, there := listed[key]; !there {
				gone = append(gone, key)
			}
		}
		for _, key := range gone {
			tx.Delete(key)
		}
	}
	if o.synced {
		tx.MarkSynced(o.kind.ID)
	}
}

// report puts on the board what was left out of objects.
func (q *queue) report(o op) {
	if q.board == nil {
		return
	}
	listed := map[model.Key]bool{}
	for _, it := range o.items {
		listed[it.key] = true
		var problems []source.Problem
		for _, e := range it.errs {
			problems = append(problems, source.Problem{
				Object: it.key.String(), Key: it.key, HasKey: true, Reason: source.ReasonInvalid, Err: e, Warning: e.Warning,
			})
		}
		switch {
		case len(problems) > 0:
			q.reported[it.key] = true
			q.board.Set(Part, it.key, status.Report{Conditions: source.Conditions(problems)})
		case q.reported[it.key]:
			delete(q.reported, it.key)
			q.board.Clear(Part, it.key)
		}
	}
	if !o.replace {
		return
	}
	for key := range q.reported {
		if key.Kind == o.kind.ID && !listed[key] {
			delete(q.reported, key)
			q.board.Clear(Part, key)
		}
	}
}
