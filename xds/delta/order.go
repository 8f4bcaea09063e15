package delta

import (
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

const (
	// patience is how long a newer version of a resource waits for the
	// acknowledgement of the one on its way. Envoy acknowledges in a
	// millisecond, but withholds it for clusters while one of them warms, and
	// then the newer version may be what ends that.
	patience = 200 * time.Millisecond
	// maxFlights bounds the versions of one resource on their way.
	maxFlights = 4
)

// step takes a request, if there is one, and what changed, and returns the
// next response. Without one, it returns when to call again at the latest.
func (c *client) step(req *discovery.DeltaDiscoveryRequest, now time.Time) (*discovery.DeltaDiscoveryResponse, time.Duration) {
	c.srv.mu.RLock()
	defer c.srv.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
	c.drain()
	if req != nil {
		c.handle(req)
	}
	c.expire()
	r := c.next()
	for _, m := range c.groups {
		if now := c.caughtUp(m); now != m.current {
			m.current = now
			c.srv.moved(m.group)
		}
	}
	if r != nil {
		return r, 0
	}
	return nil, c.idle()
}

// idle returns how long nothing is to be done unless something happens.
func (c *client) idle() time.Duration {
	d := time.Hour
	sooner := func(at time.Time) { d = min(d, max(at.Sub(c.now), time.Millisecond)) }
	if !c.nextRecheck.IsZero() {
		sooner(c.nextRecheck)
	}
	for _, t := range c.types {
		if t.opening {
			sooner(t.opened.Add(c.srv.opts.WarmLimit))
		}
	}
	if len(c.removals) > 0 {
		if grace := c.since.Add(c.srv.opts.Grace); c.resumed && c.now.Before(grace) {
			sooner(grace)
		}
		sooner(c.now.Add(c.srv.opts.WarmLimit))
	}
	return d
}

// action is what is to be done about an item now.
type action uint8

const (
	actSettle action = iota
	actStuck         // refused; nothing until it changes
	actWait          // for an acknowledgement
	actRemove
	actSend
)

func (c *client) action(it *item) action {
	w := it.work
	switch {
	case w.force && w.want != nil && w.flights < maxFlights:
		return actSend
	case w.want != nil && same(w.rejected, w.want):
		return actStuck
	case w.flights == 0 && w.maybe == nil && same(it.acked, w.want):
		return actSettle
	case w.flights > 0 && same(w.sent, w.want):
		return actWait
	case w.flights >= maxFlights || w.flights > 0 && c.now.Before(w.lastSent.Add(patience)):
		return actWait
	case w.want == nil:
		return actRemove
	}
	return actSend
}

// update does or prepares what is to be done about an item.
func (c *client) update(it *item) {
	w := it.work
	delete(c.removals, it)
	switch c.action(it) {
	case actSettle:
		c.settle(it)
	case actStuck:
		w.held = ""
		c.unblock(it)
		c.become(it, stuck)
	case actWait:
		c.unblock(it)
		c.become(it, pending)
		if !same(w.sent, w.want) && w.flights < maxFlights {
			c.alarm(it, w.lastSent.Add(patience))
		}
	case actRemove:
		c.unblock(it)
		c.become(it, pending)
		c.removals[it] = struct{}{}
		c.sweepDue = true
	case actSend:
		c.unblock(it)
		c.become(it, pending)
		c.enqueue(it)
	}
}

func (c *client) enqueue(it *item) {
	switch {
	case it.queued:
	case it.work.alone:
		it.typ.alone.push(it)
	default:
		it.typ.queue.push(it)
	}
}

// verdict is whether an item may be sent, as far as what it needs goes.
type verdict uint8

const (
	goes verdict = iota
	waits
	held
)

// gate decides whether the version of an item that is to be sent may go. If
// not, it returns the first need that is in the way.
func (c *client) gate(it *item) (verdict, *item, string) {
	e := it.work.want
	for _, n := range e.needs {
		t := c.byURL[n.TypeURL]
		if t == nil || !t.seen || n.TypeURL == EndpointsType {
			continue // not taken from here; or goes right behind
		}
		ni := t.items[n.Name]
		if !t.wildcard && len(t.globs) == 0 {
			// Asked for by name, perhaps only once this has come. A change
			// of what it has already goes first, even if it is refused.
			if ni != nil && ni.work != nil && ni.work.state == pending && ni.acked != nil && !c.overdue(ni) {
				return waits, ni, ""
			}
			continue
		}
		if ni == nil {
			ni = t.item(n.Name) // to be woken by
		}
		nw := ni.work
		switch {
		case nw == nil && ni.acked != nil:
		case nw == nil || nw.want == nil && ni.acked == nil:
			return held, ni, "needs " + short(n) + ", which does not exist"
		case nw.flights > 0 && nw.sent == nil:
			return waits, ni, "" // on its way out; it comes back after that
		case nw.want == nil:
			// In force, and kept for as long as this needs it.
		case ni.acked != nil && !ni.acked.unknown && nw.since > e.seq:
			// What is to come is newer than this.
		case nw.state == stuck && ni.acked != nil:
			// Its last good version is in force.
		case nw.state == stuck && nw.rejected != nil:
			return held, ni, "needs " + short(n) + ", which the proxy refused: " + nw.reason
		case nw.state == stuck:
			return held, ni, "needs " + short(n) + ", which is held back: " + nw.held
		case !c.overdue(ni):
			return waits, ni, ""
		default:
			c.srv.opts.Log.Warn("proxy did not acknowledge in time what is needed; going on",
				"node", c.node.GetId(), "needed", short(n), "by", short(it.ref()), "after", c.srv.opts.WarmLimit)
		}
	}
	return goes, nil, ""
}

// overdue reports whether the client had its time to acknowledge an item.
func (c *client) overdue(it *item) bool {
	w := it.work
	return w.flights > 0 && !c.now.Before(w.firstSent.Add(c.srv.opts.WarmLimit))
}

// block makes an item wait for another.
func (c *client) block(it, on *item) {
	w := it.work
	w.blocker = on
	set := c.waiting[on]
	if set == nil {
		set = map[*item]struct{}{}
		c.waiting[on] = set
	}
	set[it] = struct{}{}
	if on.work != nil && on.work.flights > 0 {
		c.alarm(it, on.work.firstSent.Add(c.srv.opts.WarmLimit))
	}
}

func (c *client) unblock(it *item) {
	w := it.work
	if w.blocker == nil {
		return
	}
	on := w.blocker
	w.blocker = nil
	if w.counted {
		w.counted = false
		it.typ.blocked--
	}
	delete(c.waiting[on], it)
	if len(c.waiting[on]) == 0 {
		delete(c.waiting, on)
		c.release(on)
	}
}

// wake looks again at what waits for an item.
func (c *client) wake(on *item) {
	for it := range c.waiting[on] {
		c.unblock(it)
		it.work.held = ""
		c.update(it)
	}
}

// ready pops the next item of a queue that may be sent. It puts those that
// may not where they belong.
func (c *client) ready(q *fifo) *item {
	for q.len() > 0 {
		it := q.pop()
		if it.work == nil || it.work.blocker != nil || c.action(it) != actSend {
			continue
		}
		v, on, why := c.gate(it)
		switch v {
		case goes:
			return it
		case waits:
			c.block(it, on)
			it.work.counted = true
			it.typ.blocked++
		case held:
			c.block(it, on)
			it.work.held = why
			c.become(it, stuck)
			c.wake(it)
		}
	}
	return nil
}

// next returns the next response: the first type in order that has one.
func (c *client) next() *discovery.DeltaDiscoveryResponse {
	if r := c.behind; r != nil {
		c.behind = nil
		return r
	}
	for _, t := range c.types {
		if r := c.nextOf(t); r != nil {
			return r
		}
	}
	return c.nextRemoval()
}

func (c *client) nextOf(t *typeState) *discovery.DeltaDiscoveryResponse {
	if len(t.missing) > 0 {
		// Subscribed by name, and there is no such thing: saying so ends the
		// client's wait.
		names := sorted(t.missing)
		t.missing = nil
		return c.response(t, nil, names)
	}
	if t.opening && t.blocked > 0 && c.now.Before(t.opened.Add(c.srv.opts.WarmLimit)) {
		return nil
	}
	var batch []*item
	if t.opening || t.queue.len() > c.srv.opts.Single || t.url == ListenerType && c.removing(t) {
		for {
			it := c.ready(&t.queue)
			if it == nil {
				break
			}
			if it.work.want.suspect.Load() {
				it.work.alone = true
				t.alone.push(it)
				continue
			}
			batch = append(batch, it)
		}
		if t.opening && t.blocked > 0 && c.now.Before(t.opened.Add(c.srv.opts.WarmLimit)) {
			for _, it := range batch {
				t.queue.push(it)
			}
			return nil
		}
	} else if it := c.ready(&t.queue); it != nil {
		return c.send(t, []*item{it})
	}
	if len(batch) == 0 {
		if it := c.ready(&t.alone); it != nil {
			t.opening = false
			return c.send(t, []*item{it})
		}
		if t.opening {
			t.opening = false
			return c.response(t, nil, nil)
		}
		return nil
	}
	t.opening = false
	return c.send(t, batch)
}
