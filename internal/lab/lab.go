package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Options says what a lab looks like; the zero value is the one that is drawn in
// the package's documentation.
type Options struct {
	// NodeNetworks are the networks of the nodes, one a family; the router has
	// the first address of each, and nodes have .11 (::11), .12 and so on.
	// Default 10.240.0.0/24 and fd00:10:240::/64.
	NodeNetworks []netip.Prefix
	// ClientNetworks are those of the clients, likewise. Default 10.250.0.0/24
	// and fd00:10:250::/64.
	ClientNetworks []netip.Prefix
}

// Lab is a set of machines. Its methods may be called from several goroutines.
type Lab struct {
	home   netns.NsHandle // of the process, for threads to return to
	router *Namespace
	nodes  segment
	outer  segment

	mu sync.Mutex // guards all
	// all holds every namespace in the order of making.
	all     []*Namespace
	byName  map[string]*Namespace
	nodeOf  map[string]*Node
	ordered []*Node
	ports   int
}

// segment is one network of the router: a bridge with its addresses.
type segment struct {
	bridge   string
	networks []netip.Prefix
	used     int
}

// New makes a lab with its router, and no nodes yet. It fails with an
// [*UnsupportedError] where the kernel forbids it; [Enter] is then missing, or
// has said so already.
func New(options Options) (*Lab, error) {
	// Not /proc/self, which is the first thread: a namespace may live on that.
	home, err := netns.GetFromPath("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if options.NodeNetworks == nil {
		options.NodeNetworks = prefixes("10.240.0.0/24", "fd00:10:240::/64")
	}
	if options.ClientNetworks == nil {
		options.ClientNetworks = prefixes("10.250.0.0/24", "fd00:10:250::/64")
	}
	l := &Lab{
		home:   home,
		nodes:  segment{bridge: "nodes", networks: options.NodeNetworks},
		outer:  segment{bridge: "clients", networks: options.ClientNetworks},
		byName: map[string]*Namespace{},
		nodeOf: map[string]*Node{},
	}
	if err := l.makeRouter(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// makeRouter makes the namespace that joins the nodes' and the clients' networks.
func (l *Lab) makeRouter() error {
	router, err := l.add("router")
	if err != nil {
		return err
	}
	l.router = router
	if err := router.forward(); err != nil {
		return err
	}
	for _, s := range []*segment{&l.nodes, &l.outer} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = s.bridge
		// Neighbour discovery is multicast, which snooping would delay.
		snooping := false
		if err := router.link.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
			return fmt.Errorf("lab: bridge %s: %w", s.bridge, err)
		}
		for _, network := range s.networks {
			if err := router.address(s.bridge, netip.PrefixFrom(nth(network, 1), network.Bits())); err != nil {
				return err
			}
		}
		if err := router.up(s.bridge); err != nil {
			return err
		}
	}
	return nil
}

// Close ends every process of the lab and gives up its namespaces.
func (l *Lab) Close() {
	l.mu.Lock()
	all := l.all
	l.all = nil
	l.mu.Unlock()
	for _, n := range slices.Backward(all) {
		n.close()
	}
	_ = l.home.Close()
}

// Router is the namespace between the nodes and the clients. Routes added to it
// stand for what a data centre's routers announce, such as load-balancer addresses.
func (l *Lab) Router() *Namespace { return l.router }

// Namespace finds a node, pod or client by its name, or nil. Pods are known as
// node/pod.
func (l *Lab) Namespace(name string) *Namespace {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byName[name]
}

// add makes a namespace with the settings that all have.
func (l *Lab) add(name string) (*Namespace, error) {
	l.mu.Lock()
	_, taken := l.byName[name]
	l.mu.Unlock()
	if taken {
		return nil, fmt.Errorf("lab: there is a %s already", name)
	}
	n, err := newNamespace(l, name)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.all = append(l.all, n)
	l.byName[name] = n
	l.mu.Unlock()
	for _, s := range []struct{ name, value string }{
		// Addresses must be usable at once, without a second of detection.
		{"net/ipv6/conf/all/disable_ipv6", "0"},
		{"net/ipv6/conf/default/disable_ipv6", "0"},
		{"net/ipv6/conf/all/accept_dad", "0"},
		{"net/ipv6/conf/default/accept_dad", "0"},
		{"net/ipv6/conf/default/router_solicitations", "0"},
		{"net/ipv4/conf/all/rp_filter", "0"},
		{"net/ipv4/conf/default/rp_filter", "0"},
	} {
		if err := n.Sysctl(s.name, s.value); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// plug joins a namespace to a segment of the router as eth0, with the next
// address of each family and a default route.
func (l *Lab) plug(n *Namespace, s *segment) ([]netip.Addr, error) {
	l.mu.Lock()
	s.used++
	index := 10 + s.used
	l.ports++
	port := fmt.Sprintf("port%d", l.ports)
	l.mu.Unlock()

	if err := l.router.veth(port, n); err != nil {
		return nil, err
	}
	bridge, err := l.router.link.LinkByName(s.bridge)
	if err != nil {
		return nil, fmt.Errorf("lab: bridge %s: %w", s.bridge, err)
	}
	attached, err := l.router.link.LinkByName(port)
	if err != nil {
		return nil, fmt.Errorf("lab: %s: %w", port, err)
	}
	if err := l.router.link.LinkSetMaster(attached, bridge); err != nil {
		return nil, fmt.Errorf("lab: plug %s into %s: %w", n.name, s.bridge, err)
	}
	if err := l.router.up(port); err != nil {
		return nil, err
	}
	if err := n.up("eth0"); err != nil {
		return nil, err
	}
	for _, end := range []struct {
		ns   *Namespace
		link string
	}{{l.router, port}, {l.router, s.bridge}, {n, "eth0"}} {
		if err := end.ns.ready(end.link); err != nil {
			return nil, err
		}
	}
	var addrs []netip.Addr
	for _, network := range s.networks {
		// .11 and ::11: the index in the digits that people read.
		addr := nth(network, index)
		if addr.Is6() {
			addr = nth(network, index/10*16+index%10)
		}
		if err := n.address("eth0", netip.PrefixFrom(addr, network.Bits())); err != nil {
			return nil, err
		}
		if err := n.Route(defaultRoute(addr), nth(network, 1)); err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// Client is a machine outside the cluster: it reaches nodes by the router, and
// knows no route to pods or Services.
type Client struct {
	*Namespace
	addrs []netip.Addr
}

// IPv4 is the client's IPv4 address.
func (c *Client) IPv4() netip.Addr { return first(c.addrs, netip.Addr.Is4) }

// IPv6 is the client's IPv6 address.
func (c *Client) IPv6() netip.Addr { return first(c.addrs, netip.Addr.Is6) }

// Client makes a client.
func (l *Lab) Client(name string) (*Client, error) {
	n, err := l.add(name)
	if err != nil {
		return nil, err
	}
	addrs, err := l.plug(n, &l.outer)
	if err != nil {
		return nil, err
	}
	return &Client{Namespace: n, addrs: addrs}, nil
}

func prefixes(text ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range text {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// nth is the address at an offset of at most 65,535 in a network whose last two
// bytes are its own.
func nth(network netip.Prefix, offset int) netip.Addr {
	b := network.Masked().Addr().AsSlice()
	low := int(b[len(b)-2])<<8 + int(b[len(b)-1]) + offset
	b[len(b)-2], b[len(b)-1] = byte(low>>8), byte(low)
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func first(addrs []netip.Addr, is func(netip.Addr) bool) netip.Addr {
	for _, a := range addrs {
		if is(a) {
			return a
		}
	}
	return netip.Addr{}
}

// family is the netlink family of an address.
func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
