package nftables

import (
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
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
func addTable(m *messages, family proxy.Family) {
	m.begin(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, family)
	m.string(unix.NFTA_TABLE_NAME, tableName)
	m.finish()
}

func deleteTable(m *messages, family proxy.Family) {
	m.begin(unix.NFT_MSG_DELTABLE, 0, family)
	m.string(unix.NFTA_TABLE_NAME, tableName)
	m.finish()
}

// addChain appends the message that makes a chain, or finds it there.
func addChain(m *messages, family proxy.Family, name string, at *hook) {
	m.begin(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, family)
	m.string(unix.NFTA_CHAIN_TABLE, tableName)
	m.string(unix.NFTA_CHAIN_NAME, name)
	if at != nil {
		h := m.nest(unix.NFTA_CHAIN_HOOK)
		m.uint32(unix.NFTA_HOOK_HOOKNUM, at.number)
		m.uint32(unix.NFTA_HOOK_PRIORITY, uint32(at.priority))
		m.end(h)
		m.string(unix.NFTA_CHAIN_TYPE, "nat")
	}
	m.finish()
}

func deleteChain(m *messages, family proxy.Family, name string) {
	m.begin(unix.NFT_MSG_DELCHAIN, 0, family)
	m.string(unix.NFTA_CHAIN_TABLE, tableName)
	m.string(unix.NFTA_CHAIN_NAME, name)
	m.finish()
}

// setRules appends the messages that give a chain its rules, in place of what
// it had. Packets see either the old ones or the new.
func setRules(m *messages, family proxy.Family, chain string, list []rule) error {
	flushRules(m, family, chain)
	for _, r := range list {
		m.begin(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, family)
		m.string(unix.NFTA_RULE_TABLE, tableName)
		m.string(unix.NFTA_RULE_CHAIN, chain)
		all := m.nest(unix.NFTA_RULE_EXPRESSIONS)
		for _, e := range r {
			b, err := expr.Marshal(nfFamily(family), e)
			if err != nil {
				return fmt.Errorf("nftables: rule of chain %s: %w", chain, err)
			}
			m.bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b)
		}
		m.end(all)
		m.finish()
	}
	return nil
}

func flushRules(m *messages, family proxy.Family, chain string) {
	m.begin(unix.NFT_MSG_DELRULE, 0, family)
	m.string(unix.NFTA_RULE_TABLE, tableName)
	m.string(unix.NFTA_RULE_CHAIN, chain)
	m.finish()
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
func (r rules) define(m *messages) error {
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
