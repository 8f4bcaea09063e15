// Package conntrack removes UDP flows from the kernel's connection tracking when they
// go to endpoints that are gone. The kernel remembers a translation for as long as
// packets come, whatever the rules say since.
package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// Cleaner is the [proxy.Flows] of a network namespace.
type Cleaner struct{ netns int }

// New returns a cleaner of the process's own network namespace.
func New() *Cleaner { return &Cleaner{-1} }

// NewAt returns a cleaner of another network namespace, by a descriptor that
// must stay open.
func NewAt(netns int) *Cleaner { return &Cleaner{netns} }

// errOffloaded indicates flows that the kernel does not give up now.
var errOffloaded = errors.New("conntrack: flows that are offloaded to a flow table cannot be deleted now")

// attempts is how often a list is begun that the kernel breaks off.
const attempts = 5

// Reconcile implements [proxy.Flows]. It lists the UDP flows of a family if an
// endpoint of one of its UDP ports is gone, or a frontend is new or gone, and
// otherwise does nothing.
func (c *Cleaner) Reconcile(ctx context.Context, r proxy.Reconciliation) (map[proxy.Family]proxy.Reconciled, error) {
	w := collect(r.Plan, r.Changes)
	done := map[proxy.Family]proxy.Reconciled{}
	if w.empty() {
		return done, nil
	}
	local, err := c.localAddrs(w)
	if err != nil {
		return done, err
	}
	var failed error
	for _, family := range [...]proxy.Family{proxy.IPv4, proxy.IPv6} {
		if !w.has(family) {
			continue
		}
		start := time.Now()
		p := pass{family: familyNumber(family), stale: func(f *flow) bool { return w.stale(f, local) }, later: r.Later}
		err := c.pass(ctx, &p)
		done[family] = proxy.Reconciled{Deleted: p.deleted, Took: time.Since(start)}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", family, err))
		}
	}
	return done, failed
}

// DeleteUDP removes the UDP flows of a family that are stale by the address that
// their client sends to and the one that answers it.
func (c *Cleaner) DeleteUDP(ctx context.Context, family proxy.Family, stale func(to, from netip.AddrPort) bool) error {
	p := pass{family: familyNumber(family), stale: func(f *flow) bool { return stale(f.destination, f.answers) }}
	return c.pass(ctx, &p)
}

// pass makes a pass over the flows of a family. A dump that the kernel breaks
// off, because the table is being resized or a buffer is full, is begun again;
// what it had listed by then is deleted already.
func (c *Cleaner) pass(ctx context.Context, p *pass) error {
	for attempt := 1; ; attempt++ {
		err := c.tryPass(ctx, p)
		broken := errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR) || errors.Is(err, nfnl.ErrInterrupted)
		if !broken || attempt == attempts || ctx.Err() != nil {
			return err
		}
	}
}

// tryPass uses one socket for the list and one for the deletions, so that no
// more than a few flows are remembered however many are stale.
func (c *Cleaner) tryPass(ctx context.Context, p *pass) error {
	lister, err := nfnl.Dial(c.netns)
	if err != nil {
		return fmt.Errorf("conntrack: %w", err)
	}
	defer lister.Close()
	deleter, err := nfnl.Dial(c.netns)
	if err != nil {
		return fmt.Errorf("conntrack: %w", err)
	}
	defer deleter.Close()
	p.deleter, p.failed, p.found = deleter, nil, p.found[:0]
	if err := list(ctx, lister, p.family, func(f *flow) { p.look(ctx, f) }); err != nil {
		p.flush(ctx)
		return errors.Join(fmt.Errorf("conntrack: list: %w", err), p.failed)
	}
	p.flush(ctx)
	return p.failed
}

// pass is one pass over the flows of a family.
type pass struct {
	family  byte
	stale   func(*flow) bool
	later   func() []proxy.Change
	deleter *nfnl.Socket
	found   []flow // stale, and not deleted yet
	deleted int
	failed  error
}

// batch is how many flows are deleted together: what came meanwhile is asked for
// once for all of them.
const batch = 512

func (p *pass) look(ctx context.Context, f *flow) {
	if !p.stale(f) {
		return
	}
	p.found = append(p.found, f.clone())
	if len(p.found) == batch {
		p.flush(ctx)
	}
}

// flush deletes the flows that were found. A flow is deleted by its identity, so
// what took its place meanwhile stays; and one that a later plan allows stays
// too, for it may have been begun under that plan.
func (p *pass) flush(ctx context.Context) {
	defer func() { p.found = p.found[:0] }()
	var later *wanted
	if p.later != nil && len(p.found) > 0 {
		later = allowed(p.later())
	}
	for _, f := range p.found {
		if later.allows(&f) {
			continue
		}
		if ctx.Err() != nil || p.failed != nil && !errors.Is(p.failed, errOffloaded) {
			return
		}
		switch err := remove(ctx, p.deleter, p.family, f); {
		case err == nil:
			p.deleted++
		case errors.Is(err, unix.EBUSY):
			p.failed = errOffloaded
		case !errors.Is(err, unix.ENOENT):
			p.failed = fmt.Errorf("conntrack: delete: %w", err)
		}
	}
}

// localAddrs returns the addresses of the namespace that answer NodePorts, if
// they are needed. Loopback addresses do not: what goes there is never
// translated.
func (c *Cleaner) localAddrs(w *wanted) (map[netip.Addr]struct{}, error) {
	if len(w.nodePorts) == 0 {
		return nil, nil
	}
	// -1 is the handle of the current namespace, for both.
	handle, err := netlink.NewHandleAt(netns.NsHandle(c.netns), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("conntrack: local addresses: %w", err)
	}
	defer handle.Close()
	addrs, err := handle.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("conntrack: local addresses: %w", err)
	}
	out := make(map[netip.Addr]struct{}, len(addrs))
	for _, a := range addrs {
		addr, ok := netip.AddrFromSlice(a.IP)
		if addr = addr.Unmap(); ok && !addr.IsLoopback() && w.answers(addr) {
			out[addr] = struct{}{}
		}
	}
	return out, nil
}

func familyNumber(f proxy.Family) byte {
	if f == proxy.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

var _ proxy.Flows = (*Cleaner)(nil)

func port(b []byte) uint16 {
	if len(b) != 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}
