package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/ingress"
	"github.com/sluicenet/sluice/mesh"
	"github.com/sluicenet/sluice/model"
)

// nodeKinds are what the proxy and the DNS of a node read.
var nodeKinds = []model.KindID{
	model.KindService, model.KindEndpointSlice, model.KindPod, model.KindNode, model.KindNamespace,
	model.KindServiceCIDR, model.KindVirtualService, model.KindDestinationRule,
}

func upCommand() *cobra.Command {
	return configured(&cobra.Command{
		Use:   "up",
		Short: "Run everything on this machine, from a directory of manifests or a cluster",
		Long: `Run the service proxy, the DNS server, the gateways and the mesh's control plane
on this machine.

The kernel's rules and the Envoys of Gateways stay when it ends, so that a
restart interrupts nothing; "sluice cleanup" removes them.`,
		Example: "  sluice up -f manifests/examples/quickstart",
	}, role{node: true, control: true}, func(p *process) error {
		p.source(unique(slices.Concat(nodeKinds, ingress.Kinds(), mesh.Kinds())))
		if err := p.proxy(); err != nil {
			return err
		}
		if err := p.dns(); err != nil {
			return err
		}
		return p.controlplane()
	})
}

func nodeCommand() *cobra.Command {
	return configured(&cobra.Command{
		Use:   "node",
		Short: "Run the service proxy and the DNS server of a node",
		Long: `Run what every node of a cluster needs: the service proxy, in place of kube-proxy,
and the DNS server. The kernel's rules stay when it ends.`,
	}, role{node: true}, func(p *process) error {
		p.source(nodeKinds)
		conf := p.meshConfig()
		conf.SplitsOnly = true
		p.Go(func() error { return mesh.Run(p.ctx, mesh.Options{Config: conf, Store: p.store, Log: p.log}) })
		if err := p.proxy(); err != nil {
			return err
		}
		return p.dns()
	})
}

func unique(kinds []model.KindID) []model.KindID {
	slices.Sort(kinds)
	return slices.Compact(kinds)
}
