package intercept

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// Probe returns what the kernel lacks for interception in the process's own
// network namespace, as a [*proxy.UnsupportedError], or nil. It changes nothing:
// the kernel is given all that is needed and then told to forget it.
func Probe() error {
	t, err := openTable()
	if err != nil {
		return err
	}
	defer t.close()
	return t.try(proxy.IPv4)
}

// try has the kernel check all of a family's table, in a transaction without an
// end.
func (t *table) try(f proxy.Family) error {
	a := internal[f].Addr()
	p := &FamilyPlan{Family: f, Captured: []netip.Addr{a}, UDP: []netip.AddrPort{netip.AddrPortFrom(a, Port), netip.AddrPortFrom(a.Next(), Port)}}
	m := &nfnl.Messages{}
	m.BeginBatch()
	// A table of another layout would be in the way.
	addTable(m, f)
	deleteTable(m, f)
	addTable(m, f)
	for _, s := range append(seatSets(0), commonSets...) {
		s.create(m, f)
	}
	chains := rules{f}.chains(p, 0, nil)
	for _, c := range chains {
		addChain(m, f, c.name)
	}
	for _, c := range chains {
		if err := c.put(m, f); err != nil {
			return err
		}
	}
	return unsupported(explain(m, t.sock.Try(m)))
}

// unsupported turns what the kernel says of a missing feature into an error that
// tells what to do. Other errors stay as they are.
func unsupported(err error) error {
	var u *proxy.UnsupportedError
	if err == nil || errors.As(err, &u) {
		return err
	}
	u = &proxy.UnsupportedError{Engine: "interception of DNS", Err: err}
	var batch *batchError
	switch {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		u.Feature, u.Remedy = "the kernel denies access to the packet filter", "run as root, or with the capability CAP_NET_ADMIN in the network namespace"
	case errors.Is(err, unix.EPROTONOSUPPORT):
		u.Feature, u.Remedy = "the kernel has no netfilter netlink", "load the module nfnetlink, or let clients use an address of dns.listen"
	case errors.As(err, &batch) && (missing(err) || errors.Is(err, unix.EINVAL)):
		u.Feature = "the kernel has no nf_tables that could " + batch.what
		u.Remedy = "load the modules nf_tables, nft_ct, nft_nat, nft_numgen and nft_reject_inet, or let clients use an address of dns.listen"
	default:
		return err
	}
	return u
}

// batchError is the kernel's refusal of a transaction.
type batchError struct {
	what string // the message that it refused
	err  error
}

func (e *batchError) Error() string { return "intercept: " + e.what + ": " + e.err.Error() }

func (e *batchError) Unwrap() error { return e.err }

// explain adds to the kernel's refusal of a transaction what it refused.
func explain(m *nfnl.Messages, err error) error {
	var r *nfnl.Refused
	if !errors.As(err, &r) {
		return err
	}
	e := &batchError{"do a transaction", r.Errno}
	if msg, ok := m.At(r.Sequence); ok && msg.Kind>>8 == unix.NFNL_SUBSYS_NFTABLES {
		e.what = describe(msg)
	}
	return e
}

var verbs = map[uint16]string{
	unix.NFT_MSG_NEWTABLE: "add table", unix.NFT_MSG_DELTABLE: "delete table",
	unix.NFT_MSG_NEWCHAIN: "add chain", unix.NFT_MSG_DELCHAIN: "delete chain",
	unix.NFT_MSG_NEWRULE: "add rule of chain", unix.NFT_MSG_DELRULE: "flush chain",
	unix.NFT_MSG_NEWSET: "add set", unix.NFT_MSG_DELSET: "delete set",
	unix.NFT_MSG_NEWSETELEM: "add elements of", unix.NFT_MSG_DELSETELEM: "delete elements of",
}

// describe says what a message asks for.
func describe(msg nfnl.Message) string {
	kind, name := msg.Kind&0xff, uint16(2) // of chains of rules, of sets, of sets of elements
	if kind == unix.NFT_MSG_NEWCHAIN || kind == unix.NFT_MSG_DELCHAIN {
		name = unix.NFTA_CHAIN_NAME
	}
	family := proxy.IPv4
	if msg.Body[0] == unix.NFPROTO_IPV6 {
		family = proxy.IPv6
	}
	for k, v := range nfnl.Attributes(msg.Body[4:]) {
		if k == name && len(v) > 1 {
			return fmt.Sprintf("%s %s (%s)", verbs[kind], v[:len(v)-1], family)
		}
	}
	return verbs[kind]
}
