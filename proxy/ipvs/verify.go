package ipvs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

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

// mine reports whether a virtual server is of an engine's making: its address is
// bound on our interface, or its mark is in our table.
func (f *found) mine(id serverID, exclude []netip.Prefix) bool {
	if id.mark != 0 {
		_, ok := f.tables.elements[elementKey{place{id.family, setServerMarks}, markData(id.mark)}]
		return ok
	}
	a := id.addr.Addr()
	if slices.ContainsFunc(exclude, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return false
	}
	if f.bound.ours[a] {
		return true
	}
	// Those of NodePorts with affinity, and of external addresses that the
	// machine has anyway.
	key := proxy.FrontendKey{Addr: a, Family: id.family, Protocol: id.protocol, Port: id.addr.Port()}
	if _, ok := f.tables.elements[elementKey{place{id.family, setServices}, frontendKey(key)}]; ok {
		return true
	}
	key.Addr = netip.Addr{}
	_, ok := f.tables.elements[elementKey{place{id.family, setNodePorts}, frontendKey(key)}]
	return ok && f.bound.others[a]
}

// reconcile makes the kernel match what the engine wants, given what it has.
func (e *Engine) reconcile(ctx context.Context, f *found) error {
	wanted := make(map[serverID]bool, len(e.servers))
	extra := map[serverID][]netip.AddrPort{}
	for _, id := range slices.SortedFunc(maps.Keys(e.servers), serverID.compare) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !e.has(id.family) {
			continue
		}
		wanted[id.kernelID()] = true
		more, err := e.reconcileServer(id, f)
		if err != nil {
			return err
		}
		if len(more) > 0 {
			extra[id] = more
		}
	}
	for id := range f.servers {
		if known := e.known(id); !wanted[id] && (e.made[id] || f.mine(id, e.options.ExcludeCIDRs)) {
			if err := e.retire(known, nil); err != nil {
				return err
			}
			wanted[id] = e.retired[known] != nil
		}
	}
	want := map[netip.Addr]bool{}
	for _, a := range slices.SortedFunc(maps.Keys(e.addresses), netip.Addr.Compare) {
		if e.addressElements(a) == nil || !e.has(proxy.FamilyOf(a)) {
			continue
		}
		want[a] = true
		if !f.bound.ours[a] {
			if err := e.kernel.bind(a); err != nil {
				return err
			}
		}
	}
	if err := e.reconcileTables(ctx, f.tables); err != nil {
		return err
	}
	for a := range f.bound.ours {
		if !want[a] {
			if err := e.kernel.unbind(a); err != nil {
				return err
			}
		}
	}
	for id, list := range extra {
		for _, d := range list {
			if err := e.drain(id, e.servers[id], d); err != nil {
				return err
			}
		}
	}
	for id := range f.servers {
		if !wanted[id] && (e.made[id] || f.mine(id, e.options.ExcludeCIDRs)) {
			if err := e.deleteServer(e.known(id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// known returns a server that the kernel has with the protocol of its frontend.
func (e *Engine) known(id serverID) serverID {
	if id.mark != 0 {
		id.protocol = e.compiler.marks.taken[id.mark].frontend.Protocol
	}
	return id
}

// reconcileServer makes one virtual server as it should be, and returns the
// destinations that it has and should not have.
func (e *Engine) reconcileServer(id serverID, f *found) ([]netip.AddrPort, error) {
	s := e.servers[id]
	have, ok := f.servers[id.kernelID()]
	if !ok {
		return nil, e.putServer(id, nil, s)
	}
	list, err := e.kernel.destinations(id)
	if err != nil {
		return nil, err
	}
	old := &server{settings: have, weights: make(map[netip.AddrPort]int, len(list))}
	var extra []netip.AddrPort
	for d, state := range list {
		old.weights[d] = state.weight
		if _, ok := s.weights[d]; ok {
			continue
		}
		if _, drains := e.draining[id][d]; !drains || state.weight != 0 {
			extra = append(extra, d)
		}
	}
	return extra, e.putServer(id, old, s)
}

// reconcileTables writes all rules, and of the elements those that differ.
func (e *Engine) reconcileTables(ctx context.Context, t *tables) error {
	err := e.writeTables(ctx, t, false)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBUSY) {
		// Another version of sluice had another layout.
		e.log.Warn("replacing a table that cannot be taken over", "error", err)
		err = e.writeTables(ctx, &tables{}, true)
	}
	return err
}

func (e *Engine) writeTables(ctx context.Context, t *tables, replace bool) error {
	b := &batch{engine: e}
	b.begin()
	if replace {
		for _, family := range e.families {
			addTable(b.m, family) // so that deleting it cannot fail
			deleteTable(b.m, family)
		}
	}
	if err := b.define(); err != nil {
		return err
	}
	for k := range e.chains {
		b.chains = append(b.chains, k)
	}
	want := e.allElements()
	for k, data := range want {
		if old, ok := t.elements[k]; !ok || old != data {
			b.put(k, data, ok)
		}
	}
	for k := range t.elements {
		if _, ok := want[k]; !ok {
			b.remove(k)
		}
	}
	if err := b.commit(ctx); err != nil {
		return err
	}
	e.drift.rules = nil
	static := e.rules(proxy.IPv4).static()
	for k := range t.rules {
		if spec, ok := parseChain(k.name); ok && static[k.name] == nil && e.chains[k] == nil {
			e.chains[k] = &sharedChain{spec: spec} // to be removed
		}
	}
	return nil
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
	same, err := e.sameTables(ctx)
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
			return true, err
		}
		e.publish(maps.Keys(e.servers))
	}
	if e.drift.rules == nil {
		rules := map[chainKey]uint64{}
		for _, family := range e.families {
			if err := listChains(ctx, e.filter, family, rules); err != nil {
				return !same, err
			}
		}
		e.drift.rules = rules
	}
	if err := e.finishDrains(ctx, time.Now()); err != nil {
		return !same, err
	}
	return !same, e.collect(ctx)
}

// sameTables reports whether the tables are as we made them.
func (e *Engine) sameTables(ctx context.Context) (bool, error) {
	g, err := generation(ctx, e.filter)
	if err != nil {
		return false, err
	}
	if g != e.drift.generation {
		e.drift.foreign, e.drift.generation = true, g
	}
	if !e.drift.foreign || time.Since(e.drift.looked) < lookShare*e.drift.took {
		return true, nil
	}
	start := time.Now()
	t, err := listTables(ctx, e.filter, e.families)
	if err != nil {
		return false, err
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
	return e.drift.rules != nil && maps.Equal(t.rules, e.drift.rules) && maps.Equal(t.elements, e.allElements()) && maps.Equal(t.ranges, ranges), nil
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

// finishDrains removes destinations that were taken away, when their connections
// have ended or their time has come.
func (e *Engine) finishDrains(ctx context.Context, now time.Time) error {
	for id, drains := range maps.Clone(e.draining) {
		list, err := e.kernel.destinations(id)
		if err != nil {
			return err
		}
		for d, deadline := range maps.Clone(drains) {
			state, ok := list[d]
			late := !now.Before(deadline) && !e.servers[id].serves(d)
			if ok && state.connections > 0 && !late {
				continue
			}
			if err := e.remove(id, d); err != nil {
				return err
			}
		}
	}
	c := newChange(e)
	for id, s := range e.retired {
		if len(e.draining[id]) > 0 {
			continue
		}
		delete(e.retired, id)
		e.release(s, c)
		if id.mark != 0 {
			c.marks = append(c.marks, e.compiler.marks.taken[id.mark])
		}
		if err := e.deleteServer(id); err != nil {
			return err
		}
	}
	return c.commit(ctx)
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

// Cleanup implements [proxy.Engine]. A virtual server is ours if its address is
// bound on our interface or its mark is in our table; if both are gone already,
// what is left of ours cannot be told from other people's, and stays.
func (e *Engine) Cleanup(ctx context.Context) error {
	e.reset()
	families := e.families
	e.families = []proxy.Family{proxy.IPv4, proxy.IPv6}
	f, err := e.look(ctx)
	e.families = families
	if err != nil {
		return err
	}
	// The rules come first: without them, nothing is led to the servers.
	for _, family := range []proxy.Family{proxy.IPv4, proxy.IPv6} {
		m := &nfnl.Messages{}
		m.BeginBatch()
		deleteTable(m, family)
		if err := e.filter.Commit(m); err != nil && !missing(err) {
			return fmt.Errorf("ipvs: remove table %s: %w", tableName, unsupported(err))
		}
	}
	for id := range f.servers {
		if e.made[id] || f.mine(id, e.options.ExcludeCIDRs) {
			if err := e.deleteServer(id); err != nil {
				return err
			}
		}
	}
	return e.kernel.deleteLink()
}
