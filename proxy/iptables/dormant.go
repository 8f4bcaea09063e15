package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// tableFlags returns the flags that a table of the nft variant has in nf_tables;
// one that is not there has none. No program of iptables tells them.
func tableFlags(ctx context.Context, s *nfnl.Socket, f proxy.Family, t table) (flags uint32, err error) {
	m := &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETTABLE, 0, netfilterFamily(f))
	m.String(unix.NFTA_TABLE_NAME, t.String())
	m.Finish()
	err = s.Ask(ctx, m, func(msg nfnl.Message) {
		if len(msg.Body) < 4 {
			return
		}
		for kind, v := range nfnl.Attributes(msg.Body[4:]) {
			if kind == unix.NFTA_TABLE_FLAGS && len(v) == 4 {
				flags = binary.BigEndian.Uint32(v)
			}
		}
	})
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	return flags, err
}

func netfilterFamily(f proxy.Family) byte {
	if f == proxy.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// wake puts tables in force again that somebody has made dormant, which takes
// all chains from their hooks, others' included. It reports whether one was.
func (w *watch) wake(ctx context.Context, of []*family) (dormant bool, err error) {
	m := &nfnl.Messages{}
	m.BeginBatch()
	for _, f := range of {
		for _, t := range [...]table{nat, filter} {
			flags, err := tableFlags(ctx, w.socket, f.Family, t)
			if err != nil {
				return false, fmt.Errorf("iptables: %s: flags of the table %s: %w", f.Family, t, err)
			}
			if flags&unix.NFT_TABLE_F_DORMANT == 0 {
				continue
			}
			dormant = true
			m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWTABLE, unix.NLM_F_ACK, netfilterFamily(f.Family))
			m.String(unix.NFTA_TABLE_NAME, t.String())
			m.Uint32(unix.NFTA_TABLE_FLAGS, flags&^unix.NFT_TABLE_F_DORMANT)
			m.Finish()
		}
	}
	if !dormant {
		return false, nil
	}
	if err := w.socket.Commit(m); err != nil {
		return true, fmt.Errorf("iptables: wake dormant tables: %w", err)
	}
	return true, nil
}

// asleep reports whether a table is dormant, to anybody at any time.
func (e *Engine) asleep(ctx context.Context, f proxy.Family, t table) (bool, error) {
	if e.variant != NFT {
		return false, nil
	}
	s, err := nfnl.Dial(e.netns)
	if err != nil {
		return false, err
	}
	defer s.Close()
	flags, err := tableFlags(ctx, s, f, t)
	return flags&unix.NFT_TABLE_F_DORMANT != 0, err
}
