package nftables

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
)

// Trace implements [proxy.Tracer]: it reads the rules and the elements that a
// packet meets, and does what they say. A client's remembered backend is left
// out, so the choices are those of a new client.
func (e *Engine) Trace(ctx context.Context, d proxy.Decision) (proxy.Observed, error) {
	e.asking.Lock()
	defer e.asking.Unlock()
	t := &tracer{ctx: ctx, engine: e, family: proxy.FamilyOf(d.Destination.Addr()), rules: map[string][]rule{}, toNode: d.ToNode, fromNode: d.FromNode}
	flags, _, err := e.tableFlags(ctx, e.questions, t.family, e.table)
	if err != nil {
		return proxy.Observed{}, fmt.Errorf("nftables: trace: %w", unsupported(err))
	}
	if flags&unix.NFT_TABLE_F_DORMANT != 0 {
		t.note("table " + e.table + ": flags dormant, so that no packet meets it")
		return t.seen, nil
	}
	first, late := chainPrerouting, chainPreroutingLate
	if d.FromNode {
		first, late = chainOutput, chainOutputLate
	}
	p := packet{saddr: d.Source, daddr: d.Destination.Addr(), protocol: d.Protocol, dport: d.Destination.Port()}
	if !p.saddr.IsValid() {
		p.saddr = netip.IPv4Unspecified()
		if t.family == proxy.IPv6 {
			p.saddr = netip.IPv6Unspecified()
		}
	}
	end := func(p packet, share float64) error { return t.untranslated(late, p, share) }
	if err := t.chain(first, 0, 0, p, 1, end); err != nil {
		return proxy.Observed{}, fmt.Errorf("nftables: trace: %w", unsupported(err))
	}
	return t.seen, nil
}

// packet is one on its way through the rules, with what they have loaded.
type packet struct {
	saddr, daddr   netip.Addr
	protocol       proxy.Protocol
	dport          uint16
	mark, priority uint32
	local          bool // the slot is one of the Local traffic policy
	registers      [80]byte
}

// tracer does with a packet what the kernel's rules say.
type tracer struct {
	ctx              context.Context
	engine           *Engine
	family           proxy.Family
	rules            map[string][]rule
	fromNode, toNode bool
	seen             proxy.Observed
	masqueraded      bool
}

// errUnknown indicates a rule that we did not make.
var errUnknown = errors.New("a rule has an expression that is not known")

// note adds a line to those that decide, once.
func (t *tracer) note(line string) {
	if !slices.Contains(t.seen.Rules, line) {
		t.seen.Rules = append(t.seen.Rules, line)
	}
}

// untranslated is the end of a packet that no rule has translated.
func (t *tracer) untranslated(late string, p packet, share float64) error {
	if t.seen.Found {
		return nil // a frontend's chain ends without a verdict
	}
	return t.chain(late, 0, 0, p, share, func(packet, float64) error { return nil })
}

// verdict notes a packet's end, other than a translation.
func (t *tracer) verdict(a proxy.Action, sources bool) {
	if len(t.seen.Choices) > 0 {
		return // a slot is missing, and the others are told
	}
	t.seen.Action = a
	switch {
	case t.seen.Found:
		t.seen.Refused = t.seen.Refused || sources
	case a == proxy.Reject:
		t.seen.Miss = proxy.UnknownPort
	default:
		t.seen.Miss = proxy.Unallocated
	}
}

// chain does a chain's rules from one on, and of that one the expressions from
// one on. At the end of the chain it calls end.
func (t *tracer) chain(name string, from, at int, p packet, share float64, end func(packet, float64) error) error {
	list, err := t.list(name)
	if err != nil {
		return err
	}
	for ; from < len(list); from, at = from+1, 0 {
		done, err := t.rule(name, list, from, at, &p, share, end)
		if done || err != nil {
			return err
		}
	}
	return end(p, share)
}

// rule does the expressions of a rule from one on. It reports whether the packet
// needs no more rules of the chain, because all that happens to it has been done.
func (t *tracer) rule(chain string, list []rule, index, at int, p *packet, share float64, end func(packet, float64) error) (bool, error) {
	r := list[index]
	line := "chain " + chain + ": " + r.text()
	for ; at < len(r); at++ {
		switch x := r[at].(type) {
		case *expr.Payload:
			copy(p.registers[offset(x.DestRegister):], p.payload(x))
		case *expr.Meta:
			if x.SourceRegister {
				t.note(line)
			}
			p.meta(x)
		case *expr.Fib:
			kind := uint32(unix.RTN_UNICAST)
			if x.FlagSADDR && t.fromNode || x.FlagDADDR && t.toNode {
				kind = unix.RTN_LOCAL
			}
			copy(p.registers[offset(x.Register):], binaryutil.NativeEndian.PutUint32(kind))
		case *expr.Cmp:
			same := bytes.Equal(p.registers[offset(x.Register):][:len(x.Data)], x.Data)
			if same != (x.Op == expr.CmpOpEq) {
				return false, nil
			}
		case *expr.Bitwise:
			for i := range x.Len {
				p.registers[offset(x.DestRegister)+int(i)] = p.registers[offset(x.SourceRegister)+int(i)]&x.Mask[i] ^ x.Xor[i]
			}
		case *expr.Numgen:
			// Every number is another packet's.
			p.local = x.Offset >= localSlots
			for n := range x.Modulus {
				q := *p
				copy(q.registers[offset(x.Register):], binaryutil.NativeEndian.PutUint32(x.Offset+n))
				if x.Modulus == 1 {
					*p = q
					break
				}
				if err := t.chain(chain, index, at+1, q, share/float64(x.Modulus), end); err != nil {
					return false, err
				}
			}
			if x.Modulus > 1 {
				return true, nil
			}
		case *expr.Lookup:
			found, next, err := t.lookup(x, p)
			if err != nil || found == x.Invert {
				return false, err
			}
			if next != "" {
				t.note(line)
				return true, t.follow(next, p, share, end)
			}
		case *expr.Dynset:
		case *expr.NAT:
			t.note(line)
			return true, t.translate(x, p, share)
		case *expr.Masq:
			t.note(line)
			t.masqueraded = true
			return true, nil
		case *expr.Reject:
			t.note(line)
			t.verdict(proxy.Reject, false)
			return true, nil
		case *expr.Verdict:
			t.note(line)
			if x.Kind == expr.VerdictDrop {
				t.verdict(proxy.Drop, r.looksUp(setSources))
				return true, nil
			}
			return true, t.follow(x.Chain, p, share, end)
		default:
			return false, fmt.Errorf("%s: %w", line, errUnknown)
		}
	}
	return false, nil
}

// follow does what a verdict's data says: a chain to go to, or "drop".
func (t *tracer) follow(next string, p *packet, share float64, end func(packet, float64) error) error {
	if next == verdictDrop {
		t.verdict(proxy.Drop, false)
		return nil
	}
	return t.chain(next, 0, 0, *p, share, end)
}

// lookup looks for the key that is loaded. Of a map of verdicts it returns what
// the element says, and of others it loads it.
func (t *tracer) lookup(x *expr.Lookup, p *packet) (found bool, verdict string, err error) {
	id := slices.IndexFunc(specs[:], func(s setSpec) bool { return s.name == x.SetName })
	if id < 0 {
		return false, "", fmt.Errorf("set %s: %w", x.SetName, errUnknown)
	}
	if setID(id) == setAffinity {
		return false, "", nil
	}
	spec, at := &specs[id], place{t.family, setID(id)}
	key := string(p.registers[offset(x.SourceRegister):][:keyLen(spec.key, t.family)])
	el, err := t.engine.get(t.ctx, t.engine.questions, at, key)
	if err != nil || el == nil {
		return false, "", err
	}
	t.note("element " + spec.text(t.family, key, el.data))
	if setID(id) == setServices || setID(id) == setNodePorts {
		t.seen.Found = true
	}
	if spec.verdict {
		return true, el.data, nil
	}
	if x.IsDestRegSet {
		copy(p.registers[offset(x.DestRegister):], el.data)
	}
	return true, "", nil
}

// translate notes a backend, and whether postrouting would masquerade.
func (t *tracer) translate(x *expr.NAT, p *packet, share float64) error {
	addr, _ := netip.AddrFromSlice(p.registers[offset(x.RegAddrMin):][:daddr.size(t.family)])
	port := binary.BigEndian.Uint16(p.registers[offset(x.RegProtoMin):])
	q := *p
	q.daddr, q.dport = addr, port
	t.masqueraded = false
	if err := t.chain(chainPostrouting, 0, 0, q, 1, func(packet, float64) error { return nil }); err != nil {
		return err
	}
	t.seen.Action = proxy.ToCluster
	if p.local {
		t.seen.Action = proxy.ToLocal
	}
	to := netip.AddrPortFrom(addr, port)
	for i := range t.seen.Choices {
		if c := &t.seen.Choices[i]; c.AddrPort == to {
			c.Probability += share
			return nil
		}
	}
	t.seen.Choices = append(t.seen.Choices, proxy.Choice{Backend: proxy.Backend{AddrPort: to}, Probability: share, Masquerade: t.masqueraded})
	return nil
}

// payload returns a field of the packet.
func (p *packet) payload(x *expr.Payload) []byte {
	if x.Base == expr.PayloadBaseTransportHeader {
		return []byte{byte(p.dport >> 8), byte(p.dport), 0, 0}
	}
	if x.Offset == 12 || x.Offset == 8 {
		return p.saddr.AsSlice()
	}
	return p.daddr.AsSlice()
}

// meta loads or sets a value of the packet. The interface that it comes in by is
// not known.
func (p *packet) meta(x *expr.Meta) {
	at := p.registers[offset(x.Register):]
	value := &p.mark
	switch x.Key {
	case expr.MetaKeyL4PROTO:
		copy(at, []byte{byte(p.protocol), 0, 0, 0})
		return
	case expr.MetaKeyIIFNAME:
		clear(at[:unix.IFNAMSIZ])
		return
	case expr.MetaKeyPRIORITY:
		value = &p.priority
	}
	if x.SourceRegister {
		*value = binary.NativeEndian.Uint32(at)
	} else {
		binary.NativeEndian.PutUint32(at, *value)
	}
}

// offset is the reverse of register.
func offset(register uint32) int {
	if register >= unix.NFT_REG32_00 {
		return int(register-unix.NFT_REG32_00) * 4
	}
	return int(register-unix.NFT_REG_1) * 16
}

var _ proxy.Tracer = (*Engine)(nil)
