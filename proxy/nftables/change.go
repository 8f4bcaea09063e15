package nftables

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/sluicenet/sluice/proxy"
)

// change collects what a step writes.
type change struct {
	engine *Engine
	ops    []operation
	chains []chainKey // to be written
	// last appends what comes after everything else.
	last func(*batch) error
}

// operation writes an element: adds it, deletes it, or both, to replace it.
type operation struct {
	element
	add, del bool
}

func (c *change) add(el element, replace bool) {
	c.ops = append(c.ops, operation{el, true, replace})
}

// remove deletes an element. Slots only become garbage: a packet that has read
// a verdict of before must still find them.
func (c *change) remove(k elementKey, data string) {
	if specs[k.set].numbered {
		c.engine.garbage[k] = data
		c.engine.rested = time.Now()
		return
	}
	c.ops = append(c.ops, operation{element{k.place, k.key, data}, false, true})
}

// phase orders what does not fit into one transaction: nothing may point at what
// is not there yet, and no ClusterIP refuse ports that are to come.
func (o *operation) phase() int {
	switch o.set {
	case setServices, setNodePorts:
		return 1
	case setClusterIPs:
		return 2
	}
	return 0
}

// commit sends the change, behind what m holds already. Mostly it is one
// transaction; at a cold start several, each of which leaves what works working.
func (c *change) commit(ctx context.Context, m *batch) error {
	slices.SortFunc(c.chains, func(a, b chainKey) int {
		if a.family != b.family {
			return int(a.family) - int(b.family)
		}
		return compareText(a.name, b.name)
	})
	c.chains = slices.Compact(c.chains)
	for _, k := range c.chains {
		addChain(m, k.family, k.name, nil)
	}
	// A chain's rules change at once. Nothing goes to a new chain yet.
	for _, k := range c.chains {
		if err := c.flush(ctx, m); err != nil {
			return err
		}
		if err := setRules(m, k.family, k.name, c.engine.rules(k.family).frontend(c.engine.chains[k].spec)); err != nil {
			return err
		}
	}
	if len(c.chains) > 0 {
		c.engine.drift.rules = nil
	}
	if err := c.keepCounts(ctx, m); err != nil {
		return err
	}
	slices.SortStableFunc(c.ops, func(a, b operation) int { return a.phase() - b.phase() })
	for ops := c.ops; len(ops) > 0; {
		if err := c.flush(ctx, m); err != nil {
			return err
		}
		n := 0
		for size := m.Len(); n < len(ops) && ops[n].phase() == ops[0].phase() && (n == 0 || size < c.engine.budget); n++ {
			size += ops[n].size()
		}
		putOperations(m, ops[:n])
		ops = ops[n:]
	}
	if c.last != nil {
		if err := c.flush(ctx, m); err != nil {
			return err
		}
		if err := c.last(m); err != nil {
			return err
		}
	}
	if m.Count() > 1 {
		return c.engine.send(ctx, m)
	}
	return nil
}

// flush sends what m holds if that is as much as a transaction should have.
func (c *change) flush(ctx context.Context, m *batch) error {
	if m.Len() < c.engine.budget {
		return nil
	}
	if err := c.engine.send(ctx, m); err != nil {
		return err
	}
	m.Reset()
	m.BeginBatch()
	return nil
}

// size is an upper bound of what the operation takes in a message.
func (o *operation) size() int {
	n := 0
	if o.add {
		n += 64 + len(o.key) + len(o.data)
	}
	if o.del {
		n += 64 + len(o.key)
	}
	return n
}

// putOperations appends operations of one transaction: deletions first, so that
// an element can be replaced.
func putOperations(m *batch, ops []operation) {
	dels, adds := map[place][]element{}, map[place][]element{}
	for _, o := range ops {
		if o.del {
			dels[o.place] = append(dels[o.place], o.element)
		}
		if o.add {
			adds[o.place] = append(adds[o.place], o.element)
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(dels), comparePlaces) {
		putElements(m, at, dels[at], true)
	}
	for _, at := range slices.SortedFunc(maps.Keys(adds), comparePlaces) {
		putElements(m, at, adds[at], false)
	}
}

func comparePlaces(a, b place) int {
	if a.family != b.family {
		return int(a.family) - int(b.family)
	}
	return int(a.set) - int(b.set)
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// changeNode makes the change of what concerns the node. Rules depend on whether
// the Pods' networks are known at all.
func (e *Engine) changeNode(m *batch, c *change, node proxy.Node) error {
	old := e.node
	e.node = node
	for _, family := range e.families {
		pods, ports := ofFamily(node.Pods, family), ofFamily(node.NodePorts, family)
		if slices.Equal(pods, ofFamily(old.Pods, family)) && slices.Equal(ports, ofFamily(old.NodePorts, family)) &&
			slices.Equal(node.PodInterfaces, old.PodInterfaces) &&
			slices.Equal(ofFamily(node.ServiceCIDRs, family), ofFamily(old.ServiceCIDRs, family)) {
			continue
		}
		e.putRanges(m, family)
		if err := setRules(m, family, chainServices, e.rules(family).services()); err != nil {
			return err
		}
		e.drift.rules = nil
		for k, ch := range e.chains {
			if k.family == family && ch.uses > 0 {
				c.chains = append(c.chains, k)
			}
		}
	}
	return nil
}

// putRanges appends the messages that fill the sets of the node's networks anew.
func (e *Engine) putRanges(m *batch, family proxy.Family) {
	for _, r := range e.ranges(family) {
		flushElements(m, r.place)
		putElements(m, r.place, r.elements, false)
	}
}

type rangeSet struct {
	place
	elements []element
}

// ranges returns the elements of the sets of the node's networks.
func (e *Engine) ranges(family proxy.Family) [3]rangeSet {
	of := func(id setID, prefixes []netip.Prefix) rangeSet {
		r := rangeSet{place: place{family, id}}
		for _, p := range outermost(ofFamily(prefixes, family)) {
			first, last := bounds(p)
			r.elements = append(r.elements, element{r.place, string(appendAddr(appendAddr(nil, first), last)), ""})
		}
		return r
	}
	return [3]rangeSet{of(setPods, e.node.Pods), of(setNodePortAddresses, e.node.NodePorts), of(setServiceCIDRs, e.node.ServiceCIDRs)}
}

func ofFamily(prefixes []netip.Prefix, family proxy.Family) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		if proxy.FamilyOf(p.Addr()) == family {
			out = append(out, p)
		}
	}
	return out
}
