package nftables

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// fakeKernel executes transactions in memory, with the kernel's checks of what
// is there and what is referred to.
type fakeKernel struct {
	limit      int
	generation uint32
	elements   map[elementKey]string
	chains     map[chainKey]int // the number of rules
	commits    int
	// after is called after every transaction.
	after func()
}

func newFakeKernel() *fakeKernel {
	return &fakeKernel{limit: 4 << 20, elements: map[elementKey]string{}, chains: map[chainKey]int{}}
}

func (k *fakeKernel) Limit() int { return k.limit }

func (k *fakeKernel) Close() {}

func (k *fakeKernel) Try(*nfnl.Messages) error { return nil }

func (k *fakeKernel) Commit(m *nfnl.Messages) error {
	if m.Len() > k.limit {
		return fmt.Errorf("transaction of %d bytes: %w", m.Len(), unix.EMSGSIZE)
	}
	elements, chains := maps.Clone(k.elements), maps.Clone(k.chains)
	m.EndBatch()
	for msg := range m.All() {
		if msg.Kind>>8 != unix.NFNL_SUBSYS_NFTABLES {
			continue
		}
		if err := execute(msg, elements, chains); err != nil {
			return fmt.Errorf("%s: %w", describe(msg), err)
		}
	}
	for key, data := range elements {
		if specs[key.set].verdict && data != verdictDrop {
			if _, ok := chains[chainKey{key.family, data}]; !ok {
				return fmt.Errorf("verdict goes to missing chain %s: %w", data, unix.ENOENT)
			}
		}
	}
	k.elements, k.chains = elements, chains
	k.generation++
	k.commits++
	if k.after != nil {
		k.after()
	}
	return nil
}

func execute(msg nfnl.Message, elements map[elementKey]string, chains map[chainKey]int) error {
	family := proxy.IPv4
	if msg.Body[0] == unix.NFPROTO_IPV6 {
		family = proxy.IPv6
	}
	switch msg.Kind & 0xff {
	case unix.NFT_MSG_NEWCHAIN:
		_, name := names(msg, unix.NFTA_CHAIN_NAME)
		chains[chainKey{family, name}] += 0
	case unix.NFT_MSG_DELCHAIN:
		_, name := names(msg, unix.NFTA_CHAIN_NAME)
		if _, ok := chains[chainKey{family, name}]; !ok {
			return unix.ENOENT
		}
		delete(chains, chainKey{family, name})
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		_, name := names(msg, unix.NFTA_RULE_CHAIN)
		if _, ok := chains[chainKey{family, name}]; !ok {
			return unix.ENOENT
		}
		if msg.Kind&0xff == unix.NFT_MSG_DELRULE {
			chains[chainKey{family, name}] = 0
		} else {
			chains[chainKey{family, name}]++
		}
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		return executeElements(msg, family, elements)
	}
	return nil
}

func executeElements(msg nfnl.Message, family proxy.Family, elements map[elementKey]string) error {
	_, name := names(msg, unix.NFTA_SET_ELEM_LIST_SET)
	at := place{family, setCount}
	for id := range specs {
		if specs[id].name == name {
			at.set = setID(id)
		}
	}
	if at.set == setCount {
		return unix.ENOENT
	}
	var failed error
	flush := true
	parseElements(at, msg.Body, func(e seen) {
		flush = false
		key := elementKey{at, e.key + map[bool]string{true: "$"}[e.data == rangeEnd]}
		old, ok := elements[key]
		switch {
		case msg.Kind&0xff == unix.NFT_MSG_DELSETELEM && !ok:
			failed = fmt.Errorf("element %x: %w", e.key, unix.ENOENT)
		case msg.Kind&0xff == unix.NFT_MSG_DELSETELEM:
			delete(elements, key)
		case ok && old != e.data:
			failed = fmt.Errorf("element %x: %w", e.key, unix.EEXIST)
		default:
			elements[key] = e.data
		}
	})
	if flush {
		for key := range elements {
			if key.place == at {
				delete(elements, key)
			}
		}
	}
	return failed
}

// Ask answers what the engine asks for in lists.
func (k *fakeKernel) Ask(_ context.Context, m *nfnl.Messages, each func(nfnl.Message)) error {
	for msg := range m.All() {
		family := proxy.IPv4
		if msg.Body[0] == unix.NFPROTO_IPV6 {
			family = proxy.IPv6
		}
		out := &batch{table: tableName}
		switch msg.Kind & 0xff {
		case unix.NFT_MSG_GETGEN:
			out.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWGEN, 0, 0)
			out.Bytes(unix.NFTA_GEN_ID, binary.BigEndian.AppendUint32(nil, k.generation))
			out.Finish()
		case unix.NFT_MSG_GETTABLE:
			if table, _ := names(msg, unix.NFTA_TABLE_NAME); len(k.chains) == 0 || table == spareName {
				return unix.ENOENT
			}
		case unix.NFT_MSG_GETCHAIN:
			for c := range k.chains {
				if c.family == family {
					var at *hook
					for i := range baseChains {
						if baseChains[i].name == c.name {
							at = &baseChains[i].hook
						}
					}
					addChain(out, family, c.name, at)
				}
			}
		case unix.NFT_MSG_GETSETELEM:
			_, name := names(msg, unix.NFTA_SET_ELEM_LIST_SET)
			at := place{family, setCount}
			for id := range specs {
				if specs[id].name == name {
					at.set = setID(id)
				}
			}
			if msg.Flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP {
				for key, data := range k.elements {
					if key.place == at {
						putElements(out, at, []element{{at, key.key, data}}, false)
					}
				}
				break
			}
			there := true
			parseElements(at, msg.Body, func(e seen) {
				data, ok := k.elements[elementKey{at, e.key}]
				if there = there && ok; there {
					putElements(out, at, []element{{at, e.key, data}}, false)
				}
			})
		}
		for answer := range out.All() {
			answer.Sequence = msg.Sequence
			each(answer)
		}
	}
	return nil
}
