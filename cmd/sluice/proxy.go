package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicenet/sluice/internal/view"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/conntrack"
	"github.com/sluicenet/sluice/proxy/healthcheck"
	"github.com/sluicenet/sluice/proxy/localhost"
)

var errNotProgrammed = errors.New("the Services are not programmed yet")

// proxy adds the service proxy of the node.
func (p *process) proxy() error {
	c := p.conf.Proxy
	if c.Mode == "none" {
		return nil
	}
	kind, err := engineFor(p.ctx, c)
	if err != nil {
		return err
	}
	plans, err := p.plannerConfig()
	if err != nil {
		return err
	}
	engine, err := kind.open(c, p.log)
	if err != nil {
		return err
	}
	p.log.Info("Services are programmed by "+kind.name, "mode", c.Mode)
	var current atomic.Pointer[proxy.Plan]
	metrics := proxy.NewMetrics().For(kind.name)
	progress := &proxy.Progress{}
	health := healthcheck.NewHealth(progress, p.eligible, 0)
	relay := localhost.New(localhost.Options{Status: p.board, Log: p.log, Engine: kind.name})
	room := conntrack.NewWatch(conntrack.New(), p.log)
	collectors := []prometheus.Collector{metrics, health, relay, room}
	if own, ok := engine.(prometheus.Collector); ok {
		collectors = append(collectors, own)
	}
	for _, collector := range collectors {
		if err := p.observe.Registry.Register(collector); err != nil {
			return err
		}
	}
	checks := healthcheck.New(healthcheck.Options{Healthy: health.Healthy, Status: p.board, Log: p.log})
	counter, _ := engine.(proxy.Counter)
	view.Node{Store: p.store, Board: p.board, Plan: current.Load, Counter: counter}.Put(p.admin)
	if counter != nil && c.Traffic {
		if err := p.observe.Registry.Register(proxy.NewTrafficMetrics(counter, current.Load, p.log)); err != nil {
			return err
		}
	}
	p.tune()
	p.Go(func() error { return checks.Run(p.ctx) })
	p.Go(func() error { return relay.Run(p.ctx) })
	p.Go(func() error { return room.Run(p.ctx, roomEvery) })
	if c.Healthz != "" {
		p.Go(func() error { return healthcheck.Serve(p.ctx, c.Healthz, health.Handler(), c.HealthzHardFail, p.log) })
	}
	p.observe.Check("proxy", func() error {
		if current.Load() == nil {
			return errNotProgrammed
		}
		return nil
	})
	// Where kube-proxy tells it.
	p.observe.Handle("/proxyMode", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, kind.name) }))
	p.admin.Questions["trace"] = func(ctx context.Context, q url.Values) (any, error) {
		return trace(ctx, current.Load(), kind.name, engine, q)
	}
	p.Go(func() error {
		if err := p.awaitPlan(); err != nil {
			return errors.Join(err, engine.Close())
		}
		err := p.handover.while(p.ctx, func(ctx context.Context) error {
			watch := p.store.Watch()
			defer watch.Stop()
			return proxy.Run(ctx, proxy.Options{
				Updates: watch,
				Planner: proxy.NewPlanner(plans),
				Engine:  engine, Flows: conntrack.New(), Status: p.board, Metrics: metrics, Log: p.log,
				Progress: progress,
				Applied: func(plan *proxy.Plan, changes []proxy.Change) {
					checks.Applied(plan, changes)
					relay.Applied(plan, changes)
					if current.Swap(plan) == nil {
						succeed(p.ctx, p.before)
						// The new rules stand; now the old ones may go.
						p.Go(func() error {
							cleanOthers(p.ctx, kind.name, engineKinds(), p.log)
							return nil
						})
					}
				},
			})
		})
		return errors.Join(err, engine.Close())
	})
	return nil
}

// roomEvery is the time between two looks at the kernel's memory of connections.
const roomEvery = 5 * time.Second

// eligible reports whether load balancers should send connections to this node:
// not if it is about to go. A node without an object is.
func (p *process) eligible() bool {
	node, ok := model.Nodes.Get(p.store.Snapshot(), "", p.conf.NodeName)
	return !ok || !node.Deleting
}

// plannerConfig is what the planner must be told.
func (p *process) plannerConfig() (proxy.Config, error) {
	c := p.conf.Proxy
	out := proxy.Config{
		Node: p.conf.NodeName, ClusterCIDRs: c.ClusterCIDRs, MasqueradeAll: c.MasqueradeAll, ProxyName: c.ProxyName,
		DetectLocal: proxy.DetectLocal(c.DetectLocal.Mode),
	}
	if p.rest == nil {
		// A cluster's own ranges are in its ServiceCIDRs. Those that are
		// configured are a default, and packets to whatever else is in them must
		// not be dropped.
		out.ServiceCIDRs = c.ServiceCIDRs
	}
	switch out.DetectLocal {
	case proxy.DetectBridgeInterface:
		out.PodInterfaces = []string{c.DetectLocal.BridgeInterface}
	case proxy.DetectInterfaceNamePrefix:
		out.PodInterfaces = []string{c.DetectLocal.InterfaceNamePrefix}
	}
	var err error
	if out.NodePorts, err = proxy.ParseNodePortAddresses(c.NodePortAddresses); err != nil {
		return out, fmt.Errorf("proxy.%w", err)
	}
	return out, nil
}

// patience is how long Services wait, when they are read, for what the plan also
// depends on. Where that may not be read, Services come first.
const patience = 10 * time.Second

// refining are the kinds without which a plan is usable, but another one: this
// node's addresses and Pods, the ranges of ClusterIPs, the weights that routes
// give.
var refining = []model.KindID{model.KindNode, model.KindServiceCIDR, model.KindSplit}

// awaitPlan waits until the plan can be that of before a restart, which must
// take nothing out of force for a moment.
func (p *process) awaitPlan() error {
	watch := p.store.Watch()
	defer watch.Stop()
	ctx := p.ctx
	var unread []model.KindID
	for {
		up, err := watch.Next(ctx)
		switch {
		case p.ctx.Err() != nil:
			return p.ctx.Err()
		case err != nil:
			p.log.Warn("Services go without kinds that are not read yet", "kinds", unread, "waited", patience)
			return nil
		case !up.New.Synced(model.KindService, model.KindEndpointSlice):
			continue
		}
		unread = slices.DeleteFunc(slices.Clone(refining), func(k model.KindID) bool { return up.New.Synced(k) })
		if len(unread) == 0 {
			return nil
		}
		if ctx == p.ctx {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(p.ctx, patience)
			defer cancel()
		}
	}
}
