package lab

import (
	"errors"
	"fmt"
	"net/netip"
)

// podGateways are the node's addresses on every pod's cable: the pods' default
// gateways. They are link-local, so each cable can have the same.
var podGateways = prefixes("169.254.1.1/32", "fe80::1/64")

// Node is a machine of the cluster: it forwards between its pods and the router.
type Node struct {
	*Namespace
	addrs    []netip.Addr
	podCIDRs []netip.Prefix
	pods     int
	next     int
}

// IPv4 is the node's IPv4 address.
func (n *Node) IPv4() netip.Addr { return first(n.addrs, netip.Addr.Is4) }

// IPv6 is the node's IPv6 address.
func (n *Node) IPv6() netip.Addr { return first(n.addrs, netip.Addr.Is6) }

// Addrs are the node's addresses, one a family.
func (n *Node) Addrs() []netip.Addr { return n.addrs }

// PodCIDRs are the networks of the node's pods, one a family.
func (n *Node) PodCIDRs() []netip.Prefix { return n.podCIDRs }

// Node makes a node, or returns the one of that name. Without podCIDRs, the pods
// of the n-th node are in 10.244.n.0/24 and fd00:10:244:n::/64.
func (l *Lab) Node(name string, podCIDRs ...netip.Prefix) (*Node, error) {
	l.mu.Lock()
	if node := l.nodeOf[name]; node != nil {
		l.mu.Unlock()
		return node, nil
	}
	index := len(l.ordered) + 1
	l.mu.Unlock()
	if len(podCIDRs) == 0 {
		podCIDRs = prefixes(fmt.Sprintf("10.244.%d.0/24", index), fmt.Sprintf("fd00:10:244:%x::/64", index))
	}
	ns, err := l.add(name)
	if err != nil {
		return nil, err
	}
	node := &Node{Namespace: ns, podCIDRs: podCIDRs, next: 10}
	if err := node.forward(); err != nil {
		return nil, err
	}
	if node.addrs, err = l.plug(ns, &l.nodes); err != nil {
		return nil, err
	}
	l.mu.Lock()
	others := append([]*Node(nil), l.ordered...)
	l.ordered = append(l.ordered, node)
	l.nodeOf[name] = node
	l.mu.Unlock()
	for _, other := range others {
		for _, cidr := range other.podCIDRs {
			if err := node.Route(cidr, sameFamily(other.addrs, cidr.Addr())); err != nil {
				return nil, err
			}
		}
		for _, cidr := range podCIDRs {
			if err := other.Route(cidr, sameFamily(node.addrs, cidr.Addr())); err != nil {
				return nil, err
			}
		}
	}
	return node, nil
}

// Pod is a network namespace behind a node.
type Pod struct {
	*Namespace
	node  *Node
	addrs []netip.Addr
}

// Node is the node that the pod runs on.
func (p *Pod) Node() *Node { return p.node }

// IPv4 is the pod's IPv4 address.
func (p *Pod) IPv4() netip.Addr { return first(p.addrs, netip.Addr.Is4) }

// IPv6 is the pod's IPv6 address.
func (p *Pod) IPv6() netip.Addr { return first(p.addrs, netip.Addr.Is6) }

// Addrs are the pod's addresses.
func (p *Pod) Addrs() []netip.Addr { return p.addrs }

// Pod makes a pod. Without addresses it gets the next one of each of the node's
// pod networks; addresses outside of these are routed from all nodes that exist.
func (n *Node) Pod(name string, addrs ...netip.Addr) (*Pod, error) {
	l := n.lab
	l.mu.Lock()
	n.pods++
	link := fmt.Sprintf("pod%d", n.pods)
	if len(addrs) == 0 {
		for _, cidr := range n.podCIDRs {
			addrs = append(addrs, nth(cidr, n.next))
		}
		n.next++
	}
	nodes := append([]*Node(nil), l.ordered...)
	l.mu.Unlock()

	ns, err := l.add(n.name + "/" + name)
	if err != nil {
		return nil, err
	}
	ns.name = name
	if err := n.veth(link, ns); err != nil {
		return nil, err
	}
	for _, gateway := range podGateways {
		if err := n.address(link, gateway); err != nil {
			return nil, err
		}
	}
	if err := n.up(link); err != nil {
		return nil, err
	}
	if err := ns.up("eth0"); err != nil {
		return nil, err
	}
	if err := errors.Join(n.ready(link), ns.ready("eth0")); err != nil {
		return nil, err
	}
	for _, addr := range addrs {
		if err := n.connect(ns, link, addr); err != nil {
			return nil, err
		}
		for _, other := range nodes {
			if other == n || n.routes(addr) {
				continue
			}
			if err := other.Route(host(addr), sameFamily(n.addrs, addr)); err != nil {
				return nil, err
			}
		}
	}
	return &Pod{Namespace: ns, node: n, addrs: addrs}, nil
}

// connect gives a pod an address and the routes to and from its node.
func (n *Node) connect(pod *Namespace, link string, addr netip.Addr) error {
	if err := pod.address("eth0", host(addr)); err != nil {
		return err
	}
	gateway := sameFamily([]netip.Addr{podGateways[0].Addr(), podGateways[1].Addr()}, addr)
	if err := pod.routeDev(host(gateway), "eth0", addr); err != nil {
		return err
	}
	if err := pod.routeVia(defaultRoute(addr), gateway, "eth0"); err != nil {
		return err
	}
	return n.routeDev(host(addr), link, sameFamily(n.addrs, addr))
}

// routes says whether an address is in the node's own pod networks.
func (n *Node) routes(addr netip.Addr) bool {
	for _, cidr := range n.podCIDRs {
		if cidr.Contains(addr) {
			return true
		}
	}
	return false
}

func sameFamily(addrs []netip.Addr, as netip.Addr) netip.Addr {
	return first(addrs, func(a netip.Addr) bool { return a.Is4() == as.Is4() })
}
