package nftables

import (
	"context"
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// countTraffic returns the rules that count packets by the frontend, which
// connection tracking knows of either direction as the destination that the client
// has asked for. Packets that nobody has translated are let go at once, and those
// that find their frontend's address need not be looked for among NodePorts.
func (r rules) countTraffic(at hook) []rule {
	accept := verdict(expr.VerdictAccept, "")
	// The protocol is compared first, for nft cannot load the port of a connection
	// whose protocol it does not know.
	ask := func(p proxy.Protocol, id setID) rule {
		out := rule{l4proto.load(r.family, register(0), span{}), &expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: []byte{byte(p)}}}
		offset := 0
		for _, f := range specs[id].key {
			out = append(out, f.original(r.family, register(offset)))
			offset += padded(f.size(r.family))
		}
		return append(out, &expr.Lookup{SourceRegister: register(0), SetName: specs[id].name}, accept)
	}
	out := []rule{{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: register(0)},
		&expr.Bitwise{SourceRegister: register(0), DestRegister: register(0), Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(ipsDstNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: make([]byte, 4)},
		accept,
	}}
	if at.number == unix.NF_INET_PRE_ROUTING {
		// What one process of the node sends to another was counted as it left.
		out = append(out, append(incoming(expr.CmpOpEq, "lo"), accept))
	}
	for _, p := range [...]proxy.Protocol{proxy.TCP, proxy.UDP, proxy.SCTP} {
		out = append(out, ask(p, setTraffic), ask(p, setNodePortTraffic))
	}
	return out
}

// ipsDstNAT is IPS_DST_NAT, the bit of a connection whose destination was
// translated.
const ipsDstNAT = 1 << 5

// putCounter appends the counter of an element, with what it has counted before.
func putCounter(m *batch, t proxy.Traffic) {
	n := m.Nest(unix.NFTA_SET_ELEM_EXPR)
	m.String(unix.NFTA_EXPR_NAME, "counter")
	data := m.Nest(unix.NFTA_EXPR_DATA)
	m.Uint64(unix.NFTA_COUNTER_BYTES, t.Bytes)
	m.Uint64(unix.NFTA_COUNTER_PACKETS, t.Packets)
	m.End(data)
	m.End(n)
}

// parseCounter reads the expression of an element.
func parseCounter(b []byte) (t proxy.Traffic) {
	for kind, v := range nfnl.Attributes(b) {
		if kind != unix.NFTA_EXPR_DATA {
			continue
		}
		for kind, v := range nfnl.Attributes(v) {
			switch {
			case len(v) != 8:
			case kind == unix.NFTA_COUNTER_BYTES:
				t.Bytes = binary.BigEndian.Uint64(v)
			case kind == unix.NFTA_COUNTER_PACKETS:
				t.Packets = binary.BigEndian.Uint64(v)
			}
		}
	}
	return t
}

// keepCounts reads what the elements have counted that a change replaces, so
// that they go on from there.
func (c *change) keepCounts(ctx context.Context, m *batch) error {
	for i := range c.ops {
		o := &c.ops[i]
		if !o.add || !o.del || !specs[o.set].counter {
			continue
		}
		found, err := c.engine.get(ctx, c.engine.sock, o.place, o.key)
		if err != nil {
			return err
		}
		if found != nil && found.count.Packets > 0 {
			if m.counted == nil {
				m.counted = map[elementKey]proxy.Traffic{}
			}
			m.counted[elementKey{o.place, o.key}] = found.count
		}
	}
	return nil
}

// get reads one element. A key of a set of ranges may be any in a range. It
// returns nil where there is none.
func (e *Engine) get(ctx context.Context, k kernel, at place, key string) (*seen, error) {
	m := e.batch()
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETSETELEM, 0, nfFamily(at.family))
	m.String(unix.NFTA_SET_ELEM_LIST_TABLE, m.table)
	m.String(unix.NFTA_SET_ELEM_LIST_SET, specs[at.set].name)
	list := m.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	item := m.Nest(unix.NFTA_LIST_ELEM)
	putData(m, unix.NFTA_SET_ELEM_KEY, key)
	m.End(item)
	m.End(list)
	m.Finish()
	var out *seen
	err := k.Ask(ctx, &m.Messages, func(msg nfnl.Message) {
		parseElements(at, msg.Body, func(f seen) {
			if f.data != rangeEnd {
				out = &f
			}
		})
	})
	if missing(err) {
		return nil, nil
	}
	return out, err
}

// Count implements [proxy.Counter]: it calls each for the frontends that had
// connections, and for those that had packets if these are counted. Attempts that
// are refused count as connections, too, and those that are dropped count again
// each time that the client tries.
func (e *Engine) Count(ctx context.Context, each func(proxy.FrontendKey, proxy.Traffic)) error {
	e.asking.Lock()
	defer e.asking.Unlock()
	for _, family := range [...]proxy.Family{proxy.IPv4, proxy.IPv6} {
		for _, sets := range [...][2]setID{{setServices, setTraffic}, {setNodePorts, setNodePortTraffic}} {
			counts := map[proxy.FrontendKey]proxy.Traffic{}
			for i, set := range sets {
				at := place{family, set}
				err := e.dump(ctx, e.questions, at, func(s seen) {
					key, ok := frontendKey(at, s.key)
					if !ok || s.count.Packets == 0 {
						return
					}
					t := counts[key]
					if i == 0 {
						t.Connections = s.count.Packets
					} else {
						t.Packets, t.Bytes = s.count.Packets, s.count.Bytes
					}
					counts[key] = t
				})
				if err != nil {
					return err
				}
			}
			for key, t := range counts {
				each(key, t)
			}
		}
	}
	return nil
}

// CountsBytes implements [proxy.ByteCounter].
func (e *Engine) CountsBytes() bool { return e.traffic }

// frontendKey reads the key of an element that finds a frontend.
func frontendKey(at place, key string) (proxy.FrontendKey, bool) {
	k := proxy.FrontendKey{Family: at.family}
	if at.set == setServices || at.set == setTraffic {
		n := daddr.size(at.family)
		if len(key) < n {
			return k, false
		}
		k.Addr, _ = netip.AddrFromSlice([]byte(key[:n]))
		key = key[n:]
	}
	if len(key) != 8 {
		return k, false
	}
	k.Protocol, k.Port = proxy.Protocol(key[0]), uint16(key[4])<<8|uint16(key[5])
	return k, true
}

var _ proxy.ByteCounter = (*Engine)(nil)
