package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// listing is what the kernel has of our tables.
type listing struct {
	tables   map[proxy.Family]bool // that are there
	elements map[elementKey]string
	// numbered are elements of numbered sets, as far as they were asked for.
	numbered map[elementKey]string
	chains   []chainKey // those for frontends
	rules    map[chainKey]uint64
}

// list reads both tables. What is learnt from the packet path is left out, and so
// are the ranges, which are always written anew, and what is asked for by number.
func (e *Engine) list(ctx context.Context) (*listing, error) {
	for attempt := 0; ; attempt++ {
		l, err := e.listOnce(ctx)
		if !errors.Is(err, nfnl.ErrInterrupted) || attempt == 5 {
			if err != nil {
				err = fmt.Errorf("nftables: list: %w", unsupported(err))
			}
			return l, err
		}
	}
}

func (e *Engine) listOnce(ctx context.Context) (*listing, error) {
	l := &listing{tables: map[proxy.Family]bool{}, elements: map[elementKey]string{}, numbered: map[elementKey]string{}, rules: map[chainKey]uint64{}}
	for _, family := range e.families {
		if ok, err := e.hasTable(ctx, family, e.table); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		l.tables[family] = true
		if err := e.listChains(ctx, family, l); err != nil {
			return nil, err
		}
		for id := range setCount {
			if specs[id].dynamic || specs[id].node || specs[id].numbered {
				continue
			}
			at := place{family, id}
			err := e.listElements(ctx, at, func(el element) { l.elements[elementKey{at, el.key}] = el.data })
			if err != nil {
				return nil, err
			}
		}
	}
	return l, nil
}

// listElements calls each for the elements of a set; a set that is not there has
// none.
func (e *Engine) listElements(ctx context.Context, at place, each func(element)) error {
	return e.dump(ctx, e.sock, at, func(s seen) { each(s.element) })
}

// dump is listElements by way of any socket, with what the elements counted.
func (e *Engine) dump(ctx context.Context, k kernel, at place, each func(seen)) error {
	err := k.Ask(ctx, &e.listRequest(at).Messages, func(msg nfnl.Message) {
		if msg.Kind&0xff == unix.NFT_MSG_NEWSETELEM {
			parseElements(at, msg.Body, each)
		}
	})
	if missing(err) {
		return nil
	}
	return err
}

// listRequest asks for all elements of a set.
func (e *Engine) listRequest(at place) *batch {
	m := e.batch()
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, nfFamily(at.family))
	m.String(unix.NFTA_SET_ELEM_LIST_TABLE, m.table)
	m.String(unix.NFTA_SET_ELEM_LIST_SET, specs[at.set].name)
	m.Finish()
	return m
}

// listChains reads the names of all chains and a hash of each one's policy, hook
// and rules.
func (e *Engine) listChains(ctx context.Context, family proxy.Family, l *listing) error {
	static := e.rules(family).static()
	m := e.batch()
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, nfFamily(family))
	m.Finish()
	err := e.sock.Ask(ctx, &m.Messages, func(msg nfnl.Message) {
		if table, name := names(msg, unix.NFTA_CHAIN_NAME); table == e.table {
			k := chainKey{family, name}
			l.rules[k] = policyHash(msg)
			if static[name] == nil {
				l.chains = append(l.chains, k)
			}
		}
	})
	if err != nil {
		return err
	}
	m = e.batch()
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, nfFamily(family))
	m.String(unix.NFTA_RULE_TABLE, e.table)
	m.Finish()
	return e.sock.Ask(ctx, &m.Messages, func(msg nfnl.Message) {
		table, name := names(msg, unix.NFTA_RULE_CHAIN)
		if table != e.table {
			return
		}
		k := chainKey{family, name}
		h := fnv.New64a()
		_, _ = h.Write(binary.NativeEndian.AppendUint64(nil, l.rules[k]))
		for kind, v := range nfnl.Attributes(msg.Body[4:]) {
			if kind == unix.NFTA_RULE_EXPRESSIONS {
				_, _ = h.Write(v)
			}
		}
		l.rules[k] = h.Sum64()
	})
}

// policyHash returns a hash of what packets meet of a chain besides its rules.
func policyHash(msg nfnl.Message) uint64 {
	h := fnv.New64a()
	for kind, v := range nfnl.Attributes(msg.Body[4:]) {
		switch kind {
		case unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE:
			_, _ = h.Write(v)
		}
	}
	return h.Sum64()
}

// names returns the table of a message, whose attribute has the same number in
// all of them, and the name in another attribute.
func names(msg nfnl.Message, attribute uint16) (table, name string) {
	for kind, v := range nfnl.Attributes(msg.Body[4:]) {
		if len(v) == 0 {
			continue
		}
		switch kind {
		case unix.NFTA_CHAIN_TABLE:
			table = string(v[:len(v)-1])
		case attribute:
			name = string(v[:len(v)-1])
		}
	}
	return table, name
}

// state returns the slots that the kernel has for a Service, for the next state
// to take over.
func (l *listing) state(s *proxy.Service) serviceState {
	out := make(serviceState, 0, len(s.Ports))
	for _, p := range s.Ports {
		was := *p
		old := portState{service: s.Name, plan: &was}
		if len(p.Frontends) > 0 {
			was.Cluster, old.cluster = l.slots(&old, &p.Frontends[0], 0, len(p.Cluster))
			was.Local, old.local = l.slots(&old, &p.Frontends[0], localSlots, len(p.Local))
		}
		out = append(out, old)
	}
	return out
}

// slots reads a frontend's slots. Each has a backend of its own.
func (l *listing) slots(s *portState, f *proxy.Frontend, from uint32, hint int) ([]proxy.Backend, slotTable) {
	slots, choices, translations := numberedSets(f)
	key, choice := s.keys(f)
	get := func(set setID, key string) (string, bool) {
		data, ok := l.numbered[elementKey{place{s.plan.Family, set}, key}]
		return data, ok
	}
	backends, out := make([]proxy.Backend, 0, hint), make(slotTable, 0, hint)
	for n := from; ; n++ {
		var data string
		var ok bool
		if s.plan.Affinity == 0 {
			data, ok = get(slots, key(n))
		} else if data, ok = get(choices, choice(n)); ok && len(data) == 4 {
			data, _ = get(translations, key(binary.NativeEndian.Uint32([]byte(data))))
		}
		if !ok {
			return backends, out
		}
		backend, _ := parseAddrPort(data)
		if !backend.IsValid() {
			backend = netip.AddrPort{}
		}
		out = append(out, uint32(len(backends)))
		backends = append(backends, proxy.Backend{AddrPort: backend})
	}
}
