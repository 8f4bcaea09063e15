package delta

import (
	"slices"
	"sort"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// client is one stream: what it subscribed to, what it was sent, and what it
// acknowledged. It is a state machine without goroutines: step takes what
// happened and returns what to send.
type client struct {
	srv    *Server
	node   *core.Node
	since  time.Time
	groups []*membership
	inbox  inbox

	mu      sync.Mutex // guards all below; not held while sending
	now     time.Time
	types   []*typeState // by rank
	byURL   map[string]*typeState
	nonce   uint64
	flights map[uint64]*flight

	// waiting holds for an item those that cannot go before it.
	waiting map[*item]map[*item]struct{}
	// unsettled are the items whose newest version is not in force yet, and
	// can be expected to be.
	unsettled map[*item]struct{}
	removals  map[*item]struct{} // to be removed once nothing needs them
	sweepDue  bool               // something happened that may set removals free
	lastSweep time.Time
	resumed   bool       // the client had resources when it connected
	unknown   [ranks]int // items of which only a version is known, by level
	// recheck holds items that are to be looked at again at a time.
	recheck     map[*item]time.Time
	nextRecheck time.Time
	spare       []*work // to be used again
	// behind is the response that must follow the last one.
	behind *discovery.DeltaDiscoveryResponse
}

// membership is a client's place in a group.
type membership struct {
	group     *group
	known     bool   // as group.known was when the client looked last
	seen      uint64 // the group's seq that the client has taken in
	current   bool   // as announced last
	unsettled int
	problems  map[*item]struct{}
}

func newClient(s *Server, node *core.Node, now time.Time) *client {
	return &client{
		srv: s, node: node, since: now, now: now,
		inbox:   newInbox(),
		byURL:   map[string]*typeState{},
		flights: map[uint64]*flight{}, waiting: map[*item]map[*item]struct{}{},
		unsettled: map[*item]struct{}{}, removals: map[*item]struct{}{},
		recheck: map[*item]time.Time{},
	}
}

func (c *client) typeOf(url string) *typeState {
	if t := c.byURL[url]; t != nil {
		return t
	}
	t := &typeState{url: url, rank: rank(url), level: level(url), items: map[string]*item{}}
	c.byURL[url] = t
	c.types = append(c.types, t)
	sort.SliceStable(c.types, func(i, j int) bool { return c.types[i].rank < c.types[j].rank })
	return t
}

// lookup returns what the groups have of a resource, and the group's index.
func (c *client) lookup(ref Ref) (*entry, int) {
	for i, g := range slices.Backward(c.groups) {
		if e := g.group.get(ref); e != nil {
			return e, i
		}
	}
	return nil, -1
}

// drain takes in what changed.
func (c *client) drain() {
	dirty := c.inbox.take()
	for ref := range dirty {
		t := c.byURL[ref.TypeURL]
		if t == nil {
			continue
		}
		// An item that nobody wants may still be waited for.
		c.evaluate(t.item(ref.Name))
	}
	if dirty != nil {
		c.inbox.done(dirty)
	}
	for _, m := range c.groups {
		m.seen = m.group.seq
		if m.known != m.group.known {
			m.known = m.group.known
			// Now it is known what is not in the group.
			for _, t := range c.types {
				c.evaluateAll(t)
			}
		}
	}
}

// evaluateAll looks at all that the client has or might get of a type.
func (c *client) evaluateAll(t *typeState) {
	names := make(map[string]struct{}, len(t.items))
	for name := range t.items {
		names[name] = struct{}{}
	}
	if t.wildcard || len(t.globs) > 0 {
		for _, m := range c.groups {
			for name := range m.group.types[t.url] {
				names[name] = struct{}{}
			}
		}
	}
	for _, name := range sorted(names) {
		c.evaluate(t.item(name))
	}
}

// evaluate compares what the groups have of an item with what the client has.
func (c *client) evaluate(it *item) {
	w := it.work
	if !it.typ.wants(it) && (w == nil || !w.force) {
		c.forget(it)
		return
	}
	want, member := c.lookup(it.ref())
	if want == nil && it.acked != nil && !c.groupsKnown() {
		want = it.acked // nothing says that it is gone
	}
	if w == nil {
		if same(it.acked, want) {
			if want != nil && it.acked.unknown {
				c.setAcked(it, want)
			}
			c.release(it)
			return
		}
		w = c.begin(it)
	}
	if want == nil && w.force {
		w.force = false
		if it.subscribed && it.acked == nil {
			// Asked for, and there is none, or none any more.
			c.miss(it.typ, it.name)
		}
	}
	if want != nil && member >= 0 && it.member != uint8(member) {
		c.become(it, settled) // of the old group
		it.member = uint8(member)
	}
	if !same(w.want, want) || w.state == settled {
		if w.rejected != nil && !same(w.rejected, want) {
			w.rejected, w.reason = nil, ""
		}
		if w.state != pending || want == nil {
			w.at = c.now
		}
		if w.state != pending {
			w.since = c.groups[it.member].group.seq
			if want != nil {
				w.since = want.seq
			}
		}
	}
	w.want = want
	c.update(it)
	c.wake(it)
}

func (c *client) groupsKnown() bool {
	for _, m := range c.groups {
		if !m.group.known {
			return false
		}
	}
	return true
}

// begin gives an item something to do.
func (c *client) begin(it *item) *work {
	var w *work
	if n := len(c.spare); n > 0 {
		w, c.spare = c.spare[n-1], c.spare[:n-1]
	} else {
		w = &work{}
	}
	it.work = w
	return w
}

// become changes an item's state and all that counts states.
func (c *client) become(it *item, to state) {
	w := it.work
	if w == nil || w.state == to {
		return
	}
	m := c.groups[it.member]
	switch w.state {
	case pending:
		delete(c.unsettled, it)
		m.unsettled--
		c.sweepDue = true
	case stuck:
		delete(m.problems, it)
		c.srv.moved(m.group)
	}
	w.state = to
	switch to {
	case pending:
		c.unsettled[it] = struct{}{}
		m.unsettled++
	case stuck:
		if m.problems == nil {
			m.problems = map[*item]struct{}{}
		}
		m.problems[it] = struct{}{}
		c.srv.moved(m.group)
	}
}

// settle ends an item's work: the client has what it should have.
func (c *client) settle(it *item) {
	w := it.work
	c.become(it, settled)
	c.unblock(it)
	delete(c.removals, it)
	delete(c.recheck, it)
	if w.maybe != nil {
		c.need(w.maybe, -1)
	}
	it.work = nil
	*w = work{}
	if len(c.spare) < 64 {
		c.spare = append(c.spare, w)
	}
	c.release(it)
}

// forget drops what is known of an item that the client does not want.
func (c *client) forget(it *item) {
	c.setAcked(it, nil)
	w := it.work
	if w == nil {
		c.release(it)
		return
	}
	if w.flights == 0 {
		c.settle(it)
		return
	}
	// Its acknowledgement is still to come.
	c.become(it, settled)
	c.unblock(it)
	delete(c.removals, it)
	delete(c.recheck, it)
	w.want, w.rejected = nil, nil
	c.wake(it)
}

// release deletes an item of which there is nothing to remember.
func (c *client) release(it *item) {
	if it.work == nil && it.acked == nil && it.refs == 0 && !it.subscribed && len(c.waiting[it]) == 0 {
		if it.typ.items[it.name] == it {
			delete(it.typ.items, it.name)
		}
	}
}

// setAcked says what of an item is in force at the client.
func (c *client) setAcked(it *item, e *entry) {
	old := it.acked
	it.acked = e
	if e != nil {
		c.need(e, 1)
		if e.unknown {
			c.unknown[it.typ.level]++
		}
	}
	if old != nil {
		c.need(old, -1)
		if old.unknown {
			c.unknown[it.typ.level]--
			c.sweepDue = true
		}
	}
}

// need counts the resources that something at the client needs.
func (c *client) need(e *entry, d int32) {
	for _, n := range e.needs {
		it := c.typeOf(n.TypeURL).item(n.Name)
		if it.refs += d; it.refs == 0 {
			c.sweepDue = true
			c.release(it)
		}
	}
}

func (c *client) alarm(it *item, at time.Time) {
	c.recheck[it] = at
	if c.nextRecheck.IsZero() || at.Before(c.nextRecheck) {
		c.nextRecheck = at
	}
}

// expire looks at the items whose time has come.
func (c *client) expire() {
	if c.nextRecheck.IsZero() || c.now.Before(c.nextRecheck) {
		return
	}
	c.nextRecheck = time.Time{}
	due := []*item{}
	for it, at := range c.recheck {
		if !c.now.Before(at) {
			due = append(due, it)
		} else if c.nextRecheck.IsZero() || at.Before(c.nextRecheck) {
			c.nextRecheck = at
		}
	}
	for _, it := range due {
		delete(c.recheck, it)
		if it.work != nil {
			c.unblock(it)
			c.update(it)
		}
	}
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}
