package delta

import (
	"strconv"
	"strings"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// handle takes a request: the answer to a response, what the client has from
// an earlier stream, what it subscribes to.
func (c *client) handle(req *discovery.DeltaDiscoveryRequest) {
	if req.GetResponseNonce() != "" {
		c.answered(req)
	}
	t := c.typeOf(req.GetTypeUrl())
	first := !t.seen
	t.seen = true
	if first {
		c.adopt(t, req.GetInitialResourceVersions())
	}
	if first && len(req.GetResourceNamesSubscribe()) == 0 {
		c.subscribeAll(t)
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		c.subscribe(t, name, req.GetInitialResourceVersions())
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		c.unsubscribe(t, name)
	}
}

// adopt takes over what a reconnected client has.
func (c *client) adopt(t *typeState, versions map[string]string) {
	for name, v := range versions {
		c.resumed = true
		it := t.item(name)
		e, member := c.lookup(it.ref())
		if e != nil {
			it.member = uint8(member)
		}
		if e != nil && e.version != v && e.last != nil {
			e = e.last
		}
		if e == nil || e.version != v {
			e = &entry{ref: it.ref(), version: v, unknown: true}
		}
		c.setAcked(it, e)
	}
}

func (c *client) subscribeAll(t *typeState) {
	if t.wildcard {
		return
	}
	t.wildcard = true
	t.opening, t.opened = true, c.now
	c.evaluateAll(t)
}

func (c *client) subscribe(t *typeState, name string, has map[string]string) {
	if name == "*" {
		c.subscribeAll(t)
		return
	}
	if prefix, ok := strings.CutSuffix(name, "/*"); ok {
		if t.globs == nil {
			t.globs = map[string]struct{}{}
		}
		t.globs[prefix+"/"] = struct{}{}
		c.evaluateAll(t)
		if t.queue.len() == 0 && t.blocked == 0 {
			c.miss(t, name)
		}
		return
	}
	it := t.item(name)
	it.subscribed = true
	if _, ok := has[name]; !ok {
		// Asking means not having, whatever was acknowledged before.
		if !t.wildcard {
			c.setAcked(it, nil)
		}
		if it.work == nil {
			c.begin(it)
		}
		it.work.force = true
	}
	c.evaluate(it)
}

// miss answers that there is no such resource (yet).
func (c *client) miss(t *typeState, name string) {
	if t.missing == nil {
		t.missing = map[string]struct{}{}
	}
	t.missing[name] = struct{}{}
}

func (c *client) unsubscribe(t *typeState, name string) {
	if name == "*" {
		t.wildcard, t.opening = false, false
		c.evaluateAll(t)
		return
	}
	if prefix, ok := strings.CutSuffix(name, "/*"); ok {
		delete(t.globs, prefix+"/")
		c.evaluateAll(t)
		return
	}
	delete(t.missing, name)
	if it := t.items[name]; it != nil {
		it.subscribed = false
		if it.work != nil {
			it.work.force = false
		}
		c.evaluate(it)
	}
}

// answered takes the client's answer to a response.
func (c *client) answered(req *discovery.DeltaDiscoveryRequest) {
	nonce, err := strconv.ParseUint(req.GetResponseNonce(), 10, 64)
	f := c.flights[nonce]
	if err != nil || f == nil {
		return // of an earlier stream, or twice
	}
	delete(c.flights, nonce)
	if req.GetErrorDetail() != nil {
		c.refused(f, nonce, strings.TrimSpace(req.GetErrorDetail().GetMessage()))
		return
	}
	c.srv.opts.Observer.Acknowledged(f.typ.url, c.now.Sub(f.at))
	for _, fl := range f.sent {
		c.landed(fl.item)
		c.inForce(fl.item, fl.entry, nonce)
		c.need(fl.entry, -1)
		c.evaluate(fl.item)
	}
	for _, it := range f.removed {
		c.landed(it)
		c.inForce(it, nil, nonce)
		c.evaluate(it)
	}
}

// landed notes that a flight of an item has ended.
func (c *client) landed(it *item) {
	w := it.work
	if w.flights--; w.flights > 0 {
		w.firstSent = w.lastSent
	}
}

// inForce notes what the client acknowledged.
func (c *client) inForce(it *item, e *entry, nonce uint64) {
	w := it.work
	if nonce < w.ackedAt {
		return
	}
	w.ackedAt = nonce
	c.setAcked(it, e)
	w.alone = false
	if w.maybe != nil {
		c.need(w.maybe, -1)
		w.maybe = nil
	}
	if e != nil {
		w.since = max(w.since, e.seq+1)
	}
}

// refused takes a rejection. Of a response with one resource it is that one,
// which stays at its last good version until it changes again. Of a response
// with more nobody knows which, or which of them were applied all the same:
// all are sent again, each by itself.
func (c *client) refused(f *flight, nonce uint64, reason string) {
	t := f.typ
	t.nacks++
	t.lastError = reason
	c.srv.opts.Observer.Rejected(t.url)
	c.srv.opts.Log.Warn("proxy refused a response", "node", c.node.GetId(), "type", short(Ref{t.url, ""}),
		"resources", len(f.sent), "first", firstName(f), "reason", reason)
	for _, it := range f.removed {
		c.landed(it)
		if len(f.sent) == 0 {
			c.inForce(it, nil, nonce) // there is nothing better to be done
		}
		c.evaluate(it)
	}
	for _, fl := range f.sent {
		it, w := fl.item, fl.item.work
		c.landed(it)
		if len(f.sent) == 1 {
			fl.entry.suspect.Store(true)
			c.need(fl.entry, -1)
			if same(w.want, fl.entry) {
				w.rejected, w.reason = fl.entry, reason
			}
		} else {
			if w.maybe != nil {
				c.need(w.maybe, -1)
			}
			w.maybe = fl.entry
			w.alone = true
		}
		c.evaluate(it)
	}
}

func firstName(f *flight) string {
	if len(f.sent) == 0 {
		return ""
	}
	return f.sent[0].item.name
}
