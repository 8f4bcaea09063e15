package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"k8s.io/client-go/util/workqueue"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/source"
)

// ControllerName is what GatewayClasses name for sluice to serve them, and
// under which it writes to the status of routes.
const ControllerName = "sluice.io/gateway-controller"

// StatusOptions say what a [StatusWriter] reads and where it writes.
type StatusOptions struct {
	Config *rest.Config      // how to reach the API server; required unless Client is set
	Client dynamic.Interface // nil: one made of Config
	Board  *status.Board     // required
	// Controller owns the entries in the status of routes that are replaced.
	// Empty: ControllerName.
	Controller string
	// Rate is how many objects are written to a second at most, when many
	// change at once. 0: 20.
	Rate float64
	Log  *slog.Logger // nil: slog.Default()
}

// StatusWriter writes what the status board says to the objects' status, and
// touches nothing there that is another controller's. Of several replicas one
// is to run it.
type StatusWriter struct {
	opts   StatusOptions
	client dynamic.Interface
	log    *slog.Logger
	queue  workqueue.TypedRateLimitingInterface[model.Key]
	limit  *rate.Limiter
}

// NewStatusWriter returns a writer; Run starts it. The error is about the
// configuration.
func NewStatusWriter(o StatusOptions) (*StatusWriter, error) {
	if o.Board == nil || o.Config == nil && o.Client == nil {
		return nil, errors.New("kube: Config and Board are required")
	}
	if o.Controller == "" {
		o.Controller = ControllerName
	}
	if o.Rate == 0 {
		o.Rate = 20
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	w := &StatusWriter{opts: o, client: o.Client, log: o.Log, limit: rate.NewLimiter(rate.Limit(o.Rate), int(max(o.Rate, 1)))}
	if w.client == nil {
		cfg := rest.CopyConfig(o.Config)
		cfg.QPS = -1 // limit does it, by objects
		c, err := dynamic.NewForConfig(cfg)
		if err != nil {
			return nil, fmt.Errorf("kube: %w", err)
		}
		w.client = c
	}
	return w, nil
}

// writers is how many objects are written to at the same time.
const writers = 4

// Run writes until the context ends. What cannot be written is tried again,
// ever less often.
func (w *StatusWriter) Run(ctx context.Context) error {
	w.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[model.Key](100*time.Millisecond, time.Minute))
	watcher := w.opts.Board.Watch()
	defer watcher.Stop()
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for w.next(ctx) {
			}
		})
	}
	defer wg.Wait()
	defer w.queue.ShutDown()
	for {
		keys, err := watcher.Next(ctx)
		if err != nil {
			return nil
		}
		for _, key := range keys {
			if _, ok := mergers[key.Kind]; ok {
				w.queue.Add(key)
			}
		}
	}
}

func (w *StatusWriter) next(ctx context.Context) bool {
	key, stop := w.queue.Get()
	if stop {
		return false
	}
	defer w.queue.Done(key)
	err := w.write(ctx, key)
	switch {
	case err == nil:
		w.queue.Forget(key)
	case ctx.Err() != nil:
	default:
		if w.queue.NumRequeues(key) == 0 {
			w.log.Warn("cannot write a status; trying again", "object", key.String(), "err", err)
		}
		w.queue.AddRateLimited(key)
	}
	return true
}

// write brings the status of one object up to date. Reading it first, from the
// API server and not from the model, shows what others have written.
func (w *StatusWriter) write(ctx context.Context, key model.Key) error {
	kind, ok := source.KindOf(key.Kind)
	if !ok {
		return nil
	}
	for _, version := range kind.Versions {
		var at dynamic.ResourceInterface = w.client.Resource(kind.GVR(version))
		if kind.Namespaced {
			at = w.client.Resource(kind.GVR(version)).Namespace(key.Namespace)
		}
		err := retry.RetryOnConflict(retry.DefaultBackoff, func() error { return w.update(ctx, at, key) })
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil // it is gone, and its reports will be
}

func (w *StatusWriter) update(ctx context.Context, at dynamic.ResourceInterface, key model.Key) error {
	obj, err := at.Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	old, _, err := unstructured.NestedMap(obj.Object, "status")
	if err != nil {
		return fmt.Errorf("status of %s: %w", key, err)
	}
	next, err := mergers[key.Kind](merge{reports: w.opts.Board.Get(key), controller: w.opts.Controller}, old)
	if err != nil {
		return fmt.Errorf("status of %s: %w", key, err)
	}
	if sameJSON(old, next) {
		return nil
	}
	if err := w.limit.Wait(ctx); err != nil {
		return err
	}
	obj.Object["status"] = next
	if _, err := at.UpdateStatus(ctx, obj, metav1.UpdateOptions{FieldManager: w.opts.Controller}); err != nil {
		return fmt.Errorf("write the status of %s: %w", key, err)
	}
	w.log.Debug("status written", "object", key.String())
	return nil
}
