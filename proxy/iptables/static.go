package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/proxy"
)

// from matches a source network.
func from(p netip.Prefix) string {
	if p.Bits() == 0 {
		return "" // as iptables-save prints it
	}
	return "-s " + p.Masked().String() + " "
}

func to(p netip.Prefix) string {
	if p.Bits() == 0 {
		return ""
	}
	return "-d " + p.Masked().String() + " "
}

func (r *renderer) own(prefixes []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return proxy.FamilyOf(p.Addr()) != r.family })
}

// pods returns what matches connections from Pods, each with a space at its end.
func (r *renderer) pods() []string {
	var out []string
	for _, p := range r.own(r.node.Pods) {
		out = append(out, from(p))
	}
	for _, i := range r.node.PodInterfaces {
		if name, ok := strings.CutSuffix(i, "*"); ok {
			i = name + "+"
		}
		out = append(out, "-i "+i+" ")
	}
	return out
}

// loopback is the loopback addresses.
func (r *renderer) loopback() netip.Prefix {
	if r.family == proxy.IPv6 {
		return netip.MustParsePrefix("::1/128")
	}
	return netip.MustParsePrefix("127.0.0.0/8")
}

// sets are the chains that members are put into, and that are there without any.
var sets = [...]ref{{nat, chainAddresses}, {nat, chainNodePorts}, {filter, chainAddresses}, {filter, chainNodePorts}, {filter, chainHealth}}

// dropInvalid drops what connection tracking cannot place.
const dropInvalid = "-m conntrack --ctstate INVALID -j DROP"

// static returns the chains that depend on the node alone.
func (r *renderer) static() map[ref][]string {
	localDestination := func() []string {
		rules := []string{to(r.loopback()) + "-j RETURN"}
		only := r.own(r.node.NodePorts)
		if len(only) == 0 {
			return append(rules, "-m addrtype --dst-type LOCAL -j "+chainNodePorts)
		}
		for _, p := range only {
			rules = append(rules, to(p)+"-m addrtype --dst-type LOCAL -j "+chainNodePorts)
		}
		return rules
	}
	mark := fmt.Sprintf("%#x/%#x", r.mark, r.mark)
	var masquerade []string
	for _, pod := range r.pods() {
		masquerade = append(masquerade, pod+"-j RETURN")
	}
	postrouting := "-j MASQUERADE"
	if r.randomFully {
		postrouting += " --random-fully"
	}
	unreachable := "icmp-port-unreachable"
	if r.family == proxy.IPv6 {
		unreachable = "icmp6-port-unreachable"
	}
	// Not what has passed here before, such as a SYN that is sent again: an engine
	// that translates in a way that connection tracking does not show, which is
	// IPVS, serves it until it leaves. What is refused never gets that far.
	const fresh = "-m conntrack --ctstate NEW ! --ctstatus CONFIRMED -j " + chainFirewall
	firewall := append([]string{"-m conntrack --ctstate DNAT -j RETURN", "-j " + chainAddresses}, func() []string {
		var rules []string
		for _, p := range r.own(r.node.ServiceCIDRs) {
			rules = append(rules, to(p)+"-j DROP")
		}
		return rules
	}()...)
	forward := []string{
		fresh,
		// What a firewall of the node forwards by default is not ours to say,
		// but connections of Services must pass.
		"-m mark --mark " + mark + " -j ACCEPT",
		"-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
	}
	if !r.keepInvalid {
		forward = slices.Insert(forward, 0, dropInvalid)
	}
	return map[ref][]string{
		{nat, chainServices}:   append([]string{"-j " + chainAddresses}, localDestination()...),
		{nat, chainMasquerade}: append(masquerade, "-j MARK --set-xmark "+mark),
		{nat, chainPostrouting}: {
			"-m mark ! --mark " + mark + " -j RETURN",
			fmt.Sprintf("-j MARK --set-xmark %#x/0x0", r.mark),
			postrouting,
		},
		{filter, chainInput}:    {fresh, "-p tcp -j " + chainHealth},
		{filter, chainOutput}:   {fresh},
		{filter, chainForward}:  forward,
		{filter, chainFirewall}: append(firewall, localDestination()...),
		// TCP gets a reset: of ICMP errors the kernel sends a peer about one a second.
		{filter, chainReject}: {"-p tcp -j REJECT --reject-with tcp-reset", "-j REJECT --reject-with " + unreachable},
	}
}
