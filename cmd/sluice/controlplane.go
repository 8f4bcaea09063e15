package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"
	"k8s.io/client-go/kubernetes"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/ingress"
	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/internal/gateways"
	"github.com/sluicenet/sluice/internal/view"
	"github.com/sluicenet/sluice/mesh"
	"github.com/sluicenet/sluice/mesh/ca"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds"
	"github.com/sluicenet/sluice/xds/bootstrap"
)

func controlplaneCommand() *cobra.Command {
	return configured(&cobra.Command{
		Use:   "controlplane",
		Short: "Run the control plane of gateways and mesh",
		Long: `Run what is not a node's own: the Gateway API and Ingress controller, the mesh,
its certificate authority, and the server that Envoys get their configuration
from. On a cluster it deploys a gateway for each Gateway.`,
	}, role{control: true}, func(p *process) error {
		p.source(unique(slices.Concat(ingress.Kinds(), mesh.Kinds(), []model.KindID{model.KindNamespace, model.KindNode})))
		return p.controlplane()
	})
}

// systemNamespace is where the control plane and what belongs to it are.
const systemNamespace = "sluice-system"

// controlplane adds ingress, mesh, certificates and the server of Envoys.
func (p *process) controlplane() error {
	server, err := xds.New(xds.Options{Authorize: p.authorize, Metrics: p.observe.Registry, Log: p.log})
	if err != nil {
		return err
	}
	authority, auth, err := p.authority()
	if err != nil {
		return err
	}
	p.admin.Tables["proxies"] = func() admin.Table { return view.Proxies(server.Proxies()) }
	p.admin.Tables["proxy"] = p.admin.Tables["proxies"]

	// No proxy is served before both have planned: it would take what is
	// missing for removed.
	var planned sync.WaitGroup
	planned.Add(2)
	if err := p.ingress(server, authority, planned.Done); err != nil {
		return err
	}
	p.Go(func() error {
		return mesh.Run(p.ctx, mesh.Options{
			Config: p.meshConfig(), Store: p.store, Publisher: server, Progress: server, Board: p.board,
			Planned: planned.Done, Log: p.log,
		})
	})
	ready := make(chan struct{})
	go func() { planned.Wait(); close(ready) }()
	p.observe.Check("controlplane", func() error {
		select {
		case <-ready:
			return nil
		default:
			return errors.New("not all objects are read and planned yet")
		}
	})
	if p.rest != nil {
		if err := p.writeStatus(ready); err != nil {
			return err
		}
	}
	return p.serve(server, authority, auth, ready)
}

func (p *process) meshConfig() mesh.Config {
	return mesh.Config{
		TrustDomain: p.conf.Mesh.TrustDomain, ClusterDomain: p.conf.Zone,
		RootNamespaces: []string{p.conf.Mesh.RootNamespace, "istio-system"}, ServiceCIDRs: p.conf.Proxy.ServiceCIDRs,
	}
}

// serve opens the sockets for proxies once everything is planned.
func (p *process) serve(server *xds.Server, authority *ca.CA, auth ca.Authenticator, ready <-chan struct{}) error {
	var listeners []net.Listener
	listen := func(address string) (net.Listener, error) {
		l, err := xds.Listen(address)
		if err == nil {
			listeners = append(listeners, l)
		}
		return l, err
	}
	var local, remote net.Listener
	var err error
	if p.rest == nil || p.conf.XDS.Address == "" {
		if err := os.MkdirAll(p.runDir(), 0o755); err != nil {
			return err
		}
		// A socket that a crash left behind; the admin socket has made sure
		// that nobody else runs here.
		if err := os.Remove(p.xdsSocket()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if local, err = listen(p.xdsSocket()); err != nil {
			return err
		}
		if err := os.Chmod(p.xdsSocket(), 0o600); err != nil {
			return err
		}
	}
	if p.conf.XDS.Address != "" {
		if remote, err = listen(p.conf.XDS.Address); err != nil {
			return err
		}
	}
	wait := func() error {
		select {
		case <-ready:
			return nil
		case <-p.ctx.Done():
			for _, l := range listeners {
				_ = l.Close()
			}
			return p.ctx.Err()
		}
	}
	if local != nil {
		p.Go(func() error {
			if err := wait(); err != nil {
				return err
			}
			return server.Serve(p.ctx, local, nil)
		})
	}
	if remote == nil {
		return nil
	}
	p.Go(func() error {
		if err := wait(); err != nil {
			return err
		}
		g := server.GRPC(authority.ServerTLS(p.serverNames()...))
		ca.NewServer(authority, auth, p.log).Register(g)
		stop := context.AfterFunc(p.ctx, g.Stop)
		defer stop()
		if err := g.Serve(remote); err != nil && p.ctx.Err() == nil {
			return fmt.Errorf("serve proxies: %w", err)
		}
		return p.ctx.Err()
	})
	return nil
}

// xdsSocket is where the gateways on this machine get their configuration.
func (p *process) xdsSocket() string { return filepath.Join(p.runDir(), "xds.sock") }

func (p *process) serverNames() []string {
	names := slices.Clone(p.conf.XDS.Names)
	if a, err := netip.ParseAddrPort(p.conf.XDS.Address); err == nil && !a.Addr().IsUnspecified() {
		names = append(names, a.Addr().String())
	}
	return names
}

// authority opens the mesh's certificate authority, and says by what workloads
// prove who they are.
func (p *process) authority() (*ca.CA, ca.Authenticator, error) {
	options := ca.Options{TrustDomain: p.conf.Mesh.TrustDomain, Life: p.conf.Mesh.CertificateLife.Duration}
	if p.rest == nil {
		authority, err := ca.Open(p.ctx, ca.Dir(p.conf.StateDir), options)
		return authority, ca.SecretTokens{Store: p.store}, err
	}
	client, err := kubernetes.NewForConfig(p.rest)
	if err != nil {
		return nil, nil, err
	}
	storage := ca.SecretStorage{Client: client, Namespace: systemNamespace, Name: "sluice-mesh-ca"}
	if err := p.reachable(storage); err != nil {
		return nil, nil, err
	}
	authority, err := ca.Open(p.ctx, storage, options)
	return authority, ca.TokenReviews{Client: client}, err
}

// reachable waits until the API server answers. On a cluster that is just being
// set up, the way to it and the right to ask may come a little later.
func (p *process) reachable(storage ca.Storage) error {
	for said := false; ; {
		_, err := storage.Load(p.ctx)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !said {
			said = true
			p.log.Warn("waiting for the API server", "error", err)
		}
		select {
		case <-p.ctx.Done():
			return p.ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// authorize tells the groups of a proxy, and refuses one that is not what it
// says. On the Unix socket, which only this user can open, all are believed.
func (p *process) authorize(ctx context.Context, node *core.Node) ([]route.Group, error) {
	groups, err := bootstrap.Groups(node.GetId())
	if err != nil {
		return nil, grpcstatus.Error(codes.InvalidArgument, err.Error())
	}
	if from, ok := peer.FromContext(ctx); ok && from.Addr.Network() == "unix" {
		return groups, nil
	}
	id, ok := ca.PeerID(ctx)
	if !ok {
		return nil, grpcstatus.Error(codes.Unauthenticated, "a certificate of the mesh is needed")
	}
	want, err := p.accountOf(node.GetId(), groups)
	if err != nil {
		return nil, grpcstatus.Error(codes.Unavailable, err.Error())
	}
	if id.TrustDomain != p.conf.Mesh.TrustDomain || (model.Name{Namespace: id.Namespace, Name: id.ServiceAccount}) != want {
		return nil, grpcstatus.Errorf(codes.PermissionDenied, "%v may not be %s, which has the service account %v", id, node.GetId(), want)
	}
	return groups, nil
}

// accountOf returns the ServiceAccount that a node must have.
func (p *process) accountOf(id string, groups []route.Group) (model.Name, error) {
	parts := strings.Split(id, "/")
	namespace, err := bootstrap.Namespace(id)
	if err != nil {
		return model.Name{}, err
	}
	if len(groups) == 1 { // a gateway
		if namespace == "" {
			namespace = systemNamespace
		}
		return model.Name{Namespace: namespace, Name: gateways.ObjectName(parts[2])}, nil
	}
	pod, ok := model.Pods.Get(p.store.Snapshot(), namespace, parts[2])
	if !ok {
		return model.Name{}, fmt.Errorf("the Pod %s/%s is not known yet", namespace, parts[2])
	}
	return model.Name{Namespace: namespace, Name: pod.ServiceAccount}, nil
}

// ingress adds the Gateway API and Ingress controller with its gateways.
func (p *process) ingress(server *xds.Server, authority *ca.CA, planned func()) error {
	o := ingress.Options{
		Store: p.store, Publisher: server, Board: p.board, Progress: server, Log: p.log, Planned: planned,
		PlannerOptions: ingress.PlannerOptions{Standalone: p.rest == nil, OneMachine: p.rest == nil},
	}
	watch := server.Watch(func(g route.Group) bool { return strings.HasPrefix(string(g), "gateway/") })
	o.Moved = func(ctx context.Context) ([]route.Group, error) {
		progress, err := watch.Next(ctx)
		groups := make([]route.Group, len(progress))
		for i, pr := range progress {
			groups[i] = pr.Group
		}
		return groups, err
	}
	if p.rest == nil {
		p.standalone(&o)
	} else if err := p.deployed(&o, authority); err != nil {
		return err
	}
	p.Go(func() error {
		defer watch.Close()
		return ingress.Run(p.ctx, o)
	})
	return nil
}

// standalone serves Gateways by processes on this machine.
func (p *process) standalone(o *ingress.Options) {
	o.Place = func(snap *model.Snapshot, g route.Group, gw *gatewayv1.Gateway) ingress.Placement {
		if place := ingress.SpecPlace(snap, g, gw); len(place.Addresses) > 0 {
			return place
		}
		if len(p.conf.Gateways.Addresses) > 0 {
			return ingress.Placement{Listen: p.conf.Gateways.Addresses, Addresses: statusAddresses(p.conf.Gateways.Addresses)}
		}
		if n, ok := model.Nodes.Get(snap, "", p.conf.NodeName); ok {
			return ingress.Placement{Addresses: statusAddresses(n.InternalIPs)}
		}
		return ingress.Placement{}
	}
	s := gateways.NewStandalone(o.Publisher, filepath.Join(p.runDir(), "gateways"), func(g route.Group) []string {
		return []string{
			"gateway", "--group", string(g), "--xds", p.xdsSocket(), "--instance", p.conf.NodeName, "--envoy", p.conf.Envoy,
			"--run-dir", filepath.Join(p.runDir(), "gateways"), "--log-level", p.conf.Log.Level, "--log-format", p.conf.Log.Format,
		}
	}, p.log)
	o.Publisher = s
	p.Go(func() error { return s.Run(p.ctx) })
}

func statusAddresses(ips []netip.Addr) []gatewayv1.GatewayStatusAddress {
	var out []gatewayv1.GatewayStatusAddress
	for _, ip := range ips {
		out = append(out, gatewayv1.GatewayStatusAddress{Type: new(gatewayv1.IPAddressType), Value: ip.String()})
	}
	return out
}
