package ipvs

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
)

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

// reconcile makes the kernel match what the engine wants, given what it has, in
// the order of [change.commit].
func (e *Engine) reconcile(ctx context.Context, f *found) error {
	if err := e.addHairpins(ctx, f.tables); err != nil {
		return err
	}
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
	if err := e.reconcileTables(ctx, f.tables); err != nil {
		return err
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
	return e.removeHairpins(ctx, f.tables)
}

// addHairpins adds the elements of this node's backends to a table that packets
// meet already. One that cannot be taken over is left to [Engine.reconcileTables].
func (e *Engine) addHairpins(ctx context.Context, t *tables) error {
	b := &batch{engine: e}
	b.begin()
	var added []elementKey
	for k, s := range e.elements {
		_, there := t.rules[chainKey{k.family, chainPostrouting}]
		if _, has := t.elements[k]; k.set == setHairpin && there && !has {
			b.put(k, s.data, false)
			added = append(added, k)
		}
	}
	err := b.commit(ctx)
	if missing(err) || otherLayout(err) {
		return nil
	}
	if err == nil {
		for _, k := range added {
			t.elements[k] = e.elements[k].data
		}
	}
	return err
}

// removeHairpins removes the elements of backends that are not this node's.
func (e *Engine) removeHairpins(ctx context.Context, t *tables) error {
	b := &batch{engine: e}
	b.begin()
	for k := range t.elements {
		if k.set == setHairpin && e.elements[k] == nil {
			b.remove(k)
		}
	}
	return b.commit(ctx)
}

// otherLayout reports whether the kernel says that a table of another version of
// sluice is in the way.
func otherLayout(err error) bool {
	return errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBUSY)
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
	if otherLayout(err) {
		e.log.Warn("replacing a table that cannot be taken over", "error", err)
		err = e.writeTables(ctx, &tables{}, true)
		maps.DeleteFunc(t.elements, func(k elementKey, _ string) bool { return k.set == setHairpin })
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
		if _, ok := want[k]; !ok && k.set != setHairpin {
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
