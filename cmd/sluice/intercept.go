package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/intercept"
)

// nameServer is a DNS server with what leads its clients there.
type nameServer struct {
	*dns.Server
	live      *dns.Liveness          // of the interceptor
	intercept *intercept.Interceptor // nil: none
	unable    bool                   // there was to be one, if the kernel can
}

// newNameServer opens the sockets of a server, and takes a seat for it where its
// clients are to be intercepted.
func (p *process) newNameServer(o dns.Options) (*nameServer, error) {
	s := &nameServer{}
	c := p.conf.DNS.Intercept
	if c.Mode == "off" {
		p.Go(p.retireInterception)
	} else {
		namespace, name, _ := strings.Cut(c.Service, "/")
		service := model.Name{Namespace: namespace, Name: name}
		i, err := intercept.New(intercept.Options{
			Config: intercept.Config{Addresses: c.Addresses, Service: service, Node: p.conf.NodeName},
			Store:  p.store, Alive: s.alive, Ready: s.knows, Local: localAddrs, Log: p.log,
		})
		switch {
		case err == nil:
			s.intercept = i
			o.Internal, o.Probers = i.Listen(), i.Probers()
			o.Addresses, o.Service = append(o.Addresses, c.Addresses...), service
		case c.Mode == "on":
			return nil, err
		default:
			s.unable = true
			p.log.Warn("DNS is answered on its own addresses only", "error", err)
		}
	}
	var err error
	if s.Server, err = dns.New(o); err != nil {
		if s.intercept != nil {
			s.intercept.Close()
		}
		return nil, err
	}
	s.live = s.Liveness()
	p.warnForeign(slices.Concat(p.conf.DNS.Listen, p.conf.DNS.TLS.Listen))
	return s, nil
}

// retireAfter is longer than the kubelet lets a container that crashes wait for its
// next start, 5 minutes.
const retireAfter = 10 * time.Minute

// retireInterception removes the rules of earlier processes.
func (p *process) retireInterception() error {
	found, err := intercept.Retire(p.ctx, retireAfter)
	switch _, unable := errors.AsType[*proxy.UnsupportedError](err); {
	case unable: // then there are none, or others of this machine see to them
	case err != nil:
		p.log.Error("dns: rules of interception that an earlier process left stay", "error", err, "remedy", "sluice cleanup")
	case found:
		p.log.Info("dns: rules of interception that an earlier process left are removed")
	}
	return nil
}

// warnForeign tells of addresses that the machine does not have: it may get them, but
// more often they are a slip.
func (p *process) warnForeign(listen []netip.AddrPort) {
	local := localAddrs()
	for _, l := range listen {
		if a := l.Addr(); !a.IsUnspecified() && !a.IsLoopback() && !slices.Contains(local, a.WithZone("")) {
			p.log.Warn("dns: this machine does not have an address to listen on; nobody gets an answer there until it has", "address", l)
		}
	}
}

func (s *nameServer) alive() bool { return s.live.Alive(time.Now()) }

// knows reports whether the server has the cluster's names.
func (s *nameServer) knows() bool { return s.Zone().Ready() }

// Run serves until the context ends. Its clients are led elsewhere first.
func (s *nameServer) Run(ctx context.Context) error {
	if s.intercept == nil {
		return s.Server.Run(ctx)
	}
	defer s.intercept.Close() // answers go out by way of it until the last one
	g, ctx := errgroup.WithContext(ctx)
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { return s.Server.Run(serving) })
	g.Go(func() error {
		defer stop()
		return s.intercept.Run(ctx)
	})
	return g.Wait()
}

// localAddrs returns the addresses of this machine.
func localAddrs() []netip.Addr {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out
}

// zonePatience is how long a server waits for the cluster's objects before it
// answers without them, as CoreDNS does.
const zonePatience = 5 * time.Second

// awaitZone waits until there is something to answer with. Where a predecessor
// answers on the same addresses, it takes as long as it may: the kernel would give
// a part of the queries to us.
func (p *process) awaitZone() error {
	ctx := p.ctx
	if len(p.before) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, zonePatience)
		defer cancel()
	}
	watch := p.store.Watch()
	defer watch.Stop()
	for {
		up, err := watch.Next(ctx)
		switch {
		case p.ctx.Err() != nil:
			return p.ctx.Err()
		case err != nil:
			p.log.Warn("DNS starts without the cluster's objects, which are not read yet", "waited", zonePatience)
			return nil
		case up.New.Synced(model.KindService, model.KindEndpointSlice, model.KindNamespace):
			return nil
		}
	}
}
