package main

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"

	"github.com/sluicenet/sluice/internal/observe"
	"github.com/sluicenet/sluice/model"
)

// dns adds the name server of the node.
func (p *process) dns() error {
	c := p.conf.DNS
	if len(c.Listen) == 0 {
		return nil
	}
	o, err := p.dnsOptions()
	if err != nil {
		return err
	}
	if err := p.awaitZone(); err != nil {
		return err
	}
	s, err := p.newNameServer(o)
	if err != nil {
		return err
	}
	if err := p.observe.Registry.Register(s.Server); err != nil {
		return err
	}
	if s.intercept != nil {
		if err := p.observe.Registry.Register(s.intercept); err != nil {
			return err
		}
		p.observe.Check("dns interception", s.intercept.Check)
		if trace := p.admin.Questions["trace"]; trace != nil {
			p.admin.Questions["trace"] = tracingInterception(trace, s.intercept.Captured)
		}
	}
	if c.CoreDNSMetrics {
		for _, m := range s.nodecacheErrors() {
			if err := p.observe.Registry.Register(m); err != nil {
				return err
			}
		}
	}
	p.observe.Check("dns upstreams", func() error {
		if err := s.Upstreams(); err != nil {
			return &observe.Warning{Err: err} // the cluster's names are answered
		}
		return nil
	})
	p.observe.Check("dns", p.synced(model.KindService, model.KindEndpointSlice))
	p.admin.Questions["dns"] = func(ctx context.Context, q url.Values) (any, error) {
		var client netip.Addr
		if from := q.Get("client"); from != "" {
			var err error
			if client, err = netip.ParseAddr(from); err != nil {
				return nil, fmt.Errorf("client: expected an address, found %q", from)
			}
		}
		return s.Explain(ctx, client, q.Get("name"), q.Get("type"))
	}
	p.Go(func() error { return s.Run(p.ctx) })
	return nil
}
