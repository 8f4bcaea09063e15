package ipvs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// tableName is the name of our table in either family.
const tableName = "sluice-ipvs"

// The priorities are those that nft calls dstnat and srcnat. IPVS comes later at
// all hooks, and masquerading later still.
var baseChains = []struct {
	name     string
	hook     uint32
	priority int32
}{
	{chainPrerouting, unix.NF_INET_PRE_ROUTING, -100},
	{chainOutput, unix.NF_INET_LOCAL_OUT, -100},
	{chainPostrouting, unix.NF_INET_POST_ROUTING, 100},
}

// staticChains are in an order in which each exists before it is gone to.
var staticChains = []string{chainRefuse, chainUnknownPort, chainServices, chainPostrouting, chainPrerouting, chainOutput}

func addTable(m *nfnl.Messages, family proxy.Family) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, netfilterFamily(family))
	m.String(unix.NFTA_TABLE_NAME, tableName)
	m.Finish()
}

func deleteTable(m *nfnl.Messages, family proxy.Family) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELTABLE, 0, netfilterFamily(family))
	m.String(unix.NFTA_TABLE_NAME, tableName)
	m.Finish()
}

// flushTable deletes the rules of all chains.
func flushTable(m *nfnl.Messages, family proxy.Family) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELRULE, 0, netfilterFamily(family))
	m.String(unix.NFTA_RULE_TABLE, tableName)
	m.Finish()
}

func addChain(m *nfnl.Messages, family proxy.Family, name string) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, netfilterFamily(family))
	m.String(unix.NFTA_CHAIN_TABLE, tableName)
	m.String(unix.NFTA_CHAIN_NAME, name)
	for _, base := range baseChains {
		if base.name == name {
			h := m.Nest(unix.NFTA_CHAIN_HOOK)
			m.Uint32(unix.NFTA_HOOK_HOOKNUM, base.hook)
			m.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(base.priority))
			m.End(h)
			m.String(unix.NFTA_CHAIN_TYPE, "nat")
		}
	}
	m.Finish()
}

func deleteChain(m *nfnl.Messages, family proxy.Family, name string) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELCHAIN, 0, netfilterFamily(family))
	m.String(unix.NFTA_CHAIN_TABLE, tableName)
	m.String(unix.NFTA_CHAIN_NAME, name)
	m.Finish()
}

func flushRules(m *nfnl.Messages, family proxy.Family, chain string) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELRULE, 0, netfilterFamily(family))
	m.String(unix.NFTA_RULE_TABLE, tableName)
	m.String(unix.NFTA_RULE_CHAIN, chain)
	m.Finish()
}

// setRules appends the messages that give a chain its rules, in place of what it
// had. Packets see either the old ones or the new.
func setRules(m *nfnl.Messages, family proxy.Family, chain string, list []rule) error {
	flushRules(m, family, chain)
	for _, r := range list {
		m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, netfilterFamily(family))
		m.String(unix.NFTA_RULE_TABLE, tableName)
		m.String(unix.NFTA_RULE_CHAIN, chain)
		all := m.Nest(unix.NFTA_RULE_EXPRESSIONS)
		for _, e := range r {
			b, err := expr.Marshal(netfilterFamily(family), e)
			if err != nil {
				return fmt.Errorf("ipvs: rule of chain %s: %w", chain, err)
			}
			m.Bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b)
		}
		m.End(all)
		m.Finish()
	}
	return nil
}

// define appends the messages that make the table with all its sets and the
// chains that are always there. What is there already stays, with new rules.
func (r rules) define(m *nfnl.Messages) error {
	addTable(m, r.family)
	for id := range setCount {
		createSet(m, place{r.family, id})
	}
	for _, name := range staticChains {
		addChain(m, r.family, name)
	}
	static := r.static()
	for _, name := range staticChains {
		if err := setRules(m, r.family, name, static[name]); err != nil {
			return err
		}
	}
	return nil
}

// chainKey identifies a chain.
type chainKey struct {
	family proxy.Family
	name   string
}

// tables is what the kernel has of our tables.
type tables struct {
	elements map[elementKey]string // but those of the node's networks
	ranges   map[elementKey]bool   // the first keys of those
	rules    map[chainKey]uint64   // a hash of each chain's rules
}

// filter is the netlink socket of nf_tables; [*nfnl.Socket] is one.
type filter interface {
	Commit(m *nfnl.Messages) error
	Try(m *nfnl.Messages) error
	Ask(ctx context.Context, m *nfnl.Messages, each func(nfnl.Message)) error
	Limit() int
	Close()
}

// listTables reads our tables.
func listTables(ctx context.Context, f filter, families []proxy.Family) (*tables, error) {
	for attempt := 0; ; attempt++ {
		t, err := listOnce(ctx, f, families)
		if err == nil {
			return t, nil
		}
		if !errors.Is(err, nfnl.ErrInterrupted) || attempt == 5 {
			return nil, fmt.Errorf("ipvs: list tables: %w", err)
		}
	}
}

func listOnce(ctx context.Context, f filter, families []proxy.Family) (*tables, error) {
	t := &tables{elements: map[elementKey]string{}, ranges: map[elementKey]bool{}, rules: map[chainKey]uint64{}}
	for _, family := range families {
		m := &nfnl.Messages{}
		m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETTABLE, 0, netfilterFamily(family))
		m.String(unix.NFTA_TABLE_NAME, tableName)
		m.Finish()
		if err := f.Ask(ctx, m, func(nfnl.Message) {}); missing(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		if err := listChains(ctx, f, family, t.rules); err != nil {
			return nil, err
		}
		for id := range setCount {
			whole := false
			for _, n := range ofNode {
				whole = whole || n == id
			}
			err := listSet(ctx, f, place{family, id}, func(e element) {
				if whole {
					t.ranges[e.elementKey] = true
				} else {
					t.elements[e.elementKey] = e.data
				}
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

// listSet calls each for the elements of a set. A set that is not there has none.
func listSet(ctx context.Context, f filter, at place, each func(element)) error {
	m := &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, netfilterFamily(at.family))
	m.String(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
	m.String(unix.NFTA_SET_ELEM_LIST_SET, specs[at.set].name)
	m.Finish()
	err := f.Ask(ctx, m, func(msg nfnl.Message) {
		if msg.Kind&0xff == unix.NFT_MSG_NEWSETELEM {
			parseElements(at, msg.Body, each)
		}
	})
	if missing(err) {
		return nil
	}
	return err
}

// listChains reads the names of all chains of a table and a hash of each one's
// rules.
func listChains(ctx context.Context, f filter, family proxy.Family, to map[chainKey]uint64) error {
	m := &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, netfilterFamily(family))
	m.Finish()
	err := f.Ask(ctx, m, func(msg nfnl.Message) {
		if table, name := namesIn(msg, unix.NFTA_CHAIN_NAME); table == tableName {
			to[chainKey{family, name}] = 0
		}
	})
	if err != nil {
		return err
	}
	m = &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, netfilterFamily(family))
	m.String(unix.NFTA_RULE_TABLE, tableName)
	m.Finish()
	return f.Ask(ctx, m, func(msg nfnl.Message) {
		table, name := namesIn(msg, unix.NFTA_RULE_CHAIN)
		if table != tableName {
			return
		}
		k := chainKey{family, name}
		h := fnv.New64a()
		_, _ = h.Write(binary.NativeEndian.AppendUint64(nil, to[k]))
		for kind, v := range nfnl.Attributes(msg.Body[4:]) {
			if kind == unix.NFTA_RULE_EXPRESSIONS {
				_, _ = h.Write(v)
			}
		}
		to[k] = h.Sum64()
	})
}

// namesIn returns the table of a message, whose attribute has the same number in
// all of them, and the name in another attribute.
func namesIn(msg nfnl.Message, attribute uint16) (table, name string) {
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

// missing reports whether an object, or its whole family, is not there.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

// generation asks for the number of the rule set, which counts everybody's
// transactions.
func generation(ctx context.Context, f filter) (uint32, error) {
	m := &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETGEN, 0, unix.NFPROTO_UNSPEC)
	m.Finish()
	var id uint32
	err := f.Ask(ctx, m, func(msg nfnl.Message) {
		for kind, v := range nfnl.Attributes(msg.Body[4:]) {
			if kind == unix.NFTA_GEN_ID && len(v) == 4 {
				id = binary.BigEndian.Uint32(v)
			}
		}
	})
	if err != nil {
		return 0, fmt.Errorf("ipvs: generation of the rule set: %w", err)
	}
	return id, nil
}
