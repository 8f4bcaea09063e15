package redirect

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// match is a condition on a packet: as text, and as expressions that leave the
// rule where it does not hold.
type match interface {
	String() string
	exprs() []expr.Any
}

// loopback is the loopback interface, of which a namespace has one, number 1.
type loopback string // "iif" or "oif"

func (m loopback) String() string { return string(m) + " lo" }

func (m loopback) exprs() []expr.Any {
	key := expr.MetaKeyIIF
	if m == "oif" {
		key = expr.MetaKeyOIF
	}
	const loopbackIndex = 1 // LOOPBACK_IFINDEX of linux/net.h
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, equal(binaryutil.NativeEndian.PutUint32(loopbackIndex), false)}
}

// address is a prefix of the source or destination, or of all others of its
// family.
type address struct {
	field  string // "saddr" or "daddr"
	prefix netip.Prefix
	not    bool
}

func (m address) String() string {
	family, op := "ip", ""
	if m.prefix.Addr().Is6() {
		family = "ip6"
	}
	if m.not {
		op = "!= "
	}
	what := m.prefix.String()
	if m.prefix.IsSingleIP() {
		what = m.prefix.Addr().String()
	}
	return family + " " + m.field + " " + op + what
}

func (m address) exprs() []expr.Any {
	addr := m.prefix.Addr().AsSlice()
	proto, offset := byte(unix.NFPROTO_IPV4), uint32(12)
	if len(addr) == net.IPv6len {
		proto, offset = unix.NFPROTO_IPV6, 8
	}
	size := uint32(len(addr))
	if m.field == "daddr" {
		offset += size
	}
	out := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{proto}, false),
		&expr.Payload{OperationType: expr.PayloadLoad, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size, DestRegister: 1},
	}
	if !m.prefix.IsSingleIP() {
		mask := net.CIDRMask(m.prefix.Bits(), 8*len(addr))
		out = append(out, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)})
	}
	return append(out, equal(addr, m.not))
}

// dport is the destination port.
type dport uint16

func (m dport) String() string { return fmt.Sprintf("tcp dport %d", uint16(m)) }

func (m dport) exprs() []expr.Any {
	return append(isTCP(expr.CmpOpEq),
		&expr.Payload{OperationType: expr.PayloadLoad, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2, DestRegister: 1},
		equal(binaryutil.BigEndian.PutUint16(uint16(m)), false))
}

// skuid is the user whose socket sends the packet.
type skuid uint32

func (m skuid) String() string { return fmt.Sprintf("meta skuid %d", uint32(m)) }

func (m skuid) exprs() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKUID, Register: 1},
		equal(binaryutil.NativeEndian.PutUint32(uint32(m)), false),
	}
}

// mark is the mark that the socket gives the packet.
type mark uint32

func (m mark) String() string { return fmt.Sprintf("meta mark 0x%08x", uint32(m)) }

func (m mark) exprs() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		equal(binaryutil.NativeEndian.PutUint32(uint32(m)), false),
	}
}

func equal(data []byte, not bool) *expr.Cmp {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return &expr.Cmp{Op: op, Register: 1, Data: data}
}

func isTCP(op expr.CmpOp) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: []byte{unix.IPPROTO_TCP}}}
}

// write adds the chain to a transaction.
func (c chain) write(conn *nftables.Conn, table *nftables.Table) {
	hook := nftables.ChainHookPrerouting
	if c.hook == "output" {
		hook = nftables.ChainHookOutput
	}
	policy := nftables.ChainPolicyAccept
	ch := conn.AddChain(&nftables.Chain{
		Table: table, Name: c.name, Type: nftables.ChainTypeNAT, Hooknum: hook,
		Priority: nftables.ChainPriorityNATDest, Policy: &policy,
	})
	add := func(exprs []expr.Any) { conn.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: exprs}) }
	back := &expr.Verdict{Kind: expr.VerdictReturn}
	add(append(isTCP(expr.CmpOpNeq), back))
	for _, r := range c.rules {
		var exprs []expr.Any
		for _, m := range r.match {
			exprs = append(exprs, m.exprs()...)
		}
		if r.action.redirect == 0 {
			add(append(exprs, back))
			continue
		}
		add(append(append(exprs, isTCP(expr.CmpOpEq)...),
			&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(r.action.redirect)},
			&expr.Redir{RegisterProtoMin: 1}))
	}
}
