package ipvs

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// Options of [New]. The zero value programs the namespace that the process is in.
type Options struct {
	// NetNS is a descriptor of the network namespace to program; 0: the
	// process's. It is needed during New only.
	NetNS int
	// MasqueradeMark is the bit of the packet mark for what postrouting is to
	// masquerade; 0: 0x4000, kube-proxy's default.
	MasqueradeMark uint32
	// Marks are the bits of the packet mark that tell virtual servers apart, two
	// for each NodePort at most; 0: 0x3fff. The first packet of a connection to
	// such a server has no other bits while it is on its way to the server.
	Marks uint32
	// Scheduler is that of Services which ask for none; empty: rr. Where weights
	// differ, rr and lc become wrr and wlc.
	Scheduler string
	// StrictARP keeps the machine from answering ARP for addresses that it has
	// on another interface, such as those of load balancers.
	StrictARP bool
	// ExcludeCIDRs are networks whose virtual servers are never deleted, because
	// they are somebody else's.
	ExcludeCIDRs []netip.Prefix
	// DrainTimeout is how long a destination that was taken away may keep its
	// connections; 0: 15 minutes, negative: not at all. It may keep them for
	// longer as long as its endpoint says that it serves.
	DrainTimeout time.Duration
	// Timeouts of connections that are silent; 0: as the kernel has them.
	TCPTimeout, TCPFinTimeout, UDPTimeout time.Duration
	// Intercept, if not nil, is called for everything that changes the kernel,
	// which is done by do. It may fail that, in tests.
	Intercept func(do func() error) error
	Log       *slog.Logger
}

const drainTimeout = 15 * time.Minute

func (o *Options) defaults() error {
	if o.NetNS == 0 {
		o.NetNS = -1
	}
	if o.MasqueradeMark == 0 {
		o.MasqueradeMark = 1 << 14
	}
	if o.Marks == 0 {
		o.Marks = 0x3fff &^ o.MasqueradeMark
	}
	if o.Marks&o.MasqueradeMark != 0 {
		return fmt.Errorf("ipvs: the mark %#x to masquerade is among those of virtual servers, %#x", o.MasqueradeMark, o.Marks)
	}
	if o.Scheduler == "" {
		o.Scheduler = "rr"
	}
	if _, ok := schedulers[o.Scheduler]; !ok {
		return fmt.Errorf("ipvs: scheduler: expected one of %s, found %s", strings.Join(Schedulers(), ", "), o.Scheduler)
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = drainTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// sysctls returns what IPVS needs to work as Services want it.
func sysctls(o Options) []sysctl {
	out := []sysctl{
		// Without connection tracking nothing could be masqueraded.
		{"net/ipv4/vs/conntrack", "1", "IPVS has no connection tracking"},
		// A new connection from a port that was used a moment ago is scheduled
		// anew, or it would go to a destination that is drained. Kernels before
		// 5.9 made such a connection wait for a second, so it is off there.
		{"net/ipv4/vs/conn_reuse_mode", reuseMode(), ""},
		// Packets of a connection whose destination is gone end it, so that a
		// UDP client finds another one by its next packet.
		{"net/ipv4/vs/expire_nodest_conn", "1", ""},
		// Affinity ends when its destination is drained.
		{"net/ipv4/vs/expire_quiescent_template", "1", ""},
		{"net/ipv4/ip_forward", "1", ""},
	}
	if o.StrictARP {
		out = append(out, sysctl{"net/ipv4/conf/all/arp_ignore", "1", ""}, sysctl{"net/ipv4/conf/all/arp_announce", "2", ""})
	}
	return out
}

func reuseMode() string {
	var u unix.Utsname
	if unix.Uname(&u) == nil && before(unix.ByteSliceToString(u.Release[:]), 5, 9) {
		return "0"
	}
	return "1"
}

// before reports whether a kernel's release is earlier than a version.
func before(release string, major, minor int) bool {
	a, rest, _ := strings.Cut(release, ".")
	b, _, _ := strings.Cut(rest, ".")
	b, _, _ = strings.Cut(b, "-")
	x, err1 := strconv.Atoi(a)
	y, err2 := strconv.Atoi(b)
	return err1 == nil && err2 == nil && (x < major || x == major && y < minor)
}

// New returns an engine. It programs nothing yet. The error is a
// [*proxy.UnsupportedError] where the kernel has no IPVS or denies it.
func New(o Options) (*Engine, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	k, err := openSystem(o.NetNS, o)
	if err != nil {
		return nil, err
	}
	f, err := nfnl.Dial(o.NetNS)
	if err != nil {
		k.close()
		return nil, unsupported(err)
	}
	r, err := newReader(o)
	if err != nil {
		k.close()
		f.Close()
		return nil, err
	}
	e := newEngine(k, f, o)
	e.reader = r
	return e, nil
}

// Probe reports what the machine lacks to run the engine in the process's own
// network namespace, as a [*proxy.UnsupportedError], or nil. It loads the modules
// and changes nothing else.
func Probe() error {
	e, err := New(Options{})
	if err != nil {
		return err
	}
	defer func() { _ = e.Close() }()
	if _, err := e.kernel.servers(); err != nil {
		return err
	}
	return e.probeFamilies()
}

// probeFamilies finds out which families the packet filter can do. IPv4 is
// required.
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
	m := &nfnl.Messages{}
	m.BeginBatch()
	addTable(m, family) // one of another layout would be in the way
	deleteTable(m, family)
	r := e.rules(family)
	if err := r.define(m); err != nil {
		return err
	}
	for _, c := range []chainSpec{
		{inside: target{proxy.ToCluster, false}, outside: target{proxy.ToLocal, true}, sources: true, masquerade: proxy.MasqueradeAlways},
		{nodePort: true, inside: target{proxy.ToCluster, true}, outside: target{proxy.ToLocal, true}},
	} {
		all := c.chains()
		for i := range all {
			ch := all[len(all)-1-i]
			addChain(m, family, ch.verdict())
			if err := setRules(m, family, ch.verdict(), r.frontend(ch)); err != nil {
				return err
			}
		}
	}
	return e.filter.Try(m)
}

// unsupported turns what the kernel says of a missing feature of the packet
// filter into an error that tells what to do. Other errors stay as they are.
func unsupported(err error) error {
	var u *proxy.UnsupportedError
	if err == nil || errors.As(err, &u) {
		return err
	}
	u = &proxy.UnsupportedError{Engine: "ipvs", Err: err}
	switch {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		u.Feature, u.Remedy = "the kernel denies access to the packet filter", "run as root, or with the capability CAP_NET_ADMIN in the network namespace"
	case errors.Is(err, unix.EPROTONOSUPPORT) || missing(err) || errors.Is(err, unix.EINVAL):
		u.Feature = "the kernel has no nf_tables, or lacks a part of it"
		u.Remedy = "load the modules nf_tables, nft_chain_nat, nft_fib_ipv4, nft_fib_ipv6, nft_masq and nft_reject, or use a kernel of version 5.13 or later that has them"
	default:
		return err
	}
	return u
}
