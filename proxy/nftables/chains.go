package nftables

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
)

// localSlots is the number of the first slot of the Local traffic policy's
// backends; those of the Cluster policy start at 0.
const localSlots = 1 << 15

// maxSticky bounds how many slots of a Service with affinity are remembered, and
// with it the size of a chain. Clients of further ones go anywhere each time.
const maxSticky = 1024

// target is where connections go: an action, and among how many slots.
type target struct {
	action proxy.Action
	slots  int
}

func (t target) span() span {
	if t.action == proxy.ToLocal {
		return span{localSlots, t.slots}
	}
	return span{0, t.slots}
}

// masquerade is [proxy.Masquerade] with what only our own chains need.
type masquerade uint8

const (
	offCluster masquerade = iota
	fromNode
	always
	never
)

// chainSpec is all that a chain for frontends depends on. Frontends with equal
// ones share a chain.
type chainSpec struct {
	nodePort        bool
	inside, outside target
	masquerade      masquerade
	sources         bool // only those in the set of sources
	affinity        time.Duration
}

// Names of the chains that are there whatever is planned.
const (
	chainPrerouting  = "prerouting"
	chainOutput      = "output"
	chainPostrouting = "postrouting"
	chainServices    = "services"
	chainUnserved    = "unserved"
	chainRefuse      = "refuse" // "reject" is a word of nft's language

	chainPreroutingLate = "prerouting-late"
	chainOutputLate     = "output-late"

	chainTraffic = "traffic-" // followed by the hook
)

// verdict returns the name of the chain that a frontend's packets go to, or
// "drop", which is no chain.
func (c chainSpec) verdict() string {
	if c.inside == c.outside && !c.sources {
		switch c.inside.action {
		case proxy.Reject:
			return chainRefuse
		case proxy.Drop:
			return verdictDrop
		}
	}
	var b strings.Builder
	if c.nodePort {
		b.WriteString("nodeport-")
	}
	b.WriteString([...]string{"service-", "external-", "external-", "inside-"}[c.masquerade])
	b.WriteString(c.inside.name())
	if c.inside != c.outside {
		b.WriteString("-else-" + c.outside.name())
	}
	if c.sources {
		b.WriteString("-sources")
	}
	if c.affinity != 0 {
		fmt.Fprintf(&b, "-affinity-%d", c.affinity/time.Millisecond)
	}
	return b.String()
}

const verdictDrop = "drop"

func (t target) name() string {
	switch t.action {
	case proxy.ToCluster, proxy.ToLocal:
		return fmt.Sprintf("%s-%d", t.action, t.slots)
	}
	return t.action.String()
}

// needs returns the further chains that the chain goes to.
func (c chainSpec) needs() []chainSpec {
	if c.inside == c.outside {
		return nil
	}
	pod, node := c, c
	pod.outside, pod.masquerade, pod.sources = c.inside, never, false
	node.outside, node.masquerade, node.sources = c.inside, always, false
	return []chainSpec{pod, node}
}

// rule is the expressions of a rule.
type rule []expr.Any

// rules writes the rules of one table.
type rules struct {
	family proxy.Family
	mark   uint32
	pods   bool // the set of Pods' networks is known
	// interfaces are those that Pods come in by; if there are any, they decide
	// instead of the networks.
	interfaces []string
	traffic    bool // packets of whole connections are counted
	// restricted tells that only some local addresses answer NodePorts.
	restricted bool
}

// frontend returns the rules of a frontends' chain.
func (r rules) frontend(c chainSpec) []rule {
	var out []rule
	if c.sources {
		out = append(out, append(r.member(setSources, true), verdict(expr.VerdictDrop, "")))
	}
	if c.inside != c.outside {
		chains := c.needs()
		for _, pod := range r.fromPod() {
			out = append(out, append(pod, goTo(chains[0].verdict())))
		}
		out = append(out, append(r.localSource(), goTo(chains[1].verdict())))
		return append(out, r.balance(c, c.outside)...)
	}
	switch c.masquerade {
	case always:
		out = append(out, r.setMark())
	case fromNode:
		out = append(out, append(r.localSource(), r.setMark()...))
	case offCluster:
		if notPod := r.notFromPod(); notPod != nil {
			out = append(out, append(notPod, r.setMark()...))
		}
	}
	return append(out, r.balance(c, c.inside)...)
}

// balance returns the rules that choose a backend. They end with a drop, so that
// a packet that finds no slot is tried again by its sender, and does not leave
// as a connection that is not translated.
func (r rules) balance(c chainSpec, t target) []rule {
	drop := rule{verdict(expr.VerdictDrop, "")}
	switch t.action {
	case proxy.Reject:
		return []rule{{goTo(chainRefuse)}}
	case proxy.Drop:
		return []rule{drop}
	}
	slots, choices, backends := setSlots, setChoices, setBackends
	if c.nodePort {
		slots, choices, backends = setNodePortSlots, setNodePortChoices, setNodePortBackends
	}
	if c.affinity == 0 {
		return []rule{r.translate(slots, t.span()), drop}
	}
	// Whether the client was at one of the backends before is asked for each:
	// see the comment at specs.
	var out []rule
	all := t.span()
	for i := range min(all.count, maxSticky) {
		out = append(out, r.choose(choices, span{all.from + i, 1}))
		known := append(r.member(setAffinity, false), r.remember(unix.NFT_DYNSET_OP_UPDATE, c.affinity)...)
		out = append(out, append(known, r.translate(backends, span{})...))
	}
	return append(out,
		append(r.choose(choices, all), r.remember(unix.NFT_DYNSET_OP_ADD, c.affinity)...),
		r.translate(backends, span{}),
		drop)
}

// register returns the register at an offset of the registers' 64 bytes.
func register(offset int) uint32 {
	if offset%16 == 0 {
		return unix.NFT_REG_1 + uint32(offset/16)
	}
	return unix.NFT_REG32_00 + uint32(offset/4)
}

// key loads the key of a set.
func (r rules) key(id setID, slots span) rule {
	var out rule
	offset := 0
	for _, f := range specs[id].key {
		out = append(out, f.load(r.family, register(offset), slots))
		offset += padded(f.size(r.family))
	}
	return out
}

// member matches packets whose key is in a set, or is not.
func (r rules) member(id setID, invert bool) rule {
	return append(r.key(id, span{}), &expr.Lookup{SourceRegister: register(0), SetName: specs[id].name, Invert: invert})
}

// verdictOf does what a map says.
func (r rules) verdictOf(id setID) rule {
	return append(r.key(id, span{}), &expr.Lookup{SourceRegister: register(0), SetName: specs[id].name, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
}

// translate changes the destination to what a map says.
func (r rules) translate(id setID, slots span) rule {
	port := register(padded(daddr.size(r.family)))
	return append(r.key(id, slots),
		&expr.Lookup{SourceRegister: register(0), SetName: specs[id].name, IsDestRegSet: true, DestRegister: register(0)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(nfFamily(r.family)), RegAddrMin: register(0), RegProtoMin: port, Specified: true})
}

// choose sets the packet's priority to what a map says of one of the slots.
func (r rules) choose(id setID, slots span) rule {
	return append(r.key(id, slots),
		&expr.Lookup{SourceRegister: register(0), SetName: specs[id].name, IsDestRegSet: true, DestRegister: register(0)},
		&expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: register(0)})
}

// remember notes that the client is at the backend whose number is the packet's
// priority.
func (r rules) remember(operation uint32, timeout time.Duration) rule {
	return append(r.key(setAffinity, span{}),
		&expr.Dynset{SrcRegKey: register(0), SetName: specs[setAffinity].name, Operation: operation, Timeout: timeout})
}

// fromPod returns the matches of packets from Pods, each of some.
func (r rules) fromPod() []rule {
	if r.pods && len(r.interfaces) == 0 {
		return []rule{r.member(setPods, false)}
	}
	var out []rule
	for _, name := range r.interfaces {
		out = append(out, incoming(expr.CmpOpEq, name))
	}
	return out
}

// notFromPod matches packets that are not from Pods. It is nil where that is not
// known.
func (r rules) notFromPod() rule {
	if r.pods && len(r.interfaces) == 0 {
		return r.member(setPods, true)
	}
	var out rule
	for _, name := range r.interfaces {
		out = append(out, incoming(expr.CmpOpNeq, name)...)
	}
	return out
}

// incoming compares the interface that a packet comes in by, which packets of
// this node have none of, with a name, or its beginning if that ends in "*".
func incoming(op expr.CmpOp, name string) rule {
	data := []byte(strings.TrimSuffix(name, "*"))
	if len(data) == len(name) {
		data = append(data, make([]byte, max(unix.IFNAMSIZ-len(data), 0))...)
	}
	return rule{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register(0)},
		&expr.Cmp{Op: op, Register: register(0), Data: data},
	}
}

// localSource matches packets from an address of this node.
func (r rules) localSource() rule { return r.fib(true, expr.CmpOpEq) }

// localDestination matches packets to an address of this node.
func (r rules) localDestination() rule { return r.fib(false, expr.CmpOpEq) }

// foreignDestination matches packets to any other.
func (r rules) foreignDestination() rule { return r.fib(false, expr.CmpOpNeq) }

func (r rules) fib(source bool, op expr.CmpOp) rule {
	return rule{
		&expr.Fib{Register: register(0), FlagSADDR: source, FlagDADDR: !source, ResultADDRTYPE: true},
		&expr.Cmp{Op: op, Register: register(0), Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// setMark marks the packet for postrouting.
func (r rules) setMark() rule {
	return rule{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register(0)},
		&expr.Bitwise{SourceRegister: register(0), DestRegister: register(0), Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^r.mark), Xor: binaryutil.NativeEndian.PutUint32(r.mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register(0)},
	}
}

// postrouting returns the rules that masquerade: marked packets, whose mark is
// taken off again, and those of a backend to itself, whose answer would
// otherwise not come back to us.
func (r rules) postrouting() []rule {
	zero := binaryutil.NativeEndian.PutUint32(0)
	mark := binaryutil.NativeEndian.PutUint32(r.mark)
	return []rule{
		{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: register(0)},
			&expr.Bitwise{SourceRegister: register(0), DestRegister: register(0), Len: 4, Mask: mark, Xor: zero},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: mark},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: register(0)},
			&expr.Bitwise{SourceRegister: register(0), DestRegister: register(0), Len: 4,
				Mask: binaryutil.NativeEndian.PutUint32(^r.mark), Xor: zero},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register(0)},
			&expr.Masq{FullyRandom: true},
		},
		append(r.member(setHairpin, false), &expr.Masq{FullyRandom: true}),
	}
}

// services returns the rules that find the frontend. NodePorts are on local
// addresses, other than loopback: its packets cannot leave the node.
func (r rules) services() []rule {
	loopback := rule{
		daddr.load(r.family, register(0), span{}),
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register(0), Data: append(make([]byte, 15), 1)},
	}
	if r.family == proxy.IPv4 {
		loopback = rule{
			daddr.load(r.family, register(0), span{}),
			&expr.Bitwise{SourceRegister: register(0), DestRegister: register(0), Len: 4, Mask: []byte{255, 0, 0, 0}, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: register(0), Data: []byte{127, 0, 0, 0}},
		}
	}
	nodePorts := append(loopback, r.localDestination()...)
	if r.restricted {
		nodePorts = append(nodePorts, r.member(setNodePortAddresses, false)...)
	}
	return []rule{r.verdictOf(setServices), append(nodePorts, r.verdictOf(setNodePorts)...)}
}

// unserved returns the rules for what nobody has translated: a ClusterIP answers
// no other ports than its Service's, and addresses of the ranges that no Service
// has lead nowhere. These are dropped, so that no connection comes to be, and
// that a client which is early is served when it tries again. An address that
// the node itself has is the node's business.
func (r rules) unserved() []rule {
	return []rule{
		append(append(r.member(setClusterIPs, false), r.foreignDestination()...), goTo(chainRefuse)),
		append(append(r.member(setServiceCIDRs, false), r.foreignDestination()...), verdict(expr.VerdictDrop, "")),
	}
}

// refuse returns the rules that reject: TCP by a reset, because the kernel limits
// how many ICMP errors a peer gets, to about one a second, and everything else
// by ICMP port unreachable.
func (r rules) refuse() []rule {
	code := uint8(3) // ICMP_PORT_UNREACH
	if r.family == proxy.IPv6 {
		code = 4 // ICMPV6_PORT_UNREACH
	}
	return []rule{
		{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register(0)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register(0), Data: []byte{byte(proxy.TCP)}},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
		},
		{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}},
	}
}

func verdict(kind expr.VerdictKind, chain string) expr.Any {
	return &expr.Verdict{Kind: kind, Chain: chain}
}

func goTo(chain string) expr.Any {
	if chain == verdictDrop {
		return verdict(expr.VerdictDrop, "")
	}
	return verdict(expr.VerdictGoto, chain)
}

func nfFamily(f proxy.Family) byte {
	if f == proxy.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}
