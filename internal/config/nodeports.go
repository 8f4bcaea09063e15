package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// complete fills in what follows from several settings together, once all of them
// have been read.
//
// kube-proxy's mode iptables alone answers NodePorts on loopback where nothing is
// said, and has a switch for it; it is the mode of a kube-proxy that is told none.
func (p *Proxy) complete() {
	on := p.LocalhostNodePorts
	switch {
	case p.Mode != "iptables" && (p.Mode != "auto" || on == nil):
	case on != nil || len(p.NodePortAddresses) == 0:
		p.NodePortAddresses = IPTablesNodePorts(p.NodePortAddresses, on)
	}
}

// IPTablesNodePorts returns the addresses that answer NodePorts, for what the
// mode iptables of a kube-proxy is told by nodePortAddresses and by
// iptables.localhostNodePorts, which is on where it is nil. Addresses of loopback
// answer if the list has them, as an empty one and 0.0.0.0/0 do, and the switch is
// on. Where the switch takes all from a family, nothing answers in it.
func IPTablesNodePorts(list []string, localhost *bool) []string {
	if localhost != nil && !*localhost {
		return withoutLoopback(list)
	}
	out := slices.Clone(list)
	if len(out) == 0 {
		out = []string{"all"}
	}
	everywhere := slices.ContainsFunc(out, func(a string) bool {
		prefix, err := netip.ParsePrefix(a)
		return err == nil && prefix.Bits() == 0 && prefix.Addr().Is4()
	})
	// The word all does not have loopback in it, unless the switch is there.
	if all := slices.Contains(out, "all") && (len(list) == 0 || localhost != nil); (everywhere || all) && !slices.Contains(out, "localhost") {
		out = append(out, "localhost")
	}
	return out
}

// withoutLoopback takes loopback from a list. What is left must not say more than
// before: a list without a range of a family leaves that family open.
func withoutLoopback(list []string) []string {
	if len(list) == 0 {
		return []string{"all"}
	}
	var out []string
	var taken, left [2]bool // by family: IPv4, IPv6
	for _, a := range list {
		prefix, err := netip.ParsePrefix(a)
		family := 0
		if prefix.Addr().Is6() {
			family = 1
		}
		switch {
		case a == "localhost":
			taken = [2]bool{true, true}
			continue
		case err != nil:
			left = [2]bool{true, true} // the other words are for both families
		case prefix.Addr().IsLoopback() && (prefix.Bits() >= 8 && family == 0 || prefix.IsSingleIP()):
			taken[family] = true
			continue
		default:
			left[family] = true
		}
		out = append(out, a)
	}
	if taken[0] && !left[0] || taken[1] && !left[1] {
		out = append(out, "none")
	}
	return out
}

// boolPointer is a switch that may be left alone.
type boolPointer struct{ to **bool }

// Type implements [pflag.Value].
func (b boolPointer) Type() string { return "bool" }

// String implements [pflag.Value].
func (b boolPointer) String() string {
	return strconv.FormatBool(b.to == nil || *b.to == nil || **b.to)
}

// Set implements [pflag.Value].
func (b boolPointer) Set(s string) error {
	on, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("expected true or false, found %q", s)
	}
	*b.to = &on
	return nil
}
