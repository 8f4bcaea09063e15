package nftables

import (
	"context"
	"iter"

	"github.com/sluicenet/sluice/proxy"
)

// compare returns the change of elements that makes the kernel match all
// Services, given what was listed of it.
func (e *Engine) compare(ctx context.Context, found *listing, services iter.Seq[wanted]) (*change, error) {
	c := &change{engine: e}
	for _, ch := range e.chains {
		ch.uses = 0
	}
	clear(e.shared)
	some, size := []wanted(nil), 0
	for w := range services {
		some = append(some, w)
		if size += w.size(); size < e.answersAt() {
			continue
		}
		if err := e.compareSome(ctx, c, found, some); err != nil {
			return nil, err
		}
		some, size = some[:0], 0
	}
	if err := e.compareSome(ctx, c, found, some); err != nil {
		return nil, err
	}
	if err := e.readRest(ctx, found); err != nil {
		return nil, err
	}
	for _, rest := range [...]map[elementKey]string{found.elements, found.numbered} {
		for k, data := range rest {
			c.remove(k, data)
		}
		clear(rest)
	}
	return c, nil
}

// compareSome adds to a change what concerns some Services.
func (e *Engine) compareSome(ctx context.Context, c *change, found *listing, services []wanted) error {
	if err := e.readServices(ctx, found, services); err != nil {
		return err
	}
	states := make([]serviceState, 0, len(services))
	for _, w := range services {
		if w.plan != nil {
			w.state = found.state(w.plan).next(w.plan, e.traffic)
			e.services[w.plan.Name] = w.state
		}
		states = append(states, w.state)
	}
	if err := e.readBackends(ctx, found, states); err != nil {
		return err
	}
	for _, s := range states {
		s.elements(func(el element) {
			k := elementKey{el.place, el.key}
			list := found.elements
			if specs[el.set].numbered {
				list = found.numbered
			}
			if specs[el.set].shared {
				if e.shared[k]++; e.shared[k] > 1 {
					return
				}
			}
			data, ok := list[k]
			delete(list, k)
			if ok && data == el.data {
				delete(e.garbage, k)
				return
			}
			c.add(el, ok)
		}, func(family proxy.Family, spec chainSpec) { e.use(family, spec, nil) })
	}
	for k, data := range found.numbered {
		c.remove(k, data)
	}
	clear(found.numbered)
	return nil
}
