package nftables

import (
	"context"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// tableFlags returns the flags of a family's table, and whether there is one.
func (e *Engine) tableFlags(ctx context.Context, k kernel, family proxy.Family, name string) (flags uint32, there bool, err error) {
	m := e.batch()
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETTABLE, 0, nfFamily(family))
	m.String(unix.NFTA_TABLE_NAME, name)
	m.Finish()
	err = k.Ask(ctx, &m.Messages, func(msg nfnl.Message) {
		for kind, v := range nfnl.Attributes(msg.Body[4:]) {
			if kind == unix.NFTA_TABLE_FLAGS && len(v) == 4 {
				flags = binary.BigEndian.Uint32(v)
			}
		}
	})
	if missing(err) {
		return 0, false, nil
	}
	return flags, err == nil, err
}

// hasTable reports whether a family has a table.
func (e *Engine) hasTable(ctx context.Context, family proxy.Family, name string) (bool, error) {
	_, there, err := e.tableFlags(ctx, e.sock, family, name)
	return there, err
}

// wake puts tables in force again that somebody has made dormant, which detaches
// all their chains and says nothing of it anywhere else. It is a transaction of
// its own: the kernel takes no new base chain in one that wakes a table. It
// reports whether a table was dormant.
func (e *Engine) wake(ctx context.Context) (bool, error) {
	m, dormant := e.transaction(), false
	for _, family := range e.families {
		flags, _, err := e.tableFlags(ctx, e.sock, family, e.table)
		if err != nil {
			return false, fmt.Errorf("nftables: read the flags of table %s of %s: %w", e.table, family, unsupported(err))
		}
		if flags&unix.NFT_TABLE_F_DORMANT == 0 {
			continue
		}
		dormant = true
		m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWTABLE, 0, nfFamily(family))
		m.String(unix.NFTA_TABLE_NAME, m.table)
		m.Uint32(unix.NFTA_TABLE_FLAGS, flags&^unix.NFT_TABLE_F_DORMANT)
		m.Finish()
	}
	if !dormant {
		return false, nil
	}
	e.log.Warn("somebody had made the nftables table dormant", "table", e.table)
	return true, e.send(ctx, m)
}
