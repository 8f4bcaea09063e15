// Package kube reads the objects of the model from a cluster's API server, and
// writes the status of objects back.
//
// It runs client-go's reflectors without informers' caches: an object is
// converted as it arrives and kept once, in the model. A lost API server leaves
// the last state in force; when it is back, the watch goes on where it ended,
// or what differs is taken over.
package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/source"
)

// Part is the name under which reports are on the status board.
const Part = "source"

// Options say what to read and where to put it.
type Options struct {
	Config *rest.Config   // how to reach the API server; required
	Store  *model.Store   // gets the objects; required
	Board  *status.Board  // gets what is wrong with objects; may be nil
	Kinds  []model.KindID // nil: all that are in the table of package source
	// Node limits Pods to those on this node; empty: all.
	Node string
	// ServiceLabels are names of labels that are kept of Services because a
	// selector reads them.
	ServiceLabels []string
	Log           *slog.Logger // nil: slog.Default()
}

// Source reads one cluster.
type Source struct {
	opts   Options
	log    *slog.Logger
	kinds  []*source.Kind
	server server
	queue  *queue
	ready  chan struct{}

	outageMu sync.Mutex // guards following
	outage   map[string]bool
}

// server is the API server as the source needs it.
type server interface {
	// serves tells whether the API server has the kind in that version.
	serves(ctx context.Context, kind *source.Kind, version string) (bool, error)
	listWatch(kind *source.Kind, version, node string) (*cache.ListWatch, error)
}

// New returns a source; Run starts it. The error is about the configuration.
func New(o Options) (*Source, error) {
	if o.Config == nil || o.Store == nil {
		return nil, errors.New("kube: Config and Store are required")
	}
	cfg := rest.CopyConfig(o.Config)
	if cfg.QPS == 0 {
		cfg.QPS, cfg.Burst = 50, 100 // a list for each kind at once, at the start
	}
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("kube: %w", err)
	}
	return newSource(o, &apiServer{config: cfg, discovery: d, scheme: source.Scheme()})
}

func newSource(o Options, srv server) (*Source, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Source{opts: o, log: o.Log, server: srv, ready: make(chan struct{}), outage: map[string]bool{}}
	if o.Kinds == nil {
		for _, k := range source.Kinds() {
			if !k.FilesOnly {
				s.kinds = append(s.kinds, k)
			}
		}
	}
	for _, id := range o.Kinds {
		k, ok := source.KindOf(id)
		if !ok {
			return nil, fmt.Errorf("kube: %s is not a kind of the API", id)
		}
		s.kinds = append(s.kinds, k)
	}
	s.queue = newQueue(o.Store, o.Board)
	return s, nil
}

// Ready is closed when the first full state of all kinds is in the store.
func (s *Source) Ready() <-chan struct{} { return s.ready }

// Run follows the cluster until the context ends. It waits for an API server
// that cannot be reached and for kinds that the cluster does not have; the
// error is only about the configuration.
func (s *Source) Run(ctx context.Context) error {
	start := time.Now()
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(quiet{s.log.Handler()}))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		pending := map[model.KindID]bool{}
		for _, k := range s.kinds {
			pending[k.ID] = true
		}
		s.queue.run(ctx, func(kind model.KindID) {
			if !pending[kind] {
				return
			}
			if delete(pending, kind); len(pending) == 0 {
				s.log.Info("read the cluster", "kinds", len(s.kinds), "took", time.Since(start).Round(time.Millisecond))
				close(s.ready)
			}
		})
		return nil
	})
	for _, kind := range s.kinds {
		group.Go(func() error { return s.follow(ctx, kind) })
	}
	return group.Wait()
}

// follow reads one kind until the context ends.
func (s *Source) follow(ctx context.Context, kind *source.Kind) error {
	for ctx.Err() == nil {
		version := kind.Versions[0]
		if kind.CRD || kind.Optional {
			var ok bool
			if version, ok = s.await(ctx, kind); !ok {
				return nil
			}
		}
		lw, err := s.server.listWatch(kind, version, s.opts.Node)
		if err != nil {
			return fmt.Errorf("kube: %s: %w", kind.Name, err)
		}
		s.reflect(ctx, kind, lw)
	}
	return nil
}

// How long until the API server is asked again for a kind that it does not
// have, and how many times it must say no before what is known of the kind is
// dropped: one that is just starting may not know its CRDs yet.
const (
	absentMin   = time.Second
	absentMax   = 10 * time.Second
	absentTimes = 7
)

// await waits until the API server has a kind, and returns the first of the
// accepted versions that it serves. Meanwhile the kind counts as synced. False
// means that the context ended.
func (s *Source) await(ctx context.Context, kind *source.Kind) (string, bool) {
	delay, absent := absentMin, 0
	for {
		version, err := s.served(ctx, kind)
		switch {
		case version != "":
			s.reachable(kind)
			return version, true
		case ctx.Err() != nil:
			return "", false
		case err != nil:
			s.unreachable(kind, err)
		default:
			s.reachable(kind)
			if absent++; absent == 1 {
				s.queue.add(op{kind: kind, synced: true})
				s.log.Debug("the cluster does not have this kind; waiting for it", "kind", kind.Name, "group", kind.Group)
			}
			if absent == absentTimes {
				s.queue.add(op{kind: kind, replace: true, synced: true})
			}
		}
		if !sleep(ctx, wait.Jitter(delay, 0.2)) {
			return "", false
		}
		delay = min(delay*2, absentMax)
	}
}

func (s *Source) served(ctx context.Context, kind *source.Kind) (string, error) {
	for _, version := range kind.Versions {
		ok, err := s.server.serves(ctx, kind, version)
		if err != nil {
			return "", err
		}
		if ok {
			return version, nil
		}
	}
	return "", nil
}

// Delays between attempts to list and watch. Short at first, since an API
// server behind a load balancer is back at once; with much jitter, since every
// node does the same.
const (
	retryMin = 500 * time.Millisecond
	retryMax = 15 * time.Second
)

// reflect lists and watches a kind, until the context ends or the kind is not
// there any more.
func (s *Source) reflect(ctx context.Context, kind *source.Kind, lw *cache.ListWatch) {
	logger := klog.FromContext(ctx)
	forbidden := false
	answered := func(err error) {
		if err == nil {
			s.reachable(kind)
		} else if ctx.Err() == nil {
			s.unreachable(kind, err)
			if kind.Optional && apierrors.IsForbidden(err) && !forbidden {
				forbidden = true
				s.queue.add(op{kind: kind, synced: true})
			}
		}
	}
	r := cache.NewReflectorWithOptions(observe(lw, answered), kind.New(), &feed{kind: kind, queue: s.queue, labels: s.opts.ServiceLabels}, cache.ReflectorOptions{
		Name:    "sluice",
		Logger:  &logger,
		Backoff: &wait.Backoff{Duration: retryMin, Cap: retryMax, Steps: 30, Factor: 2, Jitter: 1},
	})
	delay := retryMin
	for {
		start := time.Now()
		err := r.ListAndWatchWithContext(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && apierrors.IsNotFound(err) && (kind.CRD || kind.Optional) {
			return
		}
		if time.Since(start) > time.Minute {
			delay = retryMin
		}
		if !sleep(ctx, wait.Jitter(delay, 1)) {
			return
		}
		delay = min(delay*2, retryMax)
	}
}

// unreachable logs that something cannot be read, once until it can be again.
func (s *Source) unreachable(kind *source.Kind, err error) {
	// What the API server itself says is about the kind; else it is about the
	// way to it, and all kinds have the same to tell.
	what := ""
	if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
		what = kind.Name
	}
	s.outageMu.Lock()
	defer s.outageMu.Unlock()
	if !s.outage[what] {
		s.outage[what] = true
		s.log.Warn("cannot read from the API server; the last state stays in force", "kind", kind.Name, "err", err)
	}
}

func (s *Source) reachable(kind *source.Kind) {
	s.outageMu.Lock()
	defer s.outageMu.Unlock()
	if s.outage[""] || s.outage[kind.Name] {
		delete(s.outage, "")
		delete(s.outage, kind.Name)
		s.log.Info("reading from the API server again", "kind", kind.Name)
	}
}

// quiet lets client-go log only what it takes for a warning or worse; that a
// watch ended and began anew is no news.
type quiet struct{ slog.Handler }

// Enabled implements slog.Handler.
func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && q.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup implements slog.Handler.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
