package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// drift is what is known of changes that others made.
type drift struct {
	// generation is the kernel's number of the rule set after our last
	// transaction; it counts everybody's.
	generation uint32
	// others tells that somebody else's transaction was seen that the monitor
	// has not been asked about yet.
	others bool
	// touched tells that somebody else has changed our tables, and suspect that
	// it may be so, since we last looked at them.
	touched, suspect bool
	// rules are hashes of our chains' rules as the kernel lists them; nil
	// until they have been listed.
	rules map[chainKey]uint64
	// looked is when all was listed, and took how long that was.
	looked time.Time
	took   time.Duration
}

// Garbage rests before it is removed, for longer than any packet is under way
// through the rules.
const rest = 100 * time.Millisecond

// Looking at everything may take a hundredth of the time, where others keep
// changing rules of their own.
const lookShare = 100

// minBudget is the least size of transactions. It holds the largest single step.
const minBudget = 64 << 10

// send commits a transaction and notes the generation.
func (e *Engine) send(ctx context.Context, m *batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := explain(m, e.sock.Commit(&m.Messages)); err != nil {
		if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOMEM) {
			// The next try is in smaller steps.
			e.budget = max(e.budget/2, minBudget)
			return fmt.Errorf("nftables: a transaction of %d bytes is too much for the kernel now, the next ones have %d; more memory, and CAP_NET_ADMIN or a higher net.core.wmem_max, let them be larger: %w",
				m.Len(), e.budget, err)
		}
		return removed(err)
	}
	generation, err := e.generation(ctx)
	if err != nil {
		return err
	}
	if e.drift.generation != 0 && generation != e.drift.generation+1 {
		e.drift.others = true
	}
	e.drift.generation = generation
	return nil
}

// generation asks for the number of the rule set.
func (e *Engine) generation(ctx context.Context) (uint32, error) {
	m := e.batch()
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETGEN, 0, nfFamily(proxy.IPv4))
	m.Finish()
	var g uint32
	err := e.sock.Ask(ctx, &m.Messages, func(msg nfnl.Message) {
		for kind, v := range nfnl.Attributes(msg.Body[4:]) {
			if kind == unix.NFTA_GEN_ID && len(v) == 4 {
				g = binary.BigEndian.Uint32(v)
			}
		}
	})
	return g, err
}

// Verify implements [proxy.Engine]. It reads the tables only if somebody has
// changed them since. Where it is only known that somebody may have, it reads
// them not so often that it would take more than a small share of the time. It
// also removes garbage.
func (e *Engine) Verify(ctx context.Context) (bool, error) {
	if !e.valid {
		return false, nil
	}
	generation, err := e.generation(ctx)
	if err != nil {
		return false, err
	}
	if generation != e.drift.generation {
		e.drift.others, e.drift.generation = true, generation
	}
	if e.drift.others {
		e.drift.others = false
		e.hear()
	}
	repaired := false
	if e.drift.touched || e.drift.suspect && time.Since(e.drift.looked) >= lookShare*e.drift.took {
		if repaired, err = e.repair(ctx); err != nil {
			e.valid = false
			return repaired, err
		}
	}
	if e.drift.rules == nil {
		l := &listing{rules: map[chainKey]uint64{}}
		for _, family := range e.families {
			if err := e.listChains(ctx, family, l); err != nil {
				return repaired, err
			}
		}
		e.drift.rules = l.rules
	}
	if err := e.sweepSome(ctx); err != nil {
		return repaired, err
	}
	if err := e.collect(ctx); err != nil {
		e.valid = false
		return repaired, err
	}
	return repaired, nil
}

// repair lists the tables and writes what differs from what we made.
func (e *Engine) repair(ctx context.Context) (bool, error) {
	start := time.Now()
	dormant, err := e.wake(ctx)
	if err != nil {
		return false, err
	}
	found, err := e.list(ctx)
	if err != nil {
		return false, err
	}
	ranges, err := e.sameRanges(ctx)
	if err != nil {
		return false, err
	}
	rules := e.drift.rules == nil || maps.Equal(found.rules, e.drift.rules)
	garbage := e.garbage
	e.garbage = map[elementKey]string{}
	c, err := e.compare(ctx, found, func(yield func(wanted) bool) {
		for _, s := range e.services {
			if !yield(wanted{state: s}) {
				return
			}
		}
	})
	if err != nil {
		return false, err
	}
	if err := e.readGarbage(ctx, found, garbage); err != nil {
		return false, err
	}
	for k, data := range found.numbered {
		c.remove(k, data)
	}
	e.drift.touched, e.drift.suspect, e.drift.looked, e.drift.took = false, false, start, time.Since(start)
	e.sweepAll()
	e.adopt(found.chains)
	same := ranges && rules && len(c.ops) == 0
	if same && e.drift.rules != nil {
		return dormant, nil
	}
	return dormant || !same, e.write(ctx, c, false)
}

// adopt has chains of others in our tables removed as garbage.
func (e *Engine) adopt(chains []chainKey) {
	for _, k := range chains {
		if e.chains[k] == nil {
			e.chains[k] = &chain{}
			e.rested = time.Now()
		}
	}
}

// sameRanges reports whether the kernel has the node's networks.
func (e *Engine) sameRanges(ctx context.Context) (bool, error) {
	for _, family := range e.families {
		for _, r := range e.ranges(family) {
			var want, got []string
			for _, el := range r.elements {
				half := len(el.key) / 2
				want = append(want, el.key[:half])
			}
			err := e.listElements(ctx, r.place, func(el element) {
				if el.data != rangeEnd {
					got = append(got, el.key)
				}
			})
			if err != nil {
				return false, err
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(want, got) {
				return false, nil
			}
		}
	}
	return true, nil
}

// collect removes garbage that has rested.
func (e *Engine) collect(ctx context.Context) error {
	if time.Since(e.rested) < rest {
		return nil
	}
	var idle []chainKey
	for k, ch := range e.chains {
		if ch.uses == 0 {
			idle = append(idle, k)
		}
	}
	if len(idle) == 0 && len(e.garbage) == 0 {
		return nil
	}
	ops := make([]operation, 0, len(e.garbage))
	for k, data := range e.garbage {
		ops = append(ops, operation{element{k.place, k.key, data}, false, true})
	}
	c := change{engine: e, ops: ops}
	m := e.transaction()
	for _, k := range idle {
		flushRules(m, k.family, k.name)
	}
	for _, k := range idle {
		deleteChain(m, k.family, k.name)
	}
	if err := c.commit(ctx, m); err != nil {
		return err
	}
	clear(e.garbage)
	for _, k := range idle {
		delete(e.chains, k)
		delete(e.drift.rules, k)
	}
	return nil
}
