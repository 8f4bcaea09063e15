package ipvs

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// drift is what is known of changes that others made.
type drift struct {
	// generation is the kernel's number of its packet filter's rules after our
	// last transaction; it counts everybody's.
	generation uint32
	// foreign tells that somebody else's transaction was seen since we last
	// looked at our tables.
	foreign bool
	// rules are hashes of our chains' rules as the kernel lists them; nil until
	// they have been listed.
	rules map[chainKey]uint64
	// looked is when the tables were listed, and took how long that was.
	looked time.Time
	took   time.Duration
	// next is where among the servers looking at destinations goes on.
	next int
}

// found is what the kernel has.
type found struct {
	tables  *tables
	servers map[serverID]settings
	bound   bound
}

// Looking at the tables may take a hundredth of the time, where others keep
// changing rules of their own.
const lookShare = 100

// lookTime is for how long one look asks for the destinations of one server after
// the other.
const lookTime = 50 * time.Millisecond

// look lists everything but destinations.
func (e *Engine) look(ctx context.Context) (*found, error) {
	start := time.Now()
	g, err := generation(ctx, e.filter)
	if err != nil {
		return nil, unsupported(err)
	}
	f := &found{}
	if f.tables, err = listTables(ctx, e.filter, e.families); err != nil {
		return nil, unsupported(err)
	}
	e.drift.generation, e.drift.foreign, e.drift.looked, e.drift.took = g, false, start, time.Since(start)
	if f.servers, err = e.kernel.servers(); err != nil {
		return nil, err
	}
	f.bound, err = e.kernel.addresses()
	return f, err
}

// send commits a transaction and notes the generation.
func (e *Engine) send(ctx context.Context, m *nfnl.Messages) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.filter.Commit(m); err != nil {
		return unsupported(fmt.Errorf("ipvs: change table %s: %w", tableName, err))
	}
	g, err := generation(ctx, e.filter)
	if err != nil {
		return err
	}
	if e.drift.generation != 0 && g != e.drift.generation+1 {
		e.drift.foreign = true
	}
	e.drift.generation, e.drift.rules = g, nil
	return nil
}

// Verify implements [proxy.Engine]. Missing servers and addresses are seen at
// once, and destinations of a part of the servers, of which the next look takes
// the next.
func (e *Engine) Verify(ctx context.Context) (bool, error) {
	if !e.valid {
		return false, nil
	}
	repaired, err := e.verify(ctx)
	if err != nil {
		e.valid = false
	}
	return repaired, err
}

func (e *Engine) verify(ctx context.Context) (bool, error) {
	same, certain, err := e.sameTables(ctx)
	if err != nil {
		return false, err
	}
	if same {
		if same, err = e.sameKernel(); err != nil {
			return false, err
		}
	}
	if !same {
		f, err := e.look(ctx)
		if err != nil {
			return false, err
		}
		if err := e.kernel.prepare(); err != nil {
			return false, err
		}
		if !maps.Equal(e.local, f.bound.others) {
			e.local = f.bound.others
			e.recompileLocal(nil)
		}
		if err := e.reconcile(ctx, f); err != nil {
			return certain, err
		}
		e.publish(maps.Keys(e.servers))
	}
	if e.drift.rules == nil {
		rules := map[chainKey]uint64{}
		for _, family := range e.families {
			if err := listChains(ctx, e.filter, family, rules); err != nil {
				return certain && !same, err
			}
		}
		e.drift.rules = rules
	}
	if err := e.finishDrains(ctx, time.Now()); err != nil {
		return certain && !same, err
	}
	return certain && !same, e.collect(ctx)
}

// sameTables reports whether the tables are as we made them. If somebody has
// changed something before the rules were listed, whether those are is not certain,
// and they are to be written again.
func (e *Engine) sameTables(ctx context.Context) (same, certain bool, err error) {
	g, err := generation(ctx, e.filter)
	if err != nil {
		return false, true, err
	}
	if g != e.drift.generation {
		e.drift.foreign, e.drift.generation = true, g
	}
	if !e.drift.foreign || time.Since(e.drift.looked) < lookShare*e.drift.took {
		return true, true, nil
	}
	start := time.Now()
	t, err := listTables(ctx, e.filter, e.families)
	if err != nil {
		return false, true, err
	}
	e.drift.foreign, e.drift.looked, e.drift.took = false, start, time.Since(start)
	ranges := map[elementKey]bool{}
	for _, family := range e.families {
		for _, r := range e.ranges(family) {
			for _, el := range r.elements {
				ranges[elementKey{r.place, el.key[:len(el.key)/2]}] = true
			}
		}
	}
	same = maps.Equal(t.elements, e.allElements()) && maps.Equal(t.ranges, ranges)
	if e.drift.rules == nil {
		return false, !same, nil
	}
	return same && maps.Equal(t.rules, e.drift.rules), true, nil
}

// sameKernel reports whether servers, addresses, and the destinations of the next
// servers are as we made them.
func (e *Engine) sameKernel() (bool, error) {
	servers, err := e.kernel.servers()
	if err != nil {
		return false, err
	}
	for id, s := range e.servers {
		if have, ok := servers[id.kernelID()]; e.has(id.family) && (!ok || have != s.settings) {
			return false, nil
		}
	}
	b, err := e.kernel.addresses()
	if err != nil {
		return false, err
	}
	if !maps.Equal(b.others, e.local) {
		// Somebody gave the machine an address or took one. That is no drift.
		return e.moved(b.others)
	}
	for a := range e.addresses {
		if !e.local[a] && e.has(proxy.FamilyOf(a)) && !b.ours[a] {
			return false, nil
		}
	}
	for a := range b.ours {
		if e.addressElements(a) == nil {
			return false, nil
		}
	}
	return e.sameDestinations()
}

func (e *Engine) sameDestinations() (bool, error) {
	ids := slices.SortedFunc(maps.Keys(e.servers), serverID.compare)
	start := time.Now()
	for range ids {
		if time.Since(start) > lookTime {
			break
		}
		e.drift.next = (e.drift.next + 1) % len(ids)
		id := ids[e.drift.next]
		if !e.has(id.family) {
			continue
		}
		list, err := e.kernel.destinations(id)
		if err != nil {
			return false, err
		}
		s := e.servers[id]
		for d, w := range s.weights {
			if have, ok := list[d]; !ok || have.weight != w {
				return false, nil
			}
		}
		for d, have := range list {
			if _, ok := s.weights[d]; !ok {
				if _, drains := e.draining[id][d]; !drains || have.weight != 0 {
					return false, nil
				}
			}
		}
	}
	return true, nil
}

// moved takes up the machine's new addresses.
func (e *Engine) moved(local map[netip.Addr]bool) (bool, error) {
	c := newChange(e)
	for a := range e.addresses {
		if local[a] != e.local[a] {
			c.touchAddress(a)
		}
	}
	e.local = local
	e.recompileLocal(c)
	if err := c.commit(context.Background()); err != nil {
		return false, err
	}
	e.publish(maps.Keys(c.servers))
	return true, nil
}

// collect removes the chains that no frontend goes to any more. A packet may be
// in one for a moment, so that is not done by the step itself.
func (e *Engine) collect(ctx context.Context) error {
	var idle []chainKey
	for k, ch := range e.chains {
		if ch.uses == 0 {
			idle = append(idle, k)
		}
	}
	if len(idle) == 0 {
		return nil
	}
	m := &nfnl.Messages{}
	m.BeginBatch()
	for _, k := range idle {
		flushRules(m, k.family, k.name)
	}
	for _, k := range idle {
		deleteChain(m, k.family, k.name)
	}
	if err := e.send(ctx, m); err != nil {
		return err
	}
	for _, k := range idle {
		delete(e.chains, k)
	}
	return nil
}
