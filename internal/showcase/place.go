// Package showcase is the table that the demo and the end-to-end test show: what
// is expected of the quick start's manifests where they are in force, and what
// was counted.
package showcase

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Addresses are one of each family; an invalid one means that there is none.
type Addresses struct{ V4, V6 netip.Addr }

// AddressesOf sorts addresses by their family.
func AddressesOf(ips []string) Addresses {
	var a Addresses
	for _, text := range ips {
		if ip, err := netip.ParseAddr(text); err == nil && ip.Is4() {
			a.V4 = ip
		} else if err == nil {
			a.V6 = ip
		}
	}
	return a
}

// String is the addresses that there are.
func (a Addresses) String() string {
	var out []string
	for _, ip := range []netip.Addr{a.V4, a.V6} {
		if ip.IsValid() {
			out = append(out, ip.String())
		}
	}
	return strings.Join(out, " and ")
}

// Place is where the quick start's manifests are in force.
type Place struct {
	Table *Table
	// Toolbox is a Pod without a sidecar, Frontend one with it, and Client is
	// outside of the cluster or of its Pods.
	Toolbox, Frontend, Client Dialer
	// Services are the ClusterIPs by name, at least web, quotes and orders.
	Services map[string]Addresses
	// Nodes are those whose NodePorts are asked: the first one's over IPv4, the
	// last one's over IPv6.
	Nodes []Addresses
	// Gateway is where the Gateway answers, and Trust who its certificate is
	// from.
	Gateway Addresses
	Trust   *tls.Config
	Names   *Resolver
	// Proxies counts the Envoys by state, of which there should be Want.
	Proxies func(context.Context) (states map[string]int, err error)
	Want    int
	// Who makes the name that is counted of that of a Pod; nil: the same.
	Who func(pod string) string
	// Edit changes canary.yaml, and returns when that began.
	Edit func(ctx context.Context, change func(string) string) (time.Time, error)
	// Crash kills every sluice but those beside an Envoy; Recover returns when
	// they run again and answer.
	Crash, Recover func(context.Context) error
}

// Show writes the lines of the table. It returns an error where they cannot be
// completed; lines that fail are counted in the table.
func (p *Place) Show(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		p.services, p.names, p.gateway, p.mesh, p.edits, p.restart,
	} {
		if err := step(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// NodePort is that of the Service web.
const NodePort = 30080

// OrdersFrom asks for the Service orders by its name.
func (p *Place) OrdersFrom(pod Dialer) *Web {
	return HTTP(pod, netip.AddrPortFrom(p.Services["orders"].V4, 80), "orders")
}

// Ready waits until the nodes forward and answer, and the Gateway and all Envoys
// have their configuration.
func (p *Place) Ready(ctx context.Context, patience time.Duration) error {
	type wait struct {
		what string
		try  func(context.Context) error
	}
	var waits []wait
	for _, node := range p.Nodes {
		waits = append(waits, wait{fmt.Sprintf("NodePort of %v", node.V4),
			Ask(HTTP(p.Client, netip.AddrPortFrom(node.V4, NodePort), "web").Ask).Succeeds})
	}
	waits = append(waits, wait{"DNS", func(ctx context.Context) error {
		_, err := p.Names.Exchange(ctx, "web", "A")
		return err
	}})
	for _, ip := range []netip.Addr{p.Gateway.V4, p.Gateway.V6} {
		if ip.IsValid() {
			waits = append(waits, wait{"the Gateway at " + ip.String(),
				Ask(HTTP(p.Client, netip.AddrPortFrom(ip, 80), "www.example.com").Ask).Succeeds})
		}
	}
	waits = append(waits,
		wait{"the Gateway's TLS", Ask(HTTPS(p.Client, netip.AddrPortFrom(p.Gateway.V4, 443), "www.example.com", p.Trust).Ask).Succeeds},
		wait{"the Envoys", func(ctx context.Context) error {
			states, err := p.Proxies(ctx)
			if err == nil && states["Current"] < p.Want {
				err = fmt.Errorf("of %d there are %v", p.Want, states)
			}
			return err
		}})
	for _, w := range waits {
		if err := Until(ctx, patience, w.what, w.try); err != nil {
			return err
		}
	}
	return nil
}

// ProxyStates counts the Envoys in what `sluice get proxies` writes, by state.
func ProxyStates(out string) (map[string]int, error) {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	column := slices.Index(strings.Fields(lines[0]), "STATE")
	if column < 0 {
		return nil, fmt.Errorf("sluice get proxies said %q", out)
	}
	states := map[string]int{}
	for _, line := range lines[1:] {
		if fields := strings.Fields(line); len(fields) > column {
			states[fields[column]]++
		}
	}
	return states, nil
}

// Trust takes the example certificate in a Secret as the only root.
func Trust(secret map[string][]byte) (*tls.Config, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(secret[corev1.TLSCertKey]) {
		return nil, errors.New("the quick start's Secret example-com has no certificate")
	}
	return &tls.Config{RootCAs: roots}, nil
}
