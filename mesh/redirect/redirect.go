// Package redirect makes the packet rules of a Pod that has a sidecar: what the
// Pod opens goes to the sidecar's outbound port, what comes in to its inbound
// port. Only TCP is redirected.
//
// The rules are one nftables table in the Pod's network namespace, written by
// native netlink in one transaction, so they can be applied again at any time.
package redirect

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/mesh"
	"github.com/sluicenet/sluice/route"
)

// TableName is the name of the table, of family inet.
const TableName = "sluice-redirect"

// Config says what is redirected where. The zero value is the usual.
type Config struct {
	OutboundPort uint16 // 0: [mesh.OutboundPort]
	InboundPort  uint16 // 0: [mesh.InboundPort]
	// ProxyUID is the user whose connections are the sidecar's own; 0:
	// [mesh.ProxyUID].
	ProxyUID uint32
	// ProxyMark, if set, is the packet mark that tells the sidecar's own
	// connections instead, where there is only one user.
	ProxyMark uint32
	// ExcludeInboundPorts are ports of the Pod that are reached directly,
	// besides the sidecar's own for health and metrics.
	ExcludeInboundPorts []uint16
	// ExcludeOutboundPorts are ports everywhere that the Pod reaches
	// directly, besides the control plane's.
	ExcludeOutboundPorts []uint16
	// ExcludeOutbound are addresses that the Pod reaches directly.
	ExcludeOutbound []netip.Prefix
}

// sidecarPorts are a sidecar's metrics and health.
var sidecarPorts = []uint16{15020, mesh.HealthPort, 15090}

// chain is one base chain, as data.
type chain struct {
	name  string
	hook  string
	rules []rule
}

// rule does its action to packets of TCP for which all of match holds.
type rule struct {
	match  []match
	action action
}

type action struct{ redirect uint16 } // 0: return

// plan is the whole table: a pure function of the configuration. The order of
// rules is that of Istio's, which the same applications are used to.
func (c Config) plan() []chain {
	var own match = skuid(cmp.Or(c.ProxyUID, mesh.ProxyUID))
	if c.ProxyMark != 0 {
		own = mark(c.ProxyMark)
	}
	out := action{cmp.Or(c.OutboundPort, mesh.OutboundPort)}
	in := action{cmp.Or(c.InboundPort, mesh.InboundPort)}
	pass := action{}

	inbound := chain{name: "inbound", hook: "prerouting"}
	inbound.add(pass, loopback("iif"))
	outbound := chain{name: "outbound", hook: "output"}
	// From the sidecar to its own application.
	outbound.add(pass, loopback("oif"), address{"saddr", netip.PrefixFrom(route.InboundSource4, 32), false})
	outbound.add(pass, loopback("oif"), address{"saddr", netip.PrefixFrom(route.InboundSource6, 128), false})
	for _, port := range ports(sidecarPorts, c.ExcludeInboundPorts) {
		inbound.add(pass, dport(port))
		outbound.add(pass, loopback("oif"), dport(port))
	}
	inbound.add(in)
	// The application called its own Service, and the sidecar chose this Pod:
	// the connection comes in like any other.
	outbound.add(in, loopback("oif"), address{"daddr", loopback4, true}, own)
	outbound.add(in, loopback("oif"), address{"daddr", loopback6, true}, own)
	// Within the Pod, and from the sidecar to elsewhere.
	outbound.add(pass, loopback("oif"))
	outbound.add(pass, own)
	for _, port := range ports([]uint16{mesh.ControlPlanePort}, c.ExcludeOutboundPorts) {
		outbound.add(pass, dport(port))
	}
	for _, p := range c.ExcludeOutbound {
		outbound.add(pass, address{"daddr", p.Masked(), false})
	}
	outbound.add(out)
	return []chain{inbound, outbound}
}

var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
)

func (c *chain) add(a action, m ...match) { c.rules = append(c.rules, rule{m, a}) }

func ports(own, more []uint16) []uint16 {
	all := slices.Concat(own, more)
	slices.Sort(all)
	return slices.Compact(all)
}

// String returns the table in the language of nft.
func (c Config) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", TableName)
	for _, ch := range c.plan() {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype nat hook %s priority -100; policy accept;\n\t\tmeta l4proto != tcp return\n", ch.name, ch.hook)
		for _, r := range ch.rules {
			b.WriteString("\t\t")
			for _, m := range r.match {
				b.WriteString(m.String() + " ")
			}
			if r.action.redirect != 0 {
				// nft wants to see that it is a port of TCP.
				fmt.Fprintf(&b, "meta l4proto tcp redirect to :%d\n", r.action.redirect)
			} else {
				b.WriteString("return\n")
			}
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// Apply makes the rules in a network namespace, given by a file descriptor, or
// this one's if netns is 0. Connections that are open stay as they are.
func Apply(c Config, netns int) error {
	return transact("apply", netns, func(conn *nftables.Conn) {
		// Deleting a table that is not there is an error, so it is made
		// before; all of it is one transaction.
		table := &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
		conn.AddTable(table)
		conn.DelTable(table)
		conn.AddTable(table)
		for _, ch := range c.plan() {
			ch.write(conn, table)
		}
	})
}

// Cleanup removes the rules, if there are any.
func Cleanup(netns int) error {
	return transact("clean up", netns, func(conn *nftables.Conn) {
		table := &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
		conn.AddTable(table)
		conn.DelTable(table)
	})
}

func transact(op string, netns int, f func(*nftables.Conn)) error {
	var opts []nftables.ConnOption
	if netns != 0 {
		opts = append(opts, nftables.WithNetNSFd(netns))
	}
	conn, err := nftables.New(opts...)
	if err != nil {
		return &Error{Op: op, Remedy: remedy(err), Err: err}
	}
	f(conn)
	if err := conn.Flush(); err != nil {
		return &Error{Op: op, Remedy: remedy(err), Err: err}
	}
	return nil
}

// Error says why the rules could not be written and what helps.
type Error struct {
	Op     string
	Remedy string // empty if none is known
	Err    error
}

// Error implements error.
func (e *Error) Error() string {
	s := "redirect: " + e.Op + ": " + e.Err.Error()
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func remedy(err error) string {
	switch {
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.EPERM):
		return "it needs the capability NET_ADMIN in the Pod's network namespace"
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.ENOENT):
		return "it needs Linux 5.2 or newer with nf_tables, nft_redir and NAT of the family inet (CONFIG_NF_TABLES_INET, CONFIG_NFT_REDIR)"
	}
	return ""
}
