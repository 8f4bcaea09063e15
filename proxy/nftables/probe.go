package nftables

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// Probe reports what the machine lacks to run the engine in the process's own
// network namespace, as a [*proxy.UnsupportedError], or nil. It changes nothing:
// the kernel is given all that the engine needs and then told to forget it.
func Probe() error { return probe(Options{}) }

func probe(o Options) error {
	e, err := New(o)
	if err != nil {
		return err
	}
	defer func() { _ = e.Close() }()
	return e.probeFamilies()
}

// probeFamilies finds out which families the kernel can do. IPv4 is required.
func (e *Engine) probeFamilies() error {
	if e.families != nil {
		return nil
	}
	if err := e.try(proxy.IPv4); err != nil {
		return unsupported(err)
	}
	e.families = []proxy.Family{proxy.IPv4}
	if err := e.try(proxy.IPv6); err != nil {
		e.log.Warn("Services have no IPv6 on this node", "error", unsupported(err))
		return nil
	}
	e.families = append(e.families, proxy.IPv6)
	return nil
}

// try has the kernel check all kinds of rules of one family, in a transaction
// without an end.
func (e *Engine) try(family proxy.Family) error {
	m := &batch{table: "sluice-probe"} // ours may be there, with another layout
	m.BeginBatch()
	r := e.rules(family)
	if err := r.define(m); err != nil {
		return err
	}
	if err := r.attach(m); err != nil {
		return err
	}
	for _, c := range []chainSpec{
		{inside: target{proxy.ToCluster, 2}, outside: target{proxy.ToCluster, 2}, sources: true},
		{nodePort: true, inside: target{proxy.ToCluster, 2}, outside: target{proxy.ToLocal, 1}, masquerade: fromNode, affinity: 1},
	} {
		for _, s := range append(c.needs(), c) {
			addChain(m, family, s.verdict(), nil)
			if err := setRules(m, family, s.verdict(), r.frontend(s)); err != nil {
				return err
			}
		}
	}
	return explain(m, e.sock.Try(&m.Messages))
}

// unsupported turns what the kernel says of a missing feature into an error that
// tells what to do. Other errors stay as they are.
func unsupported(err error) error {
	var u *proxy.UnsupportedError
	if err == nil || errors.As(err, &u) {
		return err
	}
	u = &proxy.UnsupportedError{Engine: "nftables", Err: err}
	var refused *batchError
	switch {
	case errors.Is(err, unix.EPERM) && errors.As(err, &refused) && refused.What != whole:
		// Without the capability, the kernel does not look at what is asked.
		return &LockedError{What: refused.What, Err: err}
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		u.Feature, u.Remedy = "the kernel denies access to the packet filter", "run as root, or with the capability CAP_NET_ADMIN in the network namespace"
	case errors.Is(err, unix.EPROTONOSUPPORT):
		u.Feature, u.Remedy = "the kernel has no netfilter netlink", "load the module nfnetlink, or build the kernel with CONFIG_NETFILTER_NETLINK"
	case errors.As(err, &refused) && missing(err):
		u.Feature = "the kernel cannot " + refused.What
		u.Remedy = "load the modules " + modules(refused.What) + ", or use a kernel of version 5.13 or later that has them"
	case errors.Is(err, unix.EINVAL) && errors.As(err, &refused):
		u.Feature = "the kernel has no nf_tables, or one that is too old for " + refused.What
		u.Remedy = "load the module nf_tables, or use a kernel of version 5.13 or later"
	default:
		return err
	}
	return u
}

// LockedError indicates that another program has made a table its own (nft's
// "flags owner"), so that the kernel lets nobody else change it.
type LockedError struct {
	What string // what the kernel refused to do
	Err  error
}

// Error says what is locked and what to do about it.
func (e *LockedError) Error() string {
	return "nftables: cannot " + e.What + ", because another program has locked the table: " + e.Err.Error() +
		`; find it by "nft list tables", which prints its flag owner, and end it: the kernel then removes the table`
}

// Unwrap returns what the kernel said.
func (e *LockedError) Unwrap() error { return e.Err }

// RemovedError indicates that somebody else has removed what a transaction
// builds on: a table of ours, or something in it. The next Sync makes it again.
type RemovedError struct {
	What string // what the kernel did not do therefore
	Err  error
}

// Error says what happened, and that nobody need do anything about it.
func (e *RemovedError) Error() string {
	return "nftables: cannot " + e.What + ": somebody else has removed the table or a part of it, which is made again: " + e.Err.Error()
}

// Unwrap returns what the kernel said.
func (e *RemovedError) Unwrap() error { return e.Err }

// removed tells what the kernel does not find from what it cannot do. The probe
// has found all that it can do, so what it does not find was there before.
func removed(err error) error {
	var refused *batchError
	if errors.Is(err, unix.ENOENT) && errors.As(err, &refused) {
		return &RemovedError{What: refused.What, Err: refused.Err}
	}
	return unsupported(err)
}

// modules names the modules that something needs.
func modules(what string) string {
	switch {
	case strings.HasPrefix(what, "add rule of chain "+chainRefuse):
		return "nft_reject_ipv4 and nft_reject_ipv6"
	case strings.HasPrefix(what, "add rule of chain "+chainServices):
		return "nft_fib_ipv4 and nft_fib_ipv6"
	case strings.HasPrefix(what, "add rule of chain "+chainPostrouting):
		return "nft_masq and nft_ct"
	case strings.HasPrefix(what, "add rule"):
		return "nft_nat, nft_numgen and nft_fib"
	case strings.HasPrefix(what, "add chain"):
		return "nft_chain_nat"
	}
	return "nf_tables"
}

var _ proxy.Engine = (*Engine)(nil)

// whole stands for all of a transaction.
const whole = "transaction"

// batchError is the kernel's refusal of a transaction.
type batchError struct {
	What string // the message that it refused
	Err  error
}

func (e *batchError) Error() string { return "nftables: " + e.What + ": " + e.Err.Error() }

func (e *batchError) Unwrap() error { return e.Err }

// explain adds to the kernel's refusal of a transaction what it refused.
func explain(m *batch, err error) error {
	var r *nfnl.Refused
	if !errors.As(err, &r) {
		return err
	}
	what := whole
	if msg, ok := m.At(r.Sequence); ok {
		what = describe(msg)
	}
	return &batchError{what, r.Errno}
}

// describe says what a message asks for.
func describe(msg nfnl.Message) string {
	names := map[uint16]string{
		unix.NFT_MSG_NEWTABLE: "add table", unix.NFT_MSG_DELTABLE: "delete table",
		unix.NFT_MSG_NEWCHAIN: "add chain", unix.NFT_MSG_DELCHAIN: "delete chain",
		unix.NFT_MSG_NEWRULE: "add rule of chain", unix.NFT_MSG_DELRULE: "flush chain",
		unix.NFT_MSG_NEWSET: "add set", unix.NFT_MSG_DELSET: "delete set",
		unix.NFT_MSG_NEWSETELEM: "add elements of", unix.NFT_MSG_DELSETELEM: "delete elements of",
	}
	if msg.Kind>>8 != unix.NFNL_SUBSYS_NFTABLES {
		return whole
	}
	family := proxy.IPv4
	if msg.Body[0] == unix.NFPROTO_IPV6 {
		family = proxy.IPv6
	}
	kind := msg.Kind & 0xff
	name := uint16(2) // of chains of rules, of sets, of sets of elements
	if kind == unix.NFT_MSG_NEWCHAIN || kind == unix.NFT_MSG_DELCHAIN {
		name = unix.NFTA_CHAIN_NAME
	}
	for k, v := range nfnl.Attributes(msg.Body[4:]) {
		if k == name && len(v) > 1 {
			return fmt.Sprintf("%s %s (%s)", names[kind], v[:len(v)-1], family)
		}
	}
	return names[kind]
}
