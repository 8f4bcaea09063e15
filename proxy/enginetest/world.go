package enginetest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/conntrack"
)

// World is two nodes with two pods each and two machines outside. The engine
// under test is on the first node.
type World struct {
	Lab  *lab.Lab
	Node *lab.Node

	hosts map[string]*host
	flows *conntrack.Cleaner
	log   *slog.Logger
}

// pair is an address of each family.
type pair [2]netip.Addr

func pairOf(four, six string) pair {
	return pair{netip.MustParseAddr(four), netip.MustParseAddr(six)}
}

func (p pair) of(family int) netip.Addr {
	if family == 6 {
		return p[1]
	}
	return p[0]
}

// addresses are the names of addresses that cases use. The router sends those
// of Services to the node under test.
var addresses = map[string]pair{
	"vip":     pairOf("10.96.0.10", "fd00:10:96::10"),
	"vip2":    pairOf("10.96.0.11", "fd00:10:96::11"),
	"vip3":    pairOf("10.96.0.12", "fd00:10:96::12"),
	"control": pairOf("10.96.0.9", "fd00:10:96::9"),
	"unused":  pairOf("10.96.0.200", "fd00:10:96::200"),
	"lb":      pairOf("10.97.0.10", "fd00:10:97::10"),
	"lb2":     pairOf("10.97.0.11", "fd00:10:97::11"),
	"ext":     pairOf("10.97.1.10", "fd00:10:97:1::10"),
	"ext2":    pairOf("10.97.1.11", "fd00:10:97:1::11"),
	"node2nd": pairOf("10.240.0.111", "fd00:10:240::111"),
	"local":   pairOf("127.0.0.1", "::1"),
}

// clusterCIDRs are the networks of the pods, serviceCIDRs those of ClusterIPs.
var (
	clusterCIDRs = prefixes("10.244.0.0/16", "fd00:10:244::/48")
	serviceCIDRs = prefixes("10.96.0.0/16", "fd00:10:96::/64")
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// NewWorld makes a world that ends with the test.
func NewWorld(t *testing.T) *World {
	t.Helper()
	l := lab.ForTest(t, lab.Options{})
	node, other := l.MustNode("node1"), l.MustNode("node2")
	w := &World{Lab: l, Node: node, hosts: map[string]*host{}, log: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	add := func(name, on string, ns *lab.Namespace, four, six netip.Addr) {
		w.hosts[name] = &host{Namespace: ns, name: name, node: on, addrs: [2]netip.Addr{four, six}}
	}
	add("node", "node1", node.Namespace, node.IPv4(), node.IPv6())
	add("other", "node2", other.Namespace, other.IPv4(), other.IPv6())
	for _, name := range []string{"a", "b", "c", "d"} {
		on := node
		if name > "b" {
			on = other
		}
		pod := on.MustPod(name)
		add(name, on.Name(), pod.Namespace, pod.IPv4(), pod.IPv6())
	}
	for _, name := range []string{"client", "stranger"} {
		c := l.MustClient(name)
		add(name, "", c.Namespace, c.IPv4(), c.IPv6())
	}
	for _, p := range prefixes("10.96.0.0/15", "fd00:10:96::/64", "fd00:10:97::/64", "fd00:10:97:1::/64") {
		via := node.IPv4()
		if p.Addr().Is6() {
			via = node.IPv6()
		}
		must(t, l.Router().Route(p, via))
		must(t, other.Route(p, via))
	}
	must(t, node.AddAddress(netip.MustParsePrefix("10.240.0.111/24")))
	must(t, addDeprecated(node, addresses["node2nd"].of(6)))
	// The kernel sends one ICMP error a second to a peer, a few at first.
	must(t, node.Sysctl("net/ipv4/icmp_ratelimit", "0"))
	must(t, node.Sysctl("net/ipv6/icmp/ratelimit", "0"))
	for _, h := range w.hosts {
		end, err := h.serve()
		t.Cleanup(end)
		must(t, err)
	}
	w.flows = conntrack.NewAt(node.FD())
	return w
}

// addDeprecated gives the node one more IPv6 address that the kernel never chooses
// as a source by itself.
func addDeprecated(node *lab.Node, addr netip.Addr) error {
	link, err := node.Netlink().LinkByName("eth0")
	if err != nil {
		return err
	}
	return node.Netlink().AddrAdd(link, &netlink.Addr{
		IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD, ValidLft: 1 << 30,
	})
}

// Options are those of an engine for the node.
func (w *World) Options() Options { return Options{NetNS: w.Node.FD(), Log: w.log} }

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// nodeObject is the Node object of the node under test.
func (w *World) nodeObject(zone string) *model.Node {
	n := &model.Node{Meta: model.Meta{Name: "node1"}, InternalIPs: w.Node.Addrs(), PodCIDRs: w.Node.PodCIDRs()}
	if zone != "" {
		n.Labels = map[string]string{"topology.kubernetes.io/zone": zone}
	}
	return n
}

// config returns the settings of a planner by the words of a case.
func config(words []string) (proxy.Config, error) {
	cfg := proxy.Config{Node: "node1", ClusterCIDRs: clusterCIDRs}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "masquerade-all":
			cfg.MasqueradeAll = true
		case "no-cluster-cidr":
			cfg.ClusterCIDRs = nil
		case "proxy-name":
			cfg.ProxyName = value
		case "nodeports":
			var err error
			if cfg.NodePorts, err = proxy.ParseNodePortAddresses(strings.Split(value, ",")); err != nil {
				return cfg, err
			}
		case "detect":
			cfg.DetectLocal = proxy.DetectLocal(value)
		case "interfaces":
			cfg.PodInterfaces = strings.Split(value, ",")
		case "service-cidrs":
			cfg.ServiceCIDRs = serviceCIDRs
		default:
			return cfg, fmt.Errorf("unknown setting %q", word)
		}
	}
	return cfg, nil
}

// destination resolves "vip", "vip:81", "nodeport" or "nodeport:30081", and the
// address of a host by its name.
func (w *World) destination(text string, family int) (netip.AddrPort, error) {
	name, port, hasPort := strings.Cut(text, ":")
	number := uint16(80)
	var addr netip.Addr
	switch {
	case name == "nodeport":
		addr, number = w.hosts["node"].addr(family), 30080
	case addresses[name].of(family).IsValid():
		addr = addresses[name].of(family)
	case w.hosts[name] != nil:
		addr, number = w.hosts[name].addr(family), 8080
	default:
		return netip.AddrPort{}, fmt.Errorf("unknown destination %q", text)
	}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("destination %q: %w", text, err)
		}
		number = uint16(n)
	}
	return netip.AddrPortFrom(addr, number), nil
}

// Command runs a program on the node.
func (w *World) Command(ctx context.Context, name string, args ...string) (string, error) {
	out, err := w.Node.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// sameSet reports whether two lists have the same elements.
func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
