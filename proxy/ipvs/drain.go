package ipvs

import (
	"context"
	"maps"
	"net/netip"
	"time"

	"github.com/sluicenet/sluice/proxy"
)

// retireServers finds out which of the virtual servers that nobody needs any more
// have connections, and keeps what these need. A server that is needed again is
// not retired.
func (c *change) retireServers(ids []serverID) error {
	e := c.engine
	for _, id := range ids {
		if e.servers[id] != nil {
			if s := e.retired[id]; s != nil {
				delete(e.retired, id)
				e.release(s, c)
			}
			continue
		}
		if c.servers[id] == nil || !e.has(id.family) {
			continue
		}
		if err := e.retire(id, c); err != nil {
			return err
		}
	}
	return nil
}

// retire keeps a virtual server for its connections, if it has some that can end.
func (e *Engine) retire(id serverID, c *change) error {
	if id.protocol == proxy.UDP || id.protocol == 0 || e.options.DrainTimeout < 0 || e.retired[id] != nil {
		return nil
	}
	list, err := e.kernel.destinations(id)
	if missingObject(err) {
		return nil
	} else if err != nil {
		return err
	}
	busy := false
	for _, d := range list {
		busy = busy || d.connections > 0
	}
	if !busy {
		return nil
	}
	for d := range list {
		if err := e.drain(id, &server{}, d); err != nil {
			return err
		}
	}
	s := &serviceState{elements: map[elementKey]string{}, addresses: map[netip.Addr]bool{}, retired: true}
	if id.mark != 0 {
		s.elements[elementKey{place{id.family, setServerMarks}, markData(id.mark)}] = ""
	} else if a := id.addr.Addr(); !e.local[a] {
		s.addresses[a] = true
	}
	e.retired[id] = s
	e.acquire(s, c)
	return nil
}

// shrink takes away the destinations that a virtual server should not have any
// more, or the server itself.
func (e *Engine) shrink(id serverID, old, now *server) error {
	if now == nil {
		if e.retired[id] != nil {
			return nil
		}
		return e.deleteServer(id)
	}
	for _, d := range old.destinations() {
		if _, ok := now.weights[d]; !ok {
			if err := e.drain(id, now, d); err != nil {
				return err
			}
		}
	}
	// The endpoint of a UDP destination that drains may have stopped serving.
	for d := range maps.Clone(e.draining[id]) {
		if id.protocol == proxy.UDP && !now.serves(d) {
			if err := e.remove(id, d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Engine) deleteServer(id serverID) error {
	delete(e.draining, id)
	if err := e.kernel.deleteServer(id); err != nil && !missingObject(err) {
		return err
	}
	delete(e.made, id.kernelID())
	return nil
}

// drain takes a destination away: it gets no more connections, and is removed
// when the last one has ended. UDP has no connections that end, and no client
// that would wait for what is gone, so there the endpoint must go on serving.
func (e *Engine) drain(id serverID, s *server, d netip.AddrPort) error {
	serves := s.serves(d)
	if id.protocol == proxy.UDP && !serves || e.options.DrainTimeout < 0 && !serves || !s.drains() {
		return e.remove(id, d)
	}
	if err := e.kernel.setDestination(id, d, 0); missingObject(err) {
		return nil
	} else if err != nil {
		return err
	}
	if e.draining[id] == nil {
		e.draining[id] = map[netip.AddrPort]time.Time{}
	}
	e.draining[id][d] = time.Now().Add(max(e.options.DrainTimeout, 0))
	return nil
}

func (e *Engine) remove(id serverID, d netip.AddrPort) error {
	if err := e.kernel.deleteDestination(id, d); err != nil && !missingObject(err) {
		return err
	}
	e.drained(id, d)
	return nil
}

// drained forgets that a destination drains.
func (e *Engine) drained(id serverID, d netip.AddrPort) {
	if delete(e.draining[id], d); len(e.draining[id]) == 0 {
		delete(e.draining, id)
	}
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
