package nftables

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
)

// Probe reports what the machine lacks to run the engine, as a
// [*proxy.UnsupportedError], or nil. It changes nothing: the kernel is given all
// that the engine needs and then told to forget it.
func Probe(o Options) error {
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
	m := &messages{}
	m.batchBegin()
	// A table of another layout would be in the way.
	addTable(m, family)
	deleteTable(m, family)
	r := e.rules(family)
	if err := r.define(m); err != nil {
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
	return e.sock.try(m)
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
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		u.Feature, u.Remedy = "the kernel denies access to the packet filter", "run as root, or with the capability CAP_NET_ADMIN in the network namespace"
	case errors.Is(err, unix.EPROTONOSUPPORT):
		u.Feature, u.Remedy = "the kernel has no netfilter netlink", "load the module nfnetlink, or build the kernel with CONFIG_NETFILTER_NETLINK"
	case errors.As(err, &refused) && (refused.Errno == unix.ENOENT || refused.Errno == unix.EOPNOTSUPP || refused.Errno == unix.EAFNOSUPPORT):
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

// try sends a transaction without its end, so that the kernel checks it and then
// forgets it.
func (s *socket) try(m *messages) error {
	end := len(m.buf)
	m.batchEnd()
	m.buf = m.buf[:end]
	return s.exchange(m)
}

var _ proxy.Engine = (*Engine)(nil)
