package nftables

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// Another version of sluice may have left a table of another layout: sets of
// other types, or chains at other hooks, which cannot be changed in place. All
// of it cannot be replaced in one transaction either, where Services are many.
// So a spare table with everything is made beside it and serves, the old one is
// removed, ours is made, and the spare one goes in the transaction that attaches
// ours. Both tables being whole, it does not matter which of them a packet meets.
//
// What tells layouts apart is the types of sets and the hooks of chains. Where
// the meaning of elements changes and their types do not, the set needs another
// name.

// makeWay replaces a table of another layout by the spare one.
func (e *Engine) makeWay(ctx context.Context, plan *proxy.Plan) error {
	fits, err := e.fits(ctx, e.table)
	if err != nil || fits {
		return err
	}
	e.log.Warn("the nftables table of another version is replaced", "table", e.table)
	spare := &Engine{mark: e.mark, traffic: e.traffic, log: e.log, table: spareName, sock: e.sock, questions: e.questions, families: e.families, budget: e.budget}
	if fits, err = e.fits(ctx, spareName); err != nil {
		return err
	} else if !fits {
		if err := e.deleteTables(ctx, spareName); err != nil {
			return err
		}
	}
	if err := spare.fill(ctx, plan, true); err != nil {
		return err
	}
	return e.deleteTables(ctx, e.table)
}

// dropSpare appends the deletion of the spare table, which is there in all
// families, unless e is what fills it.
func (e *Engine) dropSpare(m *batch) {
	if e.table == spareName {
		return
	}
	spare := &batch{Messages: m.Messages, table: spareName}
	for _, family := range e.families {
		addTable(spare, family) // so that deleting it cannot fail
		deleteTable(spare, family)
	}
	m.Messages = spare.Messages
}

// hasTables reports whether any family has a table.
func (e *Engine) hasTables(ctx context.Context, name string) (bool, error) {
	for _, family := range e.families {
		if ok, err := e.hasTable(ctx, family, name); ok || err != nil {
			return ok, unsupported(err)
		}
	}
	return false, nil
}

// deleteTables removes a table from all families.
func (e *Engine) deleteTables(ctx context.Context, name string) error {
	for _, do := range [...]func(*batch, proxy.Family){flushTable, deleteTable} {
		m := &batch{table: name}
		m.BeginBatch()
		for _, family := range e.families {
			addTable(m, family)
			do(m, family)
		}
		if err := e.send(ctx, m); err != nil {
			return err
		}
		if err := leave(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fits reports whether the table, if there is one, has nothing that ours has
// not, and what it has is as ours is.
func (e *Engine) fits(ctx context.Context, name string) (bool, error) {
	for _, family := range e.families {
		sets, err := e.foreignSets(ctx, family, name)
		if err != nil {
			return false, err
		}
		hooks, err := e.foreignHooks(ctx, family, name)
		if err != nil {
			return false, err
		}
		if sets+hooks > 0 {
			return false, nil
		}
	}
	return true, nil
}

// foreignSets counts the sets of a table that differ from ours.
func (e *Engine) foreignSets(ctx context.Context, family proxy.Family, table string) (n int, err error) {
	m := e.batch()
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETSET, unix.NLM_F_DUMP, nfFamily(family))
	m.String(unix.NFTA_SET_TABLE, table)
	m.Finish()
	err = e.sock.Ask(ctx, &m.Messages, func(msg nfnl.Message) {
		if of, name := names(msg, unix.NFTA_SET_NAME); of == table && !sameSet(msg, family, name) {
			n++
		}
	})
	if missing(err) {
		return 0, nil
	}
	if err != nil {
		err = fmt.Errorf("nftables: list sets: %w", unsupported(err))
	}
	return n, err
}

// sameSet reports whether a set is one of ours.
func sameSet(msg nfnl.Message, family proxy.Family, name string) bool {
	for i := range specs {
		s := &specs[i]
		if s.name != name {
			continue
		}
		want := map[uint16]uint32{
			unix.NFTA_SET_FLAGS: s.flags(), unix.NFTA_SET_KEY_TYPE: kindOf(s.key, family), unix.NFTA_SET_KEY_LEN: uint32(keyLen(s.key, family)),
			unix.NFTA_SET_DATA_TYPE: 0, unix.NFTA_SET_DATA_LEN: 0,
		}
		if s.verdict {
			want[unix.NFTA_SET_DATA_TYPE] = unix.NFT_DATA_VERDICT
		} else if s.data != nil {
			want[unix.NFTA_SET_DATA_TYPE], want[unix.NFTA_SET_DATA_LEN] = kindOf(s.data, family), uint32(keyLen(s.data, family))
		}
		for kind, v := range nfnl.Attributes(msg.Body[4:]) {
			if value, ok := want[kind]; ok && len(v) == 4 && kind != unix.NFTA_SET_DATA_LEN {
				if value != binary.BigEndian.Uint32(v) {
					return false
				}
			}
		}
		return true
	}
	return false
}

// foreignHooks counts the chains of a table that packets enter by, and that ours
// does not have there.
func (e *Engine) foreignHooks(ctx context.Context, family proxy.Family, table string) (n int, err error) {
	m := e.batch()
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, nfFamily(family))
	m.Finish()
	err = e.sock.Ask(ctx, &m.Messages, func(msg nfnl.Message) {
		if of, name := names(msg, unix.NFTA_CHAIN_NAME); of == table && !sameHook(msg, name) {
			n++
		}
	})
	if err != nil {
		err = fmt.Errorf("nftables: list chains: %w", unsupported(err))
	}
	return n, err
}

// sameHook reports whether packets enter by a chain as they do by ours of that
// name.
func sameHook(msg nfnl.Message, name string) bool {
	var got, want hook
	attached, wanted := false, false
	for attribute, v := range nfnl.Attributes(msg.Body[4:]) {
		switch attribute {
		case unix.NFTA_CHAIN_TYPE:
			got.kind = strings.TrimSuffix(string(v), "\x00")
		case unix.NFTA_CHAIN_HOOK:
			attached = true
			for attribute, v := range nfnl.Attributes(v) {
				switch {
				case len(v) != 4:
				case attribute == unix.NFTA_HOOK_HOOKNUM:
					got.number = binary.BigEndian.Uint32(v)
				case attribute == unix.NFTA_HOOK_PRIORITY:
					got.priority = int32(binary.BigEndian.Uint32(v))
				}
			}
		}
	}
	for _, c := range baseChains {
		if c.name == name {
			want, wanted = c.hook, true
		}
	}
	return attached == wanted && got == want || !attached && optional(name)
}
