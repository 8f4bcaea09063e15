package intercept

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// Patience is how long after its last answer a server counts as alive.
const Patience = 700 * time.Millisecond

// connectionLife is how long a connection is remembered after its last packet.
const connectionLife = time.Minute

// Names of the chains.
const (
	chainPrerouting         = "prerouting"
	chainOutput             = "output"
	chainCapture            = "capture"
	chainFallback           = "fallback"
	chainFallbackUDP        = "fallback-udp"
	chainFallbackTCP        = "fallback-tcp"
	chainFallbackPrerouting = "fallback-prerouting"
	chainFallbackOutput     = "fallback-output"
	chainHairpin            = "hairpin"
	chainPostrouting        = "fallback-postrouting"
)

func chainConnection(seat int) string { return fmt.Sprintf("connection-%d", seat) }

// hook is where a base chain is attached.
type hook struct {
	kind     string
	number   uint32
	priority int32
}

// Capturing is at the priority "raw", before connection tracking. The fallback is
// a little before the priorities "dstnat" and "srcnat", so that it also comes first
// where the address is a Service's.
var hooks = map[string]hook{
	chainPrerouting:         {"filter", unix.NF_INET_PRE_ROUTING, -300},
	chainOutput:             {"route", unix.NF_INET_LOCAL_OUT, -300},
	chainFallbackPrerouting: {"nat", unix.NF_INET_PRE_ROUTING, -110},
	chainFallbackOutput:     {"nat", unix.NF_INET_LOCAL_OUT, -110},
	chainPostrouting:        {"nat", unix.NF_INET_POST_ROUTING, 90},
}

// expression is one of a rule's: an [expr.Any] or a [rewrite].
type expression any

type rule []expression

// chain is a chain with its rules.
type chain struct {
	name  string
	rules []rule
}

// rewrite changes the source or destination address to what a register holds,
// and with it the checksums. (Package expr leaves out the flag for the transport's
// where the network header has no checksum of its own.)
type rewrite struct{ source bool }

// rules writes the rules of one family.
type rules struct{ family proxy.Family }

// chains returns all chains, in the order in which they can be made: seat is the
// current one, others those whose connections go on.
func (r rules) chains(p *FamilyPlan, seat int, others []int) []chain {
	capture := []rule{
		r.join(r.port(unix.IPPROTO_UDP, true), r.member(false, setAlive), r.translate(false, setServers(seat)), rule{&expr.Notrack{}, accept()}),
	}
	for _, s := range others {
		capture = append(capture, r.forget(s))
	}
	capture = append(capture,
		r.join(r.port(unix.IPPROTO_TCP, true), syn(), r.member(false, setAlive), rule{goTo(chainConnection(seat))}),
		r.forget(seat))
	var out []chain
	for _, s := range append([]int{seat}, others...) {
		capture = append(capture, r.join(r.port(unix.IPPROTO_TCP, true), r.connection(),
			rule{&expr.Lookup{SourceRegister: register(0), SetName: setConnections(s)}, goTo(chainConnection(s))}))
		out = append(out, chain{chainConnection(s), []rule{r.join(r.connection(),
			rule{&expr.Dynset{SrcRegKey: register(0), SetName: setConnections(s), Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: connectionLife}},
			r.translate(false, setServers(s)), rule{&expr.Notrack{}, accept()})}})
	}
	toFallback := func(protocol byte, to string) rule {
		return r.join(r.port(protocol, true), r.member(false, setFallback), rule{goTo(to)})
	}
	return append(out,
		chain{chainCapture, capture},
		chain{chainFallbackUDP, r.balance(unix.IPPROTO_UDP, p.UDP)},
		chain{chainFallbackTCP, r.balance(unix.IPPROTO_TCP, p.TCP)},
		chain{chainFallback, []rule{toFallback(unix.IPPROTO_UDP, chainFallbackUDP), toFallback(unix.IPPROTO_TCP, chainFallbackTCP)}},
		chain{chainPrerouting, []rule{{&expr.Verdict{Kind: expr.VerdictJump, Chain: chainCapture}}}},
		chain{chainOutput, []rule{
			{&expr.Verdict{Kind: expr.VerdictJump, Chain: chainCapture}},
			r.join(r.translate(true, setClients), rule{&expr.Notrack{}}),
			r.join(r.port(unix.IPPROTO_UDP, false), r.member(false, setProber), r.addr(true, 0),
				rule{&expr.Dynset{SrcRegKey: register(0), SetName: setAlive, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: Patience}}),
			r.join(r.member(true, setProber), rule{&expr.Notrack{}}),
		}},
		chain{chainFallbackPrerouting, []rule{{goTo(chainFallback)}}},
		chain{chainFallbackOutput, []rule{{goTo(chainFallback)}}},
		chain{chainHairpin, r.hairpins(p)},
		chain{chainPostrouting, []rule{append(ctBits(expr.CtKeySTATUS, statusDNAT), goTo(chainHairpin))}},
	)
}

// forget makes a new connection forget the one that had its addresses and ports
// before it: clients take a port again within [connectionLife], and would be led to
// a server that may be gone.
func (r rules) forget(seat int) rule {
	return r.join(r.port(unix.IPPROTO_TCP, true), syn(), r.connection(),
		rule{&expr.Dynset{SrcRegKey: register(0), SetName: setConnections(seat), Operation: dynsetDelete}})
}

// dynsetDelete is NFT_DYNSET_OP_DELETE, which package unix lacks.
const dynsetDelete = 2

// hairpins gives an endpoint that is led to itself another source address, for it
// would answer itself past the translation.
func (r rules) hairpins(p *FamilyPlan) []rule {
	var addrs []netip.Addr
	for _, e := range slices.Concat(p.UDP, p.TCP) {
		addrs = append(addrs, e.Addr())
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	var out []rule
	for _, a := range slices.Compact(addrs) {
		is := rule{&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: a.AsSlice()}}
		out = append(out, r.join(r.addr(true, 0), is, r.addr(false, 0), is, rule{&expr.Masq{}}))
	}
	return out
}

// balance chooses one of the endpoints at random; without any it refuses.
func (r rules) balance(protocol byte, to []netip.AddrPort) []rule {
	if len(to) == 0 {
		return []rule{r.refuse(protocol)}
	}
	var out []rule
	port := register(int(addrLen(r.family)+3) &^ 3)
	for i, e := range to {
		// The protocol is known already, but not to nft when it loads the rule.
		next := r.protocol(protocol)
		if left := len(to) - i; left > 1 {
			next = append(next,
				&expr.Numgen{Register: register(0), Modulus: uint32(left), Type: unix.NFT_NG_RANDOM},
				&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: make([]byte, 4)})
		}
		out = append(out, append(next,
			&expr.Immediate{Register: register(0), Data: e.Addr().AsSlice()},
			&expr.Immediate{Register: port, Data: []byte{byte(e.Port() >> 8), byte(e.Port())}},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(nfFamily(r.family)), RegAddrMin: register(0), RegProtoMin: port, Specified: true}))
	}
	return out
}

// refuse rejects by what the protocol's clients understand at once. All packets
// here are the first of a flow; that they are asked for it has the kernel track
// flows at all, without which there is nothing for chains of type nat.
func (r rules) refuse(protocol byte) rule {
	first := ctBits(expr.CtKeySTATE, stateNew)
	if protocol == unix.IPPROTO_TCP {
		return r.join(r.protocol(protocol), first, rule{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	}
	code := uint8(3) // ICMP_PORT_UNREACH
	if r.family == proxy.IPv6 {
		code = 4 // ICMPV6_PORT_UNREACH
	}
	return append(first, &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code})
}

// Bits of what connection tracking knows.
const (
	stateNew   = 8      // NF_CT_STATE_BIT(IP_CT_NEW)
	statusDNAT = 1 << 5 // IPS_DST_NAT
)

// ctBits matches packets of flows that have one of some bits.
func ctBits(key expr.CtKey, mask uint32) rule {
	return rule{
		&expr.Ct{Key: key, Register: register(0)},
		&expr.Bitwise{SourceRegister: register(0), DestRegister: register(0), Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register(0), Data: make([]byte, 4)},
	}
}

// join puts the parts of a rule together.
func (r rules) join(parts ...rule) rule {
	var out rule
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// port matches DNS over a protocol, to the server or from it.
func (r rules) port(protocol byte, to bool) rule {
	offset := uint32(0)
	if to {
		offset = 2
	}
	return append(r.protocol(protocol),
		&expr.Payload{DestRegister: register(0), Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: []byte{0, Port}})
}

// protocol matches a transport protocol.
func (r rules) protocol(number byte) rule {
	return rule{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: []byte{number}},
	}
}

// syn matches the first packet of a TCP connection.
func syn() rule {
	const fin, syn, rst, ack = 1, 2, 4, 16
	return rule{
		&expr.Payload{DestRegister: register(0), Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: register(0), DestRegister: register(0), Len: 1, Mask: []byte{fin | syn | rst | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: []byte{syn}},
	}
}

// addr loads the source or destination address into the register at an offset.
func (r rules) addr(source bool, offset int) rule {
	return rule{&expr.Payload{DestRegister: register(offset), Base: expr.PayloadBaseNetworkHeader, Offset: r.offset(source), Len: addrLen(r.family)}}
}

// offset returns where the address is in the network header.
func (r rules) offset(source bool) uint32 {
	offset := uint32(12)
	if r.family == proxy.IPv6 {
		offset = 8
	}
	if !source {
		offset += addrLen(r.family)
	}
	return offset
}

// member matches packets whose source or destination is in a set.
func (r rules) member(source bool, set string) rule {
	return append(r.addr(source, 0), &expr.Lookup{SourceRegister: register(0), SetName: set})
}

// translate changes the source or destination to what a map says.
func (r rules) translate(source bool, set string) rule {
	return append(r.addr(source, 0),
		&expr.Lookup{SourceRegister: register(0), SetName: set, IsDestRegSet: true, DestRegister: register(0)},
		rewrite{source})
}

// connection loads the key of the sets of connections.
func (r rules) connection() rule {
	n := int(addrLen(r.family))
	return r.join(r.addr(true, 0),
		rule{&expr.Payload{DestRegister: register(n), Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2}},
		r.addr(false, n+4))
}

// register returns the register at an offset of the registers' 64 bytes.
func register(offset int) uint32 {
	if offset%16 == 0 {
		return unix.NFT_REG_1 + uint32(offset/16)
	}
	return unix.NFT_REG32_00 + uint32(offset/4)
}

func accept() expr.Any { return &expr.Verdict{Kind: expr.VerdictAccept} }

func goTo(chain string) expr.Any { return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain} }

// put appends the messages that give a chain its rules in place of what it had.
func (c chain) put(m *nfnl.Messages, f proxy.Family) error {
	flushChain(m, f, c.name)
	for _, r := range c.rules {
		m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, nfFamily(f))
		m.String(unix.NFTA_RULE_TABLE, tableName)
		m.String(unix.NFTA_RULE_CHAIN, c.name)
		all := m.Nest(unix.NFTA_RULE_EXPRESSIONS)
		for _, e := range r {
			if w, ok := e.(rewrite); ok {
				w.put(m, f)
				continue
			}
			b, err := expr.Marshal(nfFamily(f), e.(expr.Any))
			if err != nil {
				return fmt.Errorf("intercept: rule of chain %s: %w", c.name, err)
			}
			m.Bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b)
		}
		m.End(all)
		m.Finish()
	}
	return nil
}

func (w rewrite) put(m *nfnl.Messages, f proxy.Family) {
	e := m.Nest(unix.NFTA_LIST_ELEM)
	m.String(unix.NFTA_EXPR_NAME, "payload")
	d := m.Nest(unix.NFTA_EXPR_DATA)
	m.Uint32(unix.NFTA_PAYLOAD_SREG, register(0))
	m.Uint32(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER)
	m.Uint32(unix.NFTA_PAYLOAD_OFFSET, rules{f}.offset(w.source))
	m.Uint32(unix.NFTA_PAYLOAD_LEN, addrLen(f))
	if f == proxy.IPv4 {
		m.Uint32(unix.NFTA_PAYLOAD_CSUM_TYPE, unix.NFT_PAYLOAD_CSUM_INET)
		m.Uint32(unix.NFTA_PAYLOAD_CSUM_OFFSET, 10)
	} else {
		m.Uint32(unix.NFTA_PAYLOAD_CSUM_TYPE, unix.NFT_PAYLOAD_CSUM_NONE)
		m.Uint32(unix.NFTA_PAYLOAD_CSUM_OFFSET, 0)
	}
	m.Uint32(unix.NFTA_PAYLOAD_CSUM_FLAGS, unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR)
	m.End(d)
	m.End(e)
}

func flushChain(m *nfnl.Messages, f proxy.Family, name string) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELRULE, 0, nfFamily(f))
	m.String(unix.NFTA_RULE_TABLE, tableName)
	m.String(unix.NFTA_RULE_CHAIN, name)
	m.Finish()
}

// nfAccept is the verdict NF_ACCEPT: what becomes of packets that no rule decides on.
const nfAccept = 1

// addChain appends the message that makes a chain, or finds it there.
func addChain(m *nfnl.Messages, f proxy.Family, name string) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, nfFamily(f))
	m.String(unix.NFTA_CHAIN_TABLE, tableName)
	m.String(unix.NFTA_CHAIN_NAME, name)
	if h, ok := hooks[name]; ok {
		n := m.Nest(unix.NFTA_CHAIN_HOOK)
		m.Uint32(unix.NFTA_HOOK_HOOKNUM, h.number)
		m.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(h.priority))
		m.End(n)
		m.String(unix.NFTA_CHAIN_TYPE, h.kind)
		m.Uint32(unix.NFTA_CHAIN_POLICY, nfAccept)
	}
	m.Finish()
}

func deleteChain(m *nfnl.Messages, f proxy.Family, name string) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELCHAIN, 0, nfFamily(f))
	m.String(unix.NFTA_CHAIN_TABLE, tableName)
	m.String(unix.NFTA_CHAIN_NAME, name)
	m.Finish()
}
