package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/ingress"
	"github.com/sluicenet/sluice/internal/gateways"
	"github.com/sluicenet/sluice/mesh/ca"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/source/kube"
)

// deployed serves Gateways by Deployments.
func (p *process) deployed(o *ingress.Options, authority *ca.CA) error {
	client, err := kubernetes.NewForConfig(p.rest)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(p.conf.XDS.Address)
	if err != nil {
		return fmt.Errorf("xds.address: %w", err)
	}
	c := &gateways.Cluster{
		Client: client, Namespace: systemNamespace, Image: p.conf.Gateways.Image,
		ControlPlane: net.JoinHostPort(ca.ServerName, port), Log: p.log,
	}
	o.Place = func(snap *model.Snapshot, g route.Group, gw *gatewayv1.Gateway) ingress.Placement {
		name := model.Name{Name: strings.TrimPrefix(string(g), string(route.GatewayGroup("", "")))}
		if gw != nil {
			name = model.Name{Namespace: gw.Namespace, Name: gw.Name}
		}
		var ips []netip.Addr
		for _, a := range c.Address(snap, name) {
			if ip, err := netip.ParseAddr(a); err == nil {
				ips = append(ips, ip)
			}
		}
		if len(ips) == 0 {
			return ingress.Placement{Pending: "the Service of the gateway has no address yet"}
		}
		return ingress.Placement{Addresses: statusAddresses(ips)}
	}
	o.Groups = func(changes []ingress.GroupChange) {
		for _, g := range changes {
			if g.Gone {
				c.Drop(g.Group)
				continue
			}
			c.Want(gateways.Wanted{Group: g.Group, Gateway: g.Gateway, UID: g.UID, Ports: g.Ports})
		}
	}
	o.PlacedBy = func(key model.Key) (route.Group, bool) {
		if key.Kind != model.KindService {
			return "", false
		}
		return c.GroupOf(model.Name{Namespace: key.Namespace, Name: key.Name})
	}
	roots := ca.RootsPublisher{Client: client, Store: p.store, CA: authority, Log: p.log}
	p.Go(func() error { return c.Run(p.ctx) })
	p.Go(func() error { return roots.Run(p.ctx) })
	return nil
}

// settle is how long after the start the status of objects stays as it is. The
// proxies that an earlier process served are back soon, and what they do has
// not changed; to say that there are none would be wrong for most readers.
const settle = 5 * time.Second

// writeStatus writes what is on the board to the objects of a cluster.
func (p *process) writeStatus(ready <-chan struct{}) error {
	writer, err := kube.NewStatusWriter(kube.StatusOptions{Config: p.rest, Board: p.board, Log: p.log})
	if err != nil {
		return err
	}
	p.Go(func() error {
		select {
		case <-p.ctx.Done():
			return p.ctx.Err()
		case <-ready:
		}
		select {
		case <-p.ctx.Done():
			return p.ctx.Err()
		case <-time.After(settle):
		}
		return writer.Run(p.ctx)
	})
	return nil
}
