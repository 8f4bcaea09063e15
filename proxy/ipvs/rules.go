package ipvs

import (
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
)

// Names of the chains that are there whatever is planned.
const (
	chainPrerouting  = "prerouting"
	chainOutput      = "output"
	chainPostrouting = "postrouting"
	chainServices    = "services"
	chainUnknownPort = "unknown-port"
	chainRefuse      = "refuse" // "reject" is a word of nft's language
)

// chainSpec is all that a chain for frontends depends on. Frontends with equal
// ones share a chain.
type chainSpec struct {
	nodePort        bool
	inside, outside target
	masquerade      proxy.Masquerade
	sources         bool // only those in the set of sources
}

// target is where connections go: what is to be done, and whether it is the
// virtual server with the frontend's mark that does it, or the one with its
// address.
type target struct {
	action proxy.Action
	marked bool
}

// serves reports whether there is a virtual server to do it.
func (t target) serves() bool { return t.action == proxy.ToCluster || t.action == proxy.ToLocal }

const markedPrefix = "marked-"

func (t target) name() string {
	if t.marked && t.serves() {
		return markedPrefix + t.action.String()
	}
	return t.action.String()
}

// refusal is the verdict of a target that does not serve.
func (t target) refusal() string {
	if t.action == proxy.Reject {
		return chainRefuse
	}
	return verdictDrop
}

// verdict returns where a frontend's packets go: to a chain, or to a verdict.
func (c chainSpec) verdict() string {
	if c.inside == c.outside && !c.sources && !c.inside.serves() {
		return c.inside.refusal()
	}
	var b strings.Builder
	if c.nodePort {
		b.WriteString("nodeport-")
	}
	b.WriteString([...]string{"service-", "external-local-", "external-"}[c.masquerade])
	b.WriteString(c.inside.name())
	if c.inside != c.outside {
		b.WriteString("-else-" + c.outside.name())
	}
	if c.sources {
		b.WriteString("-sources")
	}
	return b.String()
}

// isChain tells the chains for frontends from the other verdicts.
func isChain(verdict string) bool {
	return verdict != chainRefuse && verdict != verdictDrop && verdict != verdictAccept
}

// chains returns the chain and the one that it goes to.
func (c chainSpec) chains() []chainSpec {
	out := []chainSpec{c}
	if c.inside != c.outside {
		c.outside, c.sources = c.inside, false
		out = append(out, c)
	}
	return out
}

// parseChain is the reverse of verdict.
func parseChain(name string) (chainSpec, bool) {
	var c chainSpec
	name, c.nodePort = strings.CutPrefix(name, "nodeport-")
	var ok bool
	switch {
	case strings.HasPrefix(name, "external-local-") && !strings.HasPrefix(name, "external-local-else-"):
		c.masquerade, name = proxy.MasqueradeFromNode, strings.TrimPrefix(name, "external-local-")
	case strings.HasPrefix(name, "external-"):
		c.masquerade, name = proxy.MasqueradeAlways, strings.TrimPrefix(name, "external-")
	default:
		if name, ok = strings.CutPrefix(name, "service-"); !ok {
			return c, false
		}
	}
	name, c.sources = strings.CutSuffix(name, "-sources")
	inside, outside, two := strings.Cut(name, "-else-")
	if !two {
		outside = inside
	}
	var okay bool
	c.inside, ok = parseTarget(inside)
	c.outside, okay = parseTarget(outside)
	return c, ok && okay
}

func parseTarget(name string) (target, bool) {
	name, marked := strings.CutPrefix(name, markedPrefix)
	a, ok := parseAction(name)
	return target{a, marked}, ok
}

func parseAction(name string) (proxy.Action, bool) {
	for _, a := range []proxy.Action{proxy.Reject, proxy.Drop, proxy.ToCluster, proxy.ToLocal} {
		if a.String() == name {
			return a, true
		}
	}
	return 0, false
}

// rule is the expressions of a rule.
type rule []expr.Any

// rules writes the rules of one table.
type rules struct {
	family     proxy.Family
	masquerade uint32 // the bit of the mark
	knowsPods  bool
	interfaces []string // of Pods
	restricted bool     // only some local addresses answer NodePorts
}

// frontend returns the rules of a frontends' chain. Those that lead to a virtual
// server end with an accept: then the packet goes on to IPVS.
func (r rules) frontend(c chainSpec) []rule {
	var out []rule
	if c.sources {
		out = append(out, append(r.member(setSources, true, saddr), to(verdictDrop)))
	}
	if c.inside != c.outside {
		inside := c.chains()[1].verdict()
		out = append(out, r.fromPods(inside)...)
		out = append(out, append(r.local(true), to(inside)))
	}
	switch {
	case !c.outside.serves():
		return append(out, rule{to(c.outside.refusal())})
	case c.outside.marked:
		// The mark says whether to masquerade, in postrouting.
		return append(out, append(r.mark(c.marks(c.inside != c.outside)), to(verdictAccept)))
	case c.masquerade == proxy.MasqueradeAlways:
		out = append(out, r.markMasquerade())
	case c.inside != c.outside:
		// From outside is from neither a Pod nor this node.
		if c.masquerade == proxy.MasqueradeOffCluster && r.knowsPods {
			out = append(out, r.markMasquerade())
		}
	case c.masquerade == proxy.MasqueradeFromNode:
		out = append(out, append(r.local(true), r.markMasquerade()...))
	case !r.knowsPods:
		// A node without a default route has no source for connections to the
		// address, and the kernel takes the address itself.
		out = append(out, append(r.member(setAddresses, false, saddr), r.markMasquerade()...))
	default:
		out = append(out, r.fromPods(verdictAccept)...)
		out = append(out, r.markMasquerade())
	}
	return append(out, rule{to(verdictAccept)})
}

// marks returns the map that has the marks of the chain's frontends.
func (c chainSpec) marks(outside bool) setID {
	switch {
	case !c.nodePort:
		return setMarks
	case outside:
		return setNodePortOutsideMarks
	}
	return setNodePortMarks
}

// fromPods returns the rules for packets of Pods.
func (r rules) fromPods(verdict string) []rule {
	var out []rule
	for _, name := range r.interfaces {
		b := append([]byte(name), make([]byte, 16)...)[:16]
		if prefix, ok := strings.CutSuffix(name, "*"); ok {
			b = []byte(prefix)
		}
		out = append(out, rule{
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register(0)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: b},
			to(verdict),
		})
	}
	return append(out, append(r.member(setPods, false, saddr), to(verdict)))
}

// register returns the register at an offset of the registers' 64 bytes.
func register(offset int) uint32 {
	if offset%16 == 0 {
		return unix.NFT_REG_1 + uint32(offset/16)
	}
	return unix.NFT_REG32_00 + uint32(offset/4)
}

// Which address of the packet the last field of a key is.
const (
	saddr = true
	daddr = false
)

// key loads the key of a set. A key's first address is the destination, unless it
// is the only field; a second one is the other.
func (r rules) key(id setID, source bool) rule {
	var out rule
	offset := 0
	for i, f := range specs[id].key {
		at := register(offset)
		switch f {
		case address:
			src := source
			if i == 0 && len(specs[id].key) > 1 {
				src = !source
			}
			out = append(out, r.loadAddress(at, src))
		case protocolField:
			out = append(out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: at})
		case portField:
			out = append(out, &expr.Payload{DestRegister: at, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
		case markField:
			out = append(out, &expr.Meta{Key: expr.MetaKeyMARK, Register: at})
		}
		offset += padded(f.size(r.family))
	}
	return out
}

func (r rules) loadAddress(register uint32, source bool) expr.Any {
	offset := uint32(12)
	if r.family == proxy.IPv6 {
		offset = 8
	}
	size := uint32(address.size(r.family))
	if !source {
		offset += size
	}
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}
}

// member matches packets whose key is in a set, or is not.
func (r rules) member(id setID, invert, source bool) rule {
	return append(r.key(id, source), &expr.Lookup{SourceRegister: register(0), SetName: specs[id].name, Invert: invert})
}

// decide does what a map of verdicts says. The key's first field, where it is an
// address, is the destination.
func (r rules) decide(id setID) rule {
	return append(r.key(id, saddr), &expr.Lookup{SourceRegister: register(0), SetName: specs[id].name, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
}

// mark sets the packet's mark to what a map says.
func (r rules) mark(id setID) rule {
	return append(r.key(id, saddr),
		&expr.Lookup{SourceRegister: register(0), SetName: specs[id].name, IsDestRegSet: true, DestRegister: register(0)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register(0)})
}

// local matches packets from an address of this node, or to one.
func (r rules) local(source bool) rule {
	return rule{
		&expr.Fib{Register: register(0), FlagSADDR: source, FlagDADDR: !source, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// bits changes the packet's mark: it keeps the bits of mask, then flips those of
// flip.
func (r rules) bits(mask, flip uint32) rule {
	return rule{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register(0)},
		&expr.Bitwise{SourceRegister: register(0), DestRegister: register(0), Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: binaryutil.NativeEndian.PutUint32(flip)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register(0)},
	}
}

// markMasquerade marks the packet for postrouting.
func (r rules) markMasquerade() rule { return r.bits(^r.masquerade, r.masquerade) }

// transport matches a transport protocol, or all but it.
func transport(op expr.CmpOp, protocol byte) rule {
	return rule{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register(0)},
		&expr.Cmp{Op: op, Register: register(0), Data: []byte{protocol}},
	}
}

// services returns the rules that find the frontend.
func (r rules) services() []rule {
	loopback := rule{
		r.loadAddress(register(0), daddr),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register(0), Data: append(make([]byte, 15), 1)},
	}
	if r.family == proxy.IPv4 {
		loopback = rule{
			r.loadAddress(register(0), daddr),
			&expr.Bitwise{SourceRegister: register(0), DestRegister: register(0), Len: 4, Mask: []byte{255, 0, 0, 0}, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: register(0), Data: []byte{127, 0, 0, 0}},
		}
	}
	nodePorts := append(loopback, r.member(setAddresses, true, daddr)...)
	nodePorts = append(nodePorts, r.local(false)...)
	if r.restricted {
		nodePorts = append(nodePorts, r.member(setNodePortAddresses, false, daddr)...)
	}
	return []rule{
		r.decide(setServices),
		append(nodePorts, r.decide(setNodePorts)...),
		// What has lost its Services is bound for old connections alone.
		append(r.member(setOldAddresses, false, daddr), to(verdictDrop)),
		append(r.member(setAddresses, false, daddr), to(chainUnknownPort)),
		append(r.member(setServiceCIDRs, false, daddr), to(verdictDrop)),
	}
}

// unknownPort returns the rules for the other ports of addresses that are bound
// on this machine for Services' sake, on which its own programs must not answer.
// Load balancers' probes come to their addresses.
func (r rules) unknownPort() []rule {
	icmp := byte(unix.IPPROTO_ICMP)
	if r.family == proxy.IPv6 {
		icmp = unix.IPPROTO_ICMPV6
	}
	probes := append(transport(expr.CmpOpEq, byte(proxy.TCP)), r.member(setExternalAddresses, false, daddr)...)
	probes = append(probes, r.member(setOpenPorts, false, daddr)...)
	return []rule{
		append(transport(expr.CmpOpEq, icmp), to(verdictAccept)),
		append(probes, to(verdictAccept)),
		{to(chainRefuse)},
	}
}

// postrouting returns the rules that masquerade: packets with the bit in their
// mark, which is taken off again; those with the mark of a virtual server, if its
// frontend says so or they are from this node; and those of a backend to itself,
// whose answer would otherwise not come back to us.
func (r rules) postrouting() []rule {
	bit := binaryutil.NativeEndian.PutUint32(r.masquerade)
	masquerade := &expr.Masq{FullyRandom: true}
	marked := rule{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register(0)},
		&expr.Bitwise{SourceRegister: register(0), DestRegister: register(0), Len: 4, Mask: bit, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: bit},
	}
	marked = append(marked, r.bits(^r.masquerade, 0)...)
	return []rule{
		append(marked, masquerade),
		append(r.member(setMasqueradeMarks, false, saddr), masquerade),
		append(append(r.member(setServerMarks, false, saddr), r.local(true)...), masquerade),
		append(r.member(setHairpin, false, daddr), masquerade),
	}
}

// refuse returns the rules that reject: TCP by a reset, because the kernel limits
// how many ICMP errors a peer gets, to about one a second, and everything else
// by ICMP port unreachable. What this node sends to itself is not limited, and a
// reset would not reach it on older kernels.
func (r rules) refuse() []rule {
	code := uint8(3) // ICMP_PORT_UNREACH
	if r.family == proxy.IPv6 {
		code = 4 // ICMPV6_PORT_UNREACH
	}
	unreachable := &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}
	return []rule{
		{
			&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register(0)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: append([]byte("lo"), make([]byte, 14)...)},
			unreachable,
		},
		append(transport(expr.CmpOpEq, byte(proxy.TCP)), &expr.Reject{Type: unix.NFT_REJECT_TCP_RST}),
		{unreachable},
	}
}

// to is a verdict: a chain, or one that is none.
func to(verdict string) expr.Any {
	switch verdict {
	case verdictDrop:
		return &expr.Verdict{Kind: expr.VerdictDrop}
	case verdictAccept:
		return &expr.Verdict{Kind: expr.VerdictAccept}
	}
	return &expr.Verdict{Kind: expr.VerdictGoto, Chain: verdict}
}

// static returns the rules of the chains that are always there.
func (r rules) static() map[string][]rule {
	return map[string][]rule{
		chainRefuse:      r.refuse(),
		chainUnknownPort: r.unknownPort(),
		chainServices:    r.services(),
		chainPostrouting: r.postrouting(),
		chainPrerouting:  {{to(chainServices)}},
		chainOutput:      {{to(chainServices)}},
	}
}

func netfilterFamily(f proxy.Family) byte {
	if f == proxy.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}
