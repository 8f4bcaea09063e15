package nftables

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// sweep looks for elements of numbered sets that nobody knows of: slots that an
// earlier process had not yet removed when it ended, or that somebody else put
// there. Nothing points at them, so there is no hurry: each call of Verify lists
// a small portion. Where the kernel says how many elements a set has (6.16), a
// set that has as many as there should be is not listed at all.
type sweep struct {
	todo    []place
	counted bool // the sizes of those to be listed have been looked at
	at      place
	list    portions // in progress, of at
	// open starts a list on a socket of its own. Nil: sets are listed at once.
	open  func(*nfnl.Messages) (portions, error)
	close func()
}

// portions is a list in progress; [*nfnl.Listing] is one.
type portions interface {
	Next(ctx context.Context, each func(nfnl.Message)) (done bool, err error)
}

// sweepTime is how long one portion may take, or the kernel for one message if
// that is longer.
const sweepTime = 10 * time.Millisecond

// nftaSetCount is the attribute of the number of a set's elements.
const nftaSetCount = 20

// sweepAll has all numbered sets looked at.
func (e *Engine) sweepAll() {
	e.sweep.todo, e.sweep.counted = nil, false
	for _, family := range e.families {
		for id := range setCount {
			if specs[id].numbered {
				e.sweep.todo = append(e.sweep.todo, place{family, id})
			}
		}
	}
}

// sweeping reports whether there is something to look at.
func (e *Engine) sweeping() bool { return e.sweep.list != nil || len(e.sweep.todo) > 0 }

// sweepSome goes on with what is to be looked at.
func (e *Engine) sweepSome(ctx context.Context) error {
	start := time.Now()
	if len(e.sweep.todo) > 0 && !e.sweep.counted {
		if err := e.skipFull(ctx); err != nil {
			return err
		}
	}
	unknown := map[elementKey]string{}
	for e.sweeping() && time.Since(start) < sweepTime {
		if err := e.sweepNext(ctx, unknown); err != nil {
			return fmt.Errorf("nftables: list slots: %w", unsupported(err))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	e.forgetKnown(unknown)
	for k, data := range unknown {
		e.garbage[k] = data
		e.rested = start
	}
	return nil
}

// sweepNext reads one portion.
func (e *Engine) sweepNext(ctx context.Context, unknown map[elementKey]string) error {
	add := func(s seen) { unknown[elementKey{s.place, s.key}] = s.data }
	if e.sweep.open == nil {
		at := e.sweep.todo[0]
		e.sweep.todo = e.sweep.todo[1:]
		return e.dump(ctx, e.sock, at, add)
	}
	if e.sweep.list == nil {
		e.sweep.at, e.sweep.todo = e.sweep.todo[0], e.sweep.todo[1:]
		list, err := e.sweep.open(&e.listRequest(e.sweep.at).Messages)
		if err != nil {
			return err
		}
		e.sweep.list = list
	}
	done, err := e.sweep.list.Next(ctx, func(msg nfnl.Message) {
		if msg.Kind&0xff == unix.NFT_MSG_NEWSETELEM {
			parseElements(e.sweep.at, msg.Body, add)
		}
	})
	if done || err != nil {
		e.sweep.list = nil
	}
	if missing(err) {
		err = nil
	}
	return err
}

// skipFull leaves out the sets that have as many elements as they should.
func (e *Engine) skipFull(ctx context.Context) error {
	want := map[place]int{}
	for _, s := range e.services {
		s.elements(func(el element) {
			if specs[el.set].numbered {
				want[el.place]++
			}
		}, func(proxy.Family, chainSpec) {})
	}
	for k := range e.garbage {
		want[k.place]++
	}
	var rest []place
	for _, at := range e.sweep.todo {
		have, err := e.countElements(ctx, at)
		if err != nil {
			return err
		}
		if have != want[at] {
			rest = append(rest, at)
		}
	}
	e.sweep.todo, e.sweep.counted = rest, true
	return nil
}

// countElements asks how many elements a set has; -1: the kernel does not say.
func (e *Engine) countElements(ctx context.Context, at place) (int, error) {
	m := e.batch()
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETSET, 0, nfFamily(at.family))
	m.String(unix.NFTA_SET_TABLE, m.table)
	m.String(unix.NFTA_SET_NAME, specs[at.set].name)
	m.Finish()
	n := -1
	err := e.sock.Ask(ctx, &m.Messages, func(msg nfnl.Message) {
		for kind, v := range nfnl.Attributes(msg.Body[4:]) {
			if kind == nftaSetCount && len(v) == 4 {
				n = int(binary.BigEndian.Uint32(v))
			}
		}
	})
	if missing(err) {
		return 0, nil
	}
	return n, err
}

// forgetKnown deletes those elements that the engine has made.
func (e *Engine) forgetKnown(elements map[elementKey]string) {
	frontends := map[proxy.FrontendKey]struct{}{}
	for k := range elements {
		if f, ok := numberedFrontend(k); ok {
			frontends[f] = struct{}{}
		}
	}
	for _, s := range e.services {
		if s.hasAny(frontends) {
			s.elements(func(el element) { delete(elements, elementKey{el.place, el.key}) }, func(proxy.Family, chainSpec) {})
		}
	}
	for k := range e.garbage {
		delete(elements, k)
	}
}

// hasAny reports whether a Service has one of some frontends.
func (s serviceState) hasAny(frontends map[proxy.FrontendKey]struct{}) bool {
	for i := range s {
		for j := range s[i].plan.Frontends {
			if _, ok := frontends[s[i].plan.Frontends[j].Key(s[i].plan)]; ok {
				return true
			}
		}
	}
	return false
}

// numberedFrontend reads whose slot an element is.
func numberedFrontend(k elementKey) (proxy.FrontendKey, bool) {
	entry := place{k.family, setServices}
	key := k.key
	switch k.set {
	case setNodePortSlots, setNodePortChoices, setNodePortBackends:
		entry.set = setNodePorts
	case setChoices: // has the address at its end
		if len(key) < 12 {
			return proxy.FrontendKey{}, false
		}
		return frontendKey(entry, key[12:]+key[:8])
	}
	if len(key) < 4 {
		return proxy.FrontendKey{}, false
	}
	return frontendKey(entry, key[:len(key)-4])
}
