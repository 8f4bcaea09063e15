package ipvs

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// change is a step: what was there before of all that it touches.
type change struct {
	engine    *Engine
	servers   map[serverID]*server
	elements  map[elementKey]*shared
	chains    map[chainKey]bool
	addresses map[netip.Addr]map[elementKey]string
	marks     []markKey // those that frontends may have lost
	whole     bool      // the rules of all chains are written anew
}

func newChange(e *Engine) *change {
	return &change{engine: e, servers: map[serverID]*server{}, elements: map[elementKey]*shared{}, chains: map[chainKey]bool{},
		addresses: map[netip.Addr]map[elementKey]string{}}
}

func (c *change) touchServer(id serverID) {
	if c != nil {
		if _, ok := c.servers[id]; !ok {
			c.servers[id] = c.engine.servers[id]
		}
	}
}

func (c *change) touchElement(k elementKey) {
	if c != nil {
		if _, ok := c.elements[k]; !ok {
			c.elements[k] = c.engine.elements[k]
		}
	}
}

func (c *change) touchChain(k chainKey) {
	if c != nil {
		if _, ok := c.chains[k]; !ok {
			c.chains[k] = c.engine.chains[k] != nil
		}
	}
}

func (c *change) touchAddress(a netip.Addr) {
	if c != nil {
		if _, ok := c.addresses[a]; !ok {
			c.addresses[a] = c.engine.addressElements(a)
		}
	}
}

// changeNode makes the change of what concerns the node.
func (c *change) changeNode(node proxy.Node) {
	old := c.engine.node
	c.engine.node = node
	c.whole = !slices.Equal(old.Pods, node.Pods) || !slices.Equal(old.PodInterfaces, node.PodInterfaces) ||
		!slices.Equal(old.NodePorts, node.NodePorts) || !slices.Equal(old.ServiceCIDRs, node.ServiceCIDRs)
}

// commit makes the step: first what packets are to be led to, then what leads
// them there, and at last it takes away what they are not led to any more. An
// address is bound when all is there that its packets meet, and a backend is known
// as one of this node's for as long as it gets connections, or those to itself
// would have an answer that does not come back.
func (c *change) commit(ctx context.Context) error {
	e := c.engine
	if err := c.hairpins(ctx, false); err != nil {
		return err
	}
	ids := slices.SortedFunc(maps.Keys(c.servers), serverID.compare)
	for _, id := range ids {
		if now := e.servers[id]; now != nil && e.has(id.family) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := e.putServer(id, c.servers[id], now); err != nil {
				return err
			}
		}
	}
	if err := c.retireServers(ids); err != nil {
		return err
	}
	if err := c.lookLocal(); err != nil {
		return err
	}
	if err := c.filter(ctx); err != nil {
		return err
	}
	addrs := slices.SortedFunc(maps.Keys(c.addresses), netip.Addr.Compare)
	for _, a := range addrs {
		if c.addresses[a] == nil && e.addressElements(a) != nil && e.has(proxy.FamilyOf(a)) {
			if err := e.kernel.bind(a); err != nil {
				return err
			}
		}
	}
	for _, a := range addrs {
		if c.addresses[a] != nil && e.addressElements(a) == nil && e.has(proxy.FamilyOf(a)) {
			if err := e.kernel.unbind(a); err != nil {
				return err
			}
		}
	}
	for _, id := range ids {
		if old := c.servers[id]; old != nil && e.has(id.family) {
			if err := e.shrink(id, old, e.servers[id]); err != nil {
				return err
			}
		}
	}
	if err := c.hairpins(ctx, true); err != nil {
		return err
	}
	e.freeMarks(c.marks)
	return nil
}

// hairpins adds the elements of backends that came to this node, or removes those
// of backends that went.
func (c *change) hairpins(ctx context.Context, gone bool) error {
	b := &batch{engine: c.engine}
	b.begin()
	for k, old := range c.elements {
		switch now := c.engine.elements[k]; {
		case k.set != setHairpin || (old == nil) == (now == nil):
		case now == nil && gone:
			b.remove(k)
		case now != nil && !gone:
			b.put(k, now.data, false)
		}
	}
	return b.commit(ctx)
}

// lookLocal asks for the machine's own addresses if there are new ones that it
// may have: of load balancers, or external.
func (c *change) lookLocal() error {
	e := c.engine
	for a, before := range c.addresses {
		if claims := e.addresses[a]; before != nil || claims == nil || claims.external == 0 {
			continue
		}
		found, err := e.kernel.addresses()
		if err != nil {
			return err
		}
		for a := range found.others {
			c.touchAddress(a)
		}
		e.local = found.others
		return nil
	}
	return nil
}

// putServer makes a virtual server as it should be, other than destinations that
// it should not have.
func (e *Engine) putServer(id serverID, old, now *server) error {
	var err error
	switch {
	case old == nil:
		e.made[id.kernelID()] = true
		if err = e.kernel.addServer(id, now.settings); errors.Is(err, unix.EEXIST) {
			old, err = e.adopt(id, now)
		}
	case old.settings != now.settings:
		err = e.kernel.setServer(id, now.settings)
	}
	if err != nil {
		return err
	}
	for _, d := range now.destinations() {
		weight := now.weights[d]
		_, drains := e.draining[id][d]
		had, ok := 0, false
		if old != nil {
			had, ok = old.weights[d]
		}
		switch {
		case ok && had == weight && !drains:
			continue
		case ok || drains:
			err = e.kernel.setDestination(id, d, weight)
		default:
			if err = e.kernel.addDestination(id, d, weight); errors.Is(err, unix.EEXIST) {
				err = e.kernel.setDestination(id, d, weight)
			}
		}
		if err != nil {
			return err
		}
		e.drained(id, d)
	}
	return nil
}

// adopt takes over a virtual server that nobody was known to have.
func (e *Engine) adopt(id serverID, now *server) (*server, error) {
	if err := e.kernel.setServer(id, now.settings); err != nil {
		return nil, err
	}
	list, err := e.kernel.destinations(id)
	if err != nil {
		return nil, err
	}
	old := &server{settings: now.settings, weights: make(map[netip.AddrPort]int, len(list))}
	for d, state := range list {
		if _, drains := e.draining[id][d]; drains {
			continue
		}
		if _, ok := now.weights[d]; ok {
			old.weights[d] = state.weight
		} else if err := e.drain(id, now, d); err != nil {
			return nil, err
		}
	}
	return old, nil
}

// freeMarks gives back the marks that have no virtual server any more.
func (e *Engine) freeMarks(keys []markKey) {
	for _, k := range keys {
		mark := e.compiler.marks.byKey[k]
		id := serverID{family: k.frontend.Family, protocol: k.frontend.Protocol, mark: mark}
		if e.servers[id] == nil && e.retired[id] == nil {
			e.compiler.marks.release(k)
		}
	}
}

// filter changes the tables.
func (c *change) filter(ctx context.Context) error {
	e := c.engine
	b := &batch{engine: e}
	b.begin()
	for k, had := range c.chains {
		if !had && e.chains[k] != nil {
			b.chains = append(b.chains, k)
		}
	}
	if c.whole {
		for k := range e.chains {
			b.chains = append(b.chains, k)
		}
		if err := b.define(); err != nil {
			return err
		}
	}
	for k, old := range c.elements {
		now := e.elements[k]
		switch {
		case k.set == setHairpin: // apart
		case now == nil && old == nil || now != nil && old != nil && now.data == old.data:
		case now == nil:
			b.remove(k)
		default:
			b.put(k, now.data, old != nil)
		}
	}
	for a, old := range c.addresses {
		now := e.addressElements(a)
		for k := range old {
			if _, ok := now[k]; !ok {
				b.remove(k)
			}
		}
		for k, data := range now {
			if _, ok := old[k]; !ok {
				b.put(k, data, false)
			}
		}
	}
	return b.commit(ctx)
}

// batch collects what is written to the tables. Mostly that is one transaction;
// at a cold start it is several, each of which leaves what works working.
type batch struct {
	engine *Engine
	m      *nfnl.Messages
	chains []chainKey // to be written
	ops    []operation
}

// operation writes an element: adds it, deletes it, or both, to replace it.
type operation struct {
	element
	add, del bool
}

func (b *batch) begin() {
	b.m = &nfnl.Messages{}
	b.m.BeginBatch()
}

func (b *batch) put(k elementKey, data string, replace bool) {
	if b.engine.has(k.family) {
		b.ops = append(b.ops, operation{element{k, data}, true, replace})
	}
}

func (b *batch) remove(k elementKey) {
	if b.engine.has(k.family) {
		b.ops = append(b.ops, operation{element{k, ""}, false, true})
	}
}

// define writes the tables with all that does not depend on Services.
func (b *batch) define() error {
	for _, family := range b.engine.families {
		if err := b.engine.rules(family).define(b.m); err != nil {
			return err
		}
		for _, r := range b.engine.ranges(family) {
			flushSet(b.m, r.place)
			putElements(b.m, r.place, r.elements, false)
		}
	}
	return nil
}

// rangeSet is a set of the node's networks.
type rangeSet struct {
	place
	elements []element
}

func (e *Engine) ranges(family proxy.Family) []rangeSet {
	out := make([]rangeSet, 0, len(ofNode))
	for i, prefixes := range [][]netip.Prefix{e.node.Pods, e.node.NodePorts, e.node.ServiceCIDRs} {
		r := rangeSet{place: place{family, ofNode[i]}}
		for _, p := range outermost(prefixes, family) {
			first, last := bounds(p)
			r.elements = append(r.elements, element{elementKey{r.place, string(first.AsSlice()) + string(last.AsSlice())}, ""})
		}
		out = append(out, r)
	}
	return out
}

// phase orders what does not fit into one transaction: nothing may point at what
// is not there yet.
func (o *operation) phase() int {
	if specs[o.set].verdict {
		return 1
	}
	return 0
}

// commit sends everything.
func (b *batch) commit(ctx context.Context) error {
	e := b.engine
	slices.SortFunc(b.chains, func(x, y chainKey) int {
		return cmp.Or(cmp.Compare(x.family, y.family), cmp.Compare(x.name, y.name))
	})
	b.chains = slices.Compact(b.chains)
	b.chains = slices.DeleteFunc(b.chains, func(k chainKey) bool { return !e.has(k.family) })
	for _, k := range b.chains {
		addChain(b.m, k.family, k.name)
	}
	for _, k := range b.chains {
		if err := setRules(b.m, k.family, k.name, e.rules(k.family).frontend(e.chains[k].spec)); err != nil {
			return err
		}
	}
	slices.SortFunc(b.ops, func(x, y operation) int {
		return cmp.Or(cmp.Compare(x.phase(), y.phase()), cmp.Compare(x.family, y.family), cmp.Compare(x.set, y.set), cmp.Compare(x.key, y.key))
	})
	for ops := b.ops; len(ops) > 0; {
		n := 0
		for size := b.m.Len(); n < len(ops) && (n == 0 || size < e.budget && ops[n].phase() == ops[0].phase()); n++ {
			size += 160 + 2*len(ops[n].key) + len(ops[n].data)
		}
		putOperations(b.m, ops[:n])
		if ops = ops[n:]; len(ops) > 0 && b.m.Len() >= e.budget {
			if err := e.send(ctx, b.m); err != nil {
				return err
			}
			b.m.Reset()
			b.m.BeginBatch()
		}
	}
	if b.m.Count() == 1 {
		return nil
	}
	return e.send(ctx, b.m)
}

// putOperations appends operations of one transaction: deletions first, so that
// an element can be replaced.
func putOperations(m *nfnl.Messages, ops []operation) {
	for _, deletion := range []bool{true, false} {
		byPlace := map[place][]element{}
		var order []place
		for _, o := range ops {
			if deletion && !o.del || !deletion && !o.add {
				continue
			}
			if byPlace[o.place] == nil {
				order = append(order, o.place)
			}
			byPlace[o.place] = append(byPlace[o.place], o.element)
		}
		for _, at := range order {
			putElements(m, at, byPlace[at], deletion)
		}
	}
}
