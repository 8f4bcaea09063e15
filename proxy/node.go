package proxy

import (
	"net/netip"
	"slices"

	"github.com/sluicenet/sluice/model"
)

// DetectLocal says how connections of Pods are told from others, with the names
// of KubeProxyConfiguration's detectLocalMode.
type DetectLocal string

// The ways to tell. The empty one is DetectClusterCIDR.
const (
	// DetectClusterCIDR goes by the networks of all Pods, or, where these are
	// not configured, by those of this node's.
	DetectClusterCIDR DetectLocal = "ClusterCIDR"
	// DetectNodeCIDR goes by the networks in the Node object.
	DetectNodeCIDR DetectLocal = "NodeCIDR"
	// DetectBridgeInterface goes by the name of the interface that a connection
	// comes in by.
	DetectBridgeInterface DetectLocal = "BridgeInterface"
	// DetectInterfaceNamePrefix goes by the beginning of that name.
	DetectInterfaceNamePrefix DetectLocal = "InterfaceNamePrefix"
)

// node returns what the plan needs to know of its node. A Node object that is
// gone for a moment changes nothing.
func (p *Planner) node(up model.Update) Node {
	snap, node := up.New, p.plan.Node
	if slices.ContainsFunc(up.Changed, func(k model.Key) bool { return k.Kind == model.KindServiceCIDR }) {
		node.ServiceCIDRs = slices.Clone(p.cfg.ServiceCIDRs)
		for s := range model.ServiceCIDRs.All(snap) {
			for _, c := range s.CIDRs {
				if !slices.Contains(node.ServiceCIDRs, c) {
					node.ServiceCIDRs = append(node.ServiceCIDRs, c)
				}
			}
		}
	}
	if n, ok := model.Nodes.Get(snap, "", p.cfg.Node); ok {
		node.Zone = n.Zone()
		node.Addrs = append(slices.Clone(n.InternalIPs), n.ExternalIPs...)
		switch {
		case p.cfg.byInterface():
		case p.cfg.DetectLocal == DetectNodeCIDR || len(p.cfg.ClusterCIDRs) == 0:
			node.Pods = n.PodCIDRs
		}
	}
	node.NodePorts, node.Localhost = p.cfg.NodePorts.resolve(node.Addrs)
	return node
}

// byInterface reports whether Pods are told by their interfaces.
func (c *Config) byInterface() bool {
	return c.DetectLocal == DetectBridgeInterface || c.DetectLocal == DetectInterfaceNamePrefix
}

// firstNode returns what is known of the node before its object is.
func (c *Config) firstNode() Node {
	node := Node{Name: c.Node, ServiceCIDRs: slices.Clone(c.ServiceCIDRs)}
	switch {
	case c.DetectLocal == DetectBridgeInterface:
		node.PodInterfaces = slices.Clone(c.PodInterfaces)
	case c.DetectLocal == DetectInterfaceNamePrefix:
		for _, prefix := range c.PodInterfaces {
			node.PodInterfaces = append(node.PodInterfaces, prefix+"*")
		}
	case c.DetectLocal != DetectNodeCIDR:
		node.Pods = c.ClusterCIDRs
	}
	node.NodePorts, node.Localhost = c.NodePorts.resolve(nil)
	return node
}

// podsOf returns the Pods' networks of a family.
func (n *Node) podsOf(family Family) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range n.Pods {
		if FamilyOf(p.Addr()) == family {
			out = append(out, p)
		}
	}
	return out
}

// KnowsPods reports whether connections of Pods can be told from others in a
// family: by their networks, or by their interfaces. Where they cannot, no
// connection to a ClusterIP is masqueraded for its source.
func (n *Node) KnowsPods(family Family) bool {
	return len(n.PodInterfaces) > 0 || len(n.podsOf(family)) > 0
}
