package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/internal/memory"
	"github.com/sluicenet/sluice/internal/observe"
	"github.com/sluicenet/sluice/internal/view"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/source"
	"github.com/sluicenet/sluice/source/files"
	"github.com/sluicenet/sluice/source/kube"
)

// process is what all long-running commands have: a model with its source, a
// board, and the ports on which people look in.
type process struct {
	*errgroup.Group
	ctx     context.Context
	stop    context.CancelFunc
	conf    *config.Configuration
	log     *slog.Logger
	store   *model.Store
	board   *status.Board
	observe *observe.Server
	admin   *admin.Server
	rest    *rest.Config  // nil: a directory of manifests
	files   *files.Source // that reads it

	handover *handover  // nil: none succeeds it
	before   []net.Conn // to the agents that this one succeeds
}

// newProcess prepares a process; its parts are added before run.
func newProcess(ctx context.Context, conf *config.Configuration, log *slog.Logger) (*process, error) {
	ctx, stop := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	p := &process{
		Group: group, ctx: ctx, stop: stop, conf: conf, log: log,
		store: model.NewStore(), board: status.NewBoard(), observe: observe.New(version),
	}
	p.admin = &admin.Server{
		Tables: view.Tables(p.store, p.board, p.fileProblems), Log: log,
		Questions: map[string]admin.Asker{
			"version": func(context.Context, url.Values) (any, error) { return version, nil },
		},
	}
	if conf.Manifests == "" {
		loading := clientcmd.NewDefaultClientConfigLoadingRules()
		loading.ExplicitPath = conf.Kubeconfig
		overrides := &clientcmd.ConfigOverrides{}
		overrides.ClusterInfo.Server = conf.APIServer
		c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(loading, overrides).ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("no cluster: %w; name a kubeconfig with --kubeconfig, or a directory of manifests with --manifests", err)
		}
		c.UserAgent = "sluice/" + version
		if p.rest, err = oneTransport(c); err != nil {
			return nil, fmt.Errorf("kubeconfig: %w", err)
		}
	}
	return p, nil
}

// oneTransport makes all clients of a configuration share one transport, which
// soon gives up a connection that nobody answers: while a node is starting, the
// rules that lead to the API server are not there yet, and the kernel remembers
// for each connection that there were none.
func oneTransport(c *rest.Config) (*rest.Config, error) {
	host, _, err := rest.DefaultServerUrlFor(c)
	if err != nil {
		return nil, err
	}
	c.Dial = (&net.Dialer{Timeout: 3 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	transport, err := rest.TransportFor(c)
	if err != nil {
		return nil, err
	}
	return &rest.Config{Host: host.String(), UserAgent: c.UserAgent, Transport: transport}, nil
}

// source starts reading objects of these kinds.
func (p *process) source(kinds []model.KindID) { p.sourceOf("", kinds) }

// sourceOf starts reading objects of these kinds, and of Pods those of one node
// unless that is empty.
func (p *process) sourceOf(node string, kinds []model.KindID) {
	if p.rest == nil {
		src := files.New(files.Options{
			Dir: p.conf.Manifests, Store: p.store, Board: p.board, Log: p.log, ServiceCIDRs: p.conf.Proxy.ServiceCIDRs, ServiceLabels: p.serviceLabels(),
		})
		p.Go(func() error { return src.Run(p.ctx) })
		p.files = src
		return
	}
	p.Go(func() error {
		src, err := kube.New(kube.Options{Config: p.rest, Store: p.store, Board: p.board, Kinds: kinds, Node: node, ServiceLabels: p.serviceLabels(), Log: p.log})
		if err != nil {
			return err
		}
		return src.Run(p.ctx)
	})
}

func (p *process) fileProblems() []source.Problem {
	if p.files == nil {
		return nil
	}
	return p.files.Problems()
}

// run starts the ports on which people look in, and waits for the end: of the
// context, which is no error, or of a part that cannot go on.
func (p *process) run() error {
	go memory.Tend(p.ctx)
	if p.conf.Metrics != "" {
		p.Go(func() error { return p.observe.Run(p.ctx, p.conf.Metrics, metricsMustListen(p.conf), p.log) })
	}
	if p.conf.Socket != "" {
		p.admin.Questions["health"] = func(context.Context, url.Values) (any, error) {
			lines, healthy := p.observe.Health()
			if !healthy {
				return nil, errors.New(strings.Join(lines, "; "))
			}
			return lines, nil
		}
		p.Go(func() error { return p.admin.Run(p.ctx, p.conf.Socket) })
	}
	p.log.Info("sluice runs", "version", version, "node", p.conf.NodeName, "manifests", p.conf.Manifests)
	if err := p.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// runDir is where the sockets and locks are that do not outlive a reboot.
func (p *process) runDir() string { return filepath.Dir(p.conf.Socket) }

// synced is a health check that the source has delivered these kinds.
func (p *process) synced(kinds ...model.KindID) func() error {
	return func() error {
		for _, k := range kinds {
			if !p.store.Snapshot().Synced(k) {
				return fmt.Errorf("%s are not read yet", k)
			}
		}
		return nil
	}
}
