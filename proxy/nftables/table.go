package nftables

import (
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// hook is where a base chain is attached.
type hook struct {
	number   uint32
	priority int32
}

// The priorities are those that nft calls dstnat and srcnat.
var baseChains = []struct {
	name string
	hook hook
}{
	{chainPrerouting, hook{unix.NF_INET_PRE_ROUTING, -100}},
	{chainOutput, hook{unix.NF_INET_LOCAL_OUT, -100}},
	{chainPostrouting, hook{unix.NF_INET_POST_ROUTING, 100}},
}

// addTable appends the message that makes the table, or finds it there.
func addTable(m *nfnl.Messages, family proxy.Family) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, nfFamily(family))
	m.String(unix.NFTA_TABLE_NAME, tableName)
	m.Finish()
}

func deleteTable(m *nfnl.Messages, family proxy.Family) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELTABLE, 0, nfFamily(family))
	m.String(unix.NFTA_TABLE_NAME, tableName)
	m.Finish()
}

// addChain appends the message that makes a chain, or finds it there.
func addChain(m *nfnl.Messages, family proxy.Family, name string, at *hook) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, nfFamily(family))
	m.String(unix.NFTA_CHAIN_TABLE, tableName)
	m.String(unix.NFTA_CHAIN_NAME, name)
	if at != nil {
		h := m.Nest(unix.NFTA_CHAIN_HOOK)
		m.Uint32(unix.NFTA_HOOK_HOOKNUM, at.number)
		m.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(at.priority))
		m.End(h)
		m.String(unix.NFTA_CHAIN_TYPE, "nat")
	}
	m.Finish()
}

func deleteChain(m *nfnl.Messages, family proxy.Family, name string) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELCHAIN, 0, nfFamily(family))
	m.String(unix.NFTA_CHAIN_TABLE, tableName)
	m.String(unix.NFTA_CHAIN_NAME, name)
	m.Finish()
}

// setRules appends the messages that give a chain its rules, in place of what
// it had. Packets see either the old ones or the new.
func setRules(m *nfnl.Messages, family proxy.Family, chain string, list []rule) error {
	flushRules(m, family, chain)
	for _, r := range list {
		m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, nfFamily(family))
		m.String(unix.NFTA_RULE_TABLE, tableName)
		m.String(unix.NFTA_RULE_CHAIN, chain)
		all := m.Nest(unix.NFTA_RULE_EXPRESSIONS)
		for _, e := range r {
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

func flushRules(m *nfnl.Messages, family proxy.Family, chain string) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELRULE, 0, nfFamily(family))
	m.String(unix.NFTA_RULE_TABLE, tableName)
	m.String(unix.NFTA_RULE_CHAIN, chain)
	m.Finish()
}

// static returns the rules of the chains that are always there.
func (r rules) static() map[string][]rule {
	return map[string][]rule{
		chainRefuse:      r.refuse(),
		chainServices:    r.services(),
		chainPrerouting:  {{goTo(chainServices)}},
		chainOutput:      {{goTo(chainServices)}},
		chainPostrouting: r.postrouting(),
	}
}

// define appends the messages that make the table with all its sets and the
// chains that are always there. What is there already stays, with new rules.
func (r rules) define(m *nfnl.Messages) error {
	addTable(m, r.family)
	for i := range specs {
		specs[i].create(m, r.family)
	}
	addChain(m, r.family, chainRefuse, nil)
	addChain(m, r.family, chainServices, nil)
	for i := range baseChains {
		addChain(m, r.family, baseChains[i].name, &baseChains[i].hook)
	}
	static := r.static()
	for _, name := range []string{chainRefuse, chainServices, chainPostrouting, chainPrerouting, chainOutput} {
		if err := setRules(m, r.family, name, static[name]); err != nil {
			return err
		}
	}
	return nil
}
