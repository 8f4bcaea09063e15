package nftables

import (
	"fmt"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// tableName is the name of our table in either family; spareName is that of one
// which serves while a table of another layout is being replaced.
const (
	tableName = "sluice"
	spareName = "sluice-next"
)

// nfAccept is NF_ACCEPT, the verdict of a chain that says nothing.
const nfAccept = 1

// batch is messages about one table.
type batch struct {
	nfnl.Messages
	table string
	// counted is what elements have counted that are replaced.
	counted map[elementKey]proxy.Traffic
}

// batch returns an empty one.
func (e *Engine) batch() *batch { return &batch{table: e.table} }

// transaction returns the beginning of one.
func (e *Engine) transaction() *batch {
	m := e.batch()
	m.BeginBatch()
	return m
}

// hook is where a base chain is attached.
type hook struct {
	number   uint32
	priority int32
	kind     string
}

// The priorities are those that nft calls dstnat and srcnat. What nobody serves
// is looked at after everybody's dstnat, for other service proxies on the node
// have addresses of the same ranges.
//
// Packets are counted where they come in or are made, behind translation: at hooks
// that are passed through anyway, for the first chain at a hook costs most.
var baseChains = []struct {
	name string
	hook hook
}{
	{chainPrerouting, hook{unix.NF_INET_PRE_ROUTING, -100, "nat"}},
	{chainOutput, hook{unix.NF_INET_LOCAL_OUT, -100, "nat"}},
	{chainPreroutingLate, hook{unix.NF_INET_PRE_ROUTING, -90, "nat"}},
	{chainOutputLate, hook{unix.NF_INET_LOCAL_OUT, -90, "nat"}},
	{chainPostrouting, hook{unix.NF_INET_POST_ROUTING, 100, "nat"}},
	{chainTraffic + "prerouting", hook{unix.NF_INET_PRE_ROUTING, -80, "filter"}},
	{chainTraffic + "output", hook{unix.NF_INET_LOCAL_OUT, -80, "filter"}},
}

// optional reports whether a base chain is there only where packets are counted.
func optional(name string) bool { return strings.HasPrefix(name, chainTraffic) }

// addTable appends the message that makes the table, or finds it there.
func addTable(m *batch, family proxy.Family) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, nfFamily(family))
	m.String(unix.NFTA_TABLE_NAME, m.table)
	m.Finish()
}

// flushTable deletes the rules of all chains.
func flushTable(m *batch, family proxy.Family) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELRULE, 0, nfFamily(family))
	m.String(unix.NFTA_RULE_TABLE, m.table)
	m.Finish()
}

func deleteTable(m *batch, family proxy.Family) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELTABLE, 0, nfFamily(family))
	m.String(unix.NFTA_TABLE_NAME, m.table)
	m.Finish()
}

// addChain appends the message that makes a chain, or finds it there.
func addChain(m *batch, family proxy.Family, name string, at *hook) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, nfFamily(family))
	m.String(unix.NFTA_CHAIN_TABLE, m.table)
	m.String(unix.NFTA_CHAIN_NAME, name)
	if at != nil {
		h := m.Nest(unix.NFTA_CHAIN_HOOK)
		m.Uint32(unix.NFTA_HOOK_HOOKNUM, at.number)
		m.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(at.priority))
		m.End(h)
		m.Uint32(unix.NFTA_CHAIN_POLICY, nfAccept)
		m.String(unix.NFTA_CHAIN_TYPE, at.kind)
	}
	m.Finish()
}

func deleteChain(m *batch, family proxy.Family, name string) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELCHAIN, 0, nfFamily(family))
	m.String(unix.NFTA_CHAIN_TABLE, m.table)
	m.String(unix.NFTA_CHAIN_NAME, name)
	m.Finish()
}

// setRules appends the messages that give a chain its rules, in place of what
// it had. Packets see either the old ones or the new.
func setRules(m *batch, family proxy.Family, chain string, list []rule) error {
	flushRules(m, family, chain)
	for _, r := range list {
		m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, nfFamily(family))
		m.String(unix.NFTA_RULE_TABLE, m.table)
		m.String(unix.NFTA_RULE_CHAIN, chain)
		all := m.Nest(unix.NFTA_RULE_EXPRESSIONS)
		for _, e := range r {
			if ct, ok := e.(*expr.Ct); ok {
				putTracked(m, ct)
				continue
			}
			b, err := expr.Marshal(nfFamily(family), e)
			if err != nil {
				return fmt.Errorf("nftables: rule of chain %s: %w", chain, err)
			}
			m.Bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b)
		}
		m.End(all)
		m.Finish()
	}
	return nil
}

// putTracked appends an expression that loads what connection tracking knows. The
// library leaves out the direction of addresses with a family, and nft aborts on
// those without one, whose length it does not know.
func putTracked(m *batch, x *expr.Ct) {
	item := m.Nest(unix.NFTA_LIST_ELEM)
	m.String(unix.NFTA_EXPR_NAME, "ct")
	data := m.Nest(unix.NFTA_EXPR_DATA)
	m.Uint32(unix.NFTA_CT_KEY, uint32(x.Key))
	m.Uint32(unix.NFTA_CT_DREG, x.Register)
	if x.Key != expr.CtKeySTATUS {
		m.Bytes(unix.NFTA_CT_DIRECTION, []byte{byte(x.Direction)})
	}
	m.End(data)
	m.End(item)
}

func flushRules(m *batch, family proxy.Family, chain string) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELRULE, 0, nfFamily(family))
	m.String(unix.NFTA_RULE_TABLE, m.table)
	m.String(unix.NFTA_RULE_CHAIN, chain)
	m.Finish()
}

// static returns the rules of the chains that are always there.
func (r rules) static() map[string][]rule {
	all := map[string][]rule{
		chainRefuse:         r.refuse(),
		chainServices:       r.services(),
		chainUnserved:       r.unserved(),
		chainPrerouting:     {{goTo(chainServices)}},
		chainOutput:         {{goTo(chainServices)}},
		chainPreroutingLate: {{goTo(chainUnserved)}},
		chainOutputLate:     {{goTo(chainUnserved)}},
		chainPostrouting:    r.postrouting(),
	}
	if r.traffic {
		for _, c := range baseChains {
			if optional(c.name) {
				all[c.name] = r.countTraffic(c.hook)
			}
		}
	}
	return all
}

// define appends the messages that make the table with all its sets and the
// chains that are always there, other than those that packets enter by. What is
// there already stays, with new rules.
func (r rules) define(m *batch) error {
	addTable(m, r.family)
	for i := range specs {
		specs[i].create(m, r.family)
	}
	static := r.static()
	for _, name := range []string{chainRefuse, chainServices, chainUnserved} {
		addChain(m, r.family, name, nil)
		if err := setRules(m, r.family, name, static[name]); err != nil {
			return err
		}
	}
	return nil
}

// attach appends the messages that make the chains that packets enter by.
func (r rules) attach(m *batch) error {
	static := r.static()
	for i := range baseChains {
		if static[baseChains[i].name] != nil {
			addChain(m, r.family, baseChains[i].name, &baseChains[i].hook)
		}
	}
	for i := range baseChains {
		if list := static[baseChains[i].name]; list != nil {
			if err := setRules(m, r.family, baseChains[i].name, list); err != nil {
				return err
			}
		}
	}
	return nil
}
