package proxy

import (
	"fmt"
	"net/netip"
	"slices"
)

// NodePortAddresses says which of a node's own addresses answer NodePorts, by
// kube-proxy's rules for nodePortAddresses (KEP-6032). The zero value stands for
// all that are not loopback. Prefixes restrict their own family alone: one that
// has none is not restricted by those of the other.
type NodePortAddresses struct {
	// All are the addresses other than loopback, which has to be asked for on
	// its own.
	All bool
	// Primary are the first addresses of the Node object, one a family. A family
	// in which the node has none is not answered.
	Primary bool
	// Localhost are 127.0.0.1 and ::1.
	Localhost bool
	// None are no addresses, unless others are named.
	None  bool
	CIDRs []netip.Prefix
}

// ParseNodePortAddresses reads a list of the words "all", "primary",
// "localhost" and "none" and of prefixes, in any mixture. A prefix of loopback addresses
// stands for "localhost"; one of all addresses does not include it.
func ParseNodePortAddresses(list []string) (NodePortAddresses, error) {
	var out NodePortAddresses
	for i, text := range list {
		switch text {
		case "all":
			out.All = true
		case "primary":
			out.Primary = true
		case "localhost":
			out.Localhost = true
		case "none":
			out.None = true
		default:
			prefix, err := netip.ParsePrefix(text)
			if err != nil || prefix.Addr().Is4In6() {
				return NodePortAddresses{}, fmt.Errorf(`nodePortAddresses[%d]: expected a prefix such as 10.0.0.0/8, or "primary", "localhost", "all" or "none", found %q`, i, text)
			}
			out.CIDRs = append(out.CIDRs, prefix.Masked())
		}
	}
	return out, nil
}

// nobody is a prefix of each family that no packet is sent to, for a family
// in which no address answers.
var nobody = map[Family]netip.Prefix{
	IPv4: netip.MustParsePrefix("0.0.0.0/32"),
	IPv6: netip.MustParsePrefix("::/128"),
}

// loopback reports whether a prefix has loopback addresses alone.
func loopback(p netip.Prefix) bool {
	return p.Addr().IsLoopback() && (p.Bits() >= 8 && p.Addr().Is4() || p.IsSingleIP())
}

// resolve returns what [Node.NodePorts] and [Node.Localhost] have for a node of
// these addresses.
func (a NodePortAddresses) resolve(node []netip.Addr) (prefixes []netip.Prefix, localhost bool) {
	localhost = a.Localhost || slices.ContainsFunc(a.CIDRs, loopback)
	if a.All || !a.Primary && !a.Localhost && !a.None && len(a.CIDRs) == 0 {
		return nil, localhost
	}
	for _, family := range [...]Family{IPv4, IPv6} {
		restricted, before := a.Primary || a.Localhost || a.None, len(prefixes)
		for _, p := range a.CIDRs {
			if FamilyOf(p.Addr()) == family {
				restricted = true
				if !loopback(p) {
					prefixes = append(prefixes, p)
				}
			}
		}
		if i := slices.IndexFunc(node, func(n netip.Addr) bool { return FamilyOf(n) == family }); a.Primary && i >= 0 {
			prefixes = append(prefixes, netip.PrefixFrom(node[i], node[i].BitLen()))
		}
		if restricted && len(prefixes) == before {
			prefixes = append(prefixes, nobody[family])
		}
	}
	return prefixes, localhost
}
