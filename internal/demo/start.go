package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/mesh"
)

// startNodes runs the whole of sluice on node1, and the part of a node on node2.
func (d *demo) startNodes(ctx context.Context) (err error) {
	node1, node2 := d.nodes["node1"], d.nodes["node2"]
	d.table.section("sluice up -f manifests/examples/quickstart on node1, sluice node -f ... on node2")
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

// ready waits until both nodes forward and answer, and the Gateway serves.
func (d *demo) ready(ctx context.Context) error {
	if err := until(ctx, "sluice get services", func(ctx context.Context) (err error) {
		for _, node := range []string{"node1", "node2"} {
			if d.ips, err = d.clusterIPs(ctx, node); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	client := d.client.Namespace
	for _, node := range d.nodes {
		if err := until(ctx, "NodePort of "+node.Name(), asks(plain(client, netip.AddrPortFrom(node.IPv4(), nodePort), "web").ask)); err != nil {
			return err
		}
	}
	if err := until(ctx, "DNS", func(ctx context.Context) error {
		_, err := d.dns.exchange(ctx, "web", "A")
		return err
	}); err != nil {
		return err
	}
	gateway := d.nodes["node1"]
	for _, ip := range gateway.Addrs() {
		if err := until(ctx, "the Gateway at "+ip.String(), asks(plain(client, netip.AddrPortFrom(ip, 80), "www.example.com").ask)); err != nil {
			return err
		}
	}
	if err := until(ctx, "the Gateway's TLS", asks(secure(client, netip.AddrPortFrom(gateway.IPv4(), 443), "www.example.com", d.trust).ask)); err != nil {
		return err
	}
	return until(ctx, "the Envoys", func(ctx context.Context) error {
		states, err := d.proxyStates(ctx)
		if err == nil && states["Current"] < d.proxies() {
			err = fmt.Errorf("of %d there are %v", d.proxies(), states)
		}
		return err
	})
}

// proxies is how many Envoys there should be: the Gateway's, and the sidecars'.
func (d *demo) proxies() int { return 1 + d.sidecars }

// proxyStates counts the Envoys that `sluice get proxies` shows, by their state.
func (d *demo) proxyStates(ctx context.Context) (map[string]int, error) {
	out, err := d.get(ctx, "node1", "proxies")
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	column := slices.Index(strings.Fields(lines[0]), "STATE")
	if column < 0 {
		return nil, fmt.Errorf("sluice get proxies said %q", out)
	}
	states := map[string]int{}
	for _, line := range lines[1:] {
		states[strings.Fields(line)[column]]++
	}
	return states, nil
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

func asks(ask asking) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := ask(ctx)
		return err
	}
}

// clusterIPs asks a node's sluice for the addresses of the Services.
func (d *demo) clusterIPs(ctx context.Context, node string) (map[string]addresses, error) {
	out, err := d.get(ctx, node, "services", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list corev1.ServiceList
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("sluice get services: %w", err)
	}
	ips := map[string]addresses{}
	for _, s := range list.Items {
		var a addresses
		for _, text := range s.Spec.ClusterIPs {
			if ip, err := netip.ParseAddr(text); err == nil && ip.Is4() {
				a.v4 = ip
			} else if err == nil {
				a.v6 = ip
			}
		}
		ips[s.Name] = a
	}
	for _, name := range []string{"web", "quotes", "orders"} {
		if a := ips[name]; !a.v4.IsValid() || !a.v6.IsValid() {
			return nil, fmt.Errorf("no address of each family of the Service %s on %s", name, node)
		}
	}
	return ips, nil
}

// until tries again and again, each time for a few seconds, and gives up after a
// minute.
func until(ctx context.Context, what string, try func(context.Context) error) error {
	var last error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		attempt, cancel := context.WithTimeout(ctx, 3*time.Second)
		last = try(attempt)
		cancel()
		if last == nil {
			return nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: not within a minute: %w", what, last)
}
