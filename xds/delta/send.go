package delta

import (
	"strconv"
	"strings"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// flight is a response that the client has not answered yet.
type flight struct {
	typ     *typeState
	at      time.Time
	sent    []flown
	removed []*item
}

// flown is a resource in a flight.
type flown struct {
	item  *item
	entry *entry
}

// response makes a response and notes that it is on its way.
func (c *client) response(t *typeState, sent []flown, removed []string) *discovery.DeltaDiscoveryResponse {
	c.nonce++
	c.flights[c.nonce] = &flight{typ: t, at: c.now, sent: sent}
	r := &discovery.DeltaDiscoveryResponse{
		TypeUrl:          t.url,
		Nonce:            strconv.FormatUint(c.nonce, 10),
		RemovedResources: removed,
	}
	if len(sent) > 0 {
		r.Resources = make([]*discovery.Resource, len(sent))
		for i, f := range sent {
			r.Resources[i] = f.entry.message
		}
	}
	c.srv.opts.Observer.Sent(t.url, len(sent), len(removed))
	return r
}

// send puts items on their way, in one response.
func (c *client) send(t *typeState, items []*item) *discovery.DeltaDiscoveryResponse {
	sent := make([]flown, len(items))
	var newest uint64
	for i, it := range items {
		w := it.work
		e := it.best(w.want)
		sent[i] = flown{it, e}
		newest = max(newest, e.seq)
		c.need(e, 1)
		c.launch(it, e)
	}
	var gone []*item
	if t.url == ListenerType && c.removing(t) {
		gone = c.removable(t, newest)
	}
	r := c.response(t, sent, c.launchRemovals(gone))
	c.flights[c.nonce].removed = gone
	if t.url == ClusterType {
		c.behind = c.accompany(sent)
	}
	for _, it := range items {
		c.update(it)
	}
	return r
}

// best returns what to send of an item that is asked for: the newest version,
// or the last good one if the client refused that or it is gone.
func (it *item) best(want *entry) *entry {
	w := it.work
	switch {
	case want != nil && (w == nil || !same(w.rejected, want)):
		return want
	case it.acked != nil && !it.acked.unknown:
		return it.acked
	case want != nil && want.last != nil:
		return want.last
	}
	return want
}

// launch notes that a version of an item, or its removal, is on its way.
func (c *client) launch(it *item, e *entry) {
	w := it.work
	if w.flights++; w.flights == 1 {
		w.firstSent = c.now
	}
	w.sent, w.lastSent, w.force = e, c.now, false
	if it.work.blocker == nil {
		c.remind(it)
	}
}

// remind sets the time at which those that wait for an item go on without.
func (c *client) remind(on *item) {
	for it := range c.waiting[on] {
		c.alarm(it, on.work.firstSent.Add(c.srv.opts.WarmLimit))
	}
}

// accompany returns the response with the endpoints of clusters for which the
// client may not ask, to be sent right behind them. For a changed cluster with
// endpoints of the same name Envoy never asks, and would warm until its time
// is up.
func (c *client) accompany(clusters []flown) *discovery.DeltaDiscoveryResponse {
	var sent []flown
	var none []string
	for _, f := range clusters {
		for _, n := range f.entry.needs {
			if n.TypeURL != EndpointsType {
				continue
			}
			it := c.typeOf(EndpointsType).item(n.Name)
			if f.item.acked == nil && f.item.work.flights == 1 && !it.typ.wants(it) {
				continue // new: it asks
			}
			e, _ := c.lookup(n)
			if e = it.best(e); e == nil {
				none = append(none, n.Name)
				continue
			}
			sent = append(sent, flown{it, e})
		}
	}
	if sent == nil && none == nil {
		return nil
	}
	for _, f := range sent {
		if f.item.work == nil {
			c.begin(f.item)
		}
		c.need(f.entry, 1)
		c.launch(f.item, f.entry)
	}
	r := c.response(c.typeOf(EndpointsType), sent, none)
	for _, f := range sent {
		c.evaluate(f.item)
	}
	return r
}

// removing reports whether items of a type are to be removed.
func (c *client) removing(t *typeState) bool {
	for it := range c.removals {
		if it.typ == t {
			return true
		}
	}
	return false
}

// removable returns the listeners to be removed in the response that brings
// those up to the change set newest: Envoy removes first, so that the address
// of one is free for another.
func (c *client) removable(t *typeState, newest uint64) []*item {
	last := t.queue.len()+t.alone.len()+t.blocked == 0
	var gone []*item
	for it := range c.removals {
		if it.typ == t && it.refs == 0 && (last || it.work.since <= newest) {
			gone = append(gone, it)
		}
	}
	return gone
}

// launchRemovals puts removals on their way and returns their names.
func (c *client) launchRemovals(gone []*item) []string {
	if len(gone) == 0 {
		return nil
	}
	names := make(map[string]struct{}, len(gone))
	for _, it := range gone {
		names[it.name] = struct{}{}
		delete(c.removals, it)
		c.launch(it, nil)
		c.update(it)
	}
	return sorted(names)
}

// nextRemoval returns a response that removes what nothing at the client needs
// any more, of the type that points at others first. A removal also waits for
// what was changed before it or with it: routes that replace the removed by
// their meaning, not by name.
func (c *client) nextRemoval() *discovery.DeltaDiscoveryResponse {
	if len(c.removals) == 0 || !c.sweepDue && c.now.Before(c.lastSweep.Add(c.srv.opts.WarmLimit)) {
		return nil
	}
	if c.resumed && c.now.Before(c.since.Add(c.srv.opts.Grace)) {
		return nil
	}
	c.sweepDue, c.lastSweep = false, c.now
	oldest := ^uint64(0)
	for it := range c.unsettled {
		if w := it.work; w.want != nil {
			oldest = min(oldest, w.since)
		}
	}
	var typ *typeState
	var gone []*item
	for it := range c.removals {
		w := it.work
		switch {
		case it.refs > 0 || c.unknownAbove(it.typ.level):
			continue
		case w.since >= oldest && c.now.Before(w.at.Add(c.srv.opts.WarmLimit)):
			continue
		case typ == nil || it.typ.level > typ.level:
			typ, gone = it.typ, append(gone[:0], it)
		case it.typ == typ:
			gone = append(gone, it)
		}
	}
	if typ == nil {
		return nil
	}
	c.sweepDue = true // there may be another type
	r := c.response(typ, nil, c.launchRemovals(gone))
	c.flights[c.nonce].removed = gone
	return r
}

// unknownAbove reports whether the client has something of which it is not
// known what it needs, and that could need what has the rank.
func (c *client) unknownAbove(level int) bool {
	for _, n := range c.unknown[level+1:] {
		if n > 0 {
			return true
		}
	}
	return false
}

// short is a reference as a person reads it: "Cluster a".
func short(r Ref) string {
	return r.TypeURL[strings.LastIndexByte(r.TypeURL, '.')+1:] + " " + r.Name
}
