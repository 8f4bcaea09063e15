package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/internal/showcase"
	"github.com/sluicenet/sluice/mesh"
)

// startNodes runs the whole of sluice on node1, and the part of a node on node2.
func (d *demo) startNodes(ctx context.Context) (err error) {
	node1, node2 := d.nodes["node1"], d.nodes["node2"]
	d.table.Section("sluice up -f manifests/examples/quickstart on node1, sluice node -f ... on node2")
	var cidrs []string
	for _, node := range []*lab.Node{node1, node2} {
		for _, cidr := range node.PodCIDRs() {
			cidrs = append(cidrs, cidr.String())
		}
	}
	common := func(command string, node *lab.Node) []string {
		return []string{
			d.binary, command,
			"--manifests", d.manifests(),
			"--node-name", node.Name(),
			"--state-dir", d.state(node.Name()),
			"--socket", d.socket(node.Name()),
			"--metrics", "",
			"--dns-listen", netip.AddrPortFrom(node.IPv4(), 53).String(),
			"--dns-upstreams", "127.0.0.1:9", // there is no world outside
			"--proxy-cluster-cidrs", strings.Join(cidrs, ","),
		}
	}
	up := append(common("up", node1),
		"--envoy", d.envoy,
		"--gateways-addresses", fmt.Sprintf("%v,%v", node1.IPv4(), node1.IPv6()),
		"--xds-address", netip.AddrPortFrom(node1.IPv4(), mesh.ControlPlanePort).String(),
	)
	if d.up, err = d.start(node1.Namespace, "sluice up on node1", up...); err != nil {
		return err
	}
	if d.node, err = d.start(node2.Namespace, "sluice node on node2", common("node", node2)...); err != nil {
		return err
	}
	return d.ready(ctx)
}

// patience is how long what was started may take until it works.
const patience = 30 * time.Second

// ready waits until both nodes forward and answer, and the Gateway serves.
func (d *demo) ready(ctx context.Context) error {
	if err := showcase.Until(ctx, patience, "sluice get services", func(ctx context.Context) (err error) {
		for _, node := range []string{"node1", "node2"} {
			if d.place.Services, err = d.clusterIPs(ctx, node); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	d.place.Want = 1 + d.sidecars
	return d.place.Ready(ctx, patience)
}

// get runs `sluice get` on the socket of a node.
func (d *demo) get(ctx context.Context, node string, args ...string) ([]byte, error) {
	args = append([]string{"get", "--socket", d.socket(node)}, args...)
	out, err := exec.CommandContext(ctx, d.binary, args...).Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return nil, fmt.Errorf("sluice get: %w: %s", err, exit.Stderr)
	case err != nil:
		return nil, fmt.Errorf("sluice get: %w", err)
	}
	return out, nil
}

// clusterIPs asks a node's sluice for the addresses of the Services.
func (d *demo) clusterIPs(ctx context.Context, node string) (map[string]showcase.Addresses, error) {
	out, err := d.get(ctx, node, "services", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list corev1.ServiceList
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("sluice get services: %w", err)
	}
	ips := map[string]showcase.Addresses{}
	for _, s := range list.Items {
		ips[s.Name] = showcase.AddressesOf(s.Spec.ClusterIPs)
	}
	for _, name := range []string{"web", "quotes", "orders"} {
		if a := ips[name]; !a.V4.IsValid() || !a.V6.IsValid() {
			return nil, fmt.Errorf("no address of each family of the Service %s on %s", name, node)
		}
	}
	return ips, nil
}
