package nftables

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// list reads the rules of a chain.
func (t *tracer) list(chain string) ([]rule, error) {
	if list, ok := t.rules[chain]; ok {
		return list, nil
	}
	m := t.engine.batch()
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, nfFamily(t.family))
	m.String(unix.NFTA_RULE_TABLE, m.table)
	m.String(unix.NFTA_RULE_CHAIN, chain)
	m.Finish()
	var out []rule
	var failed error
	err := t.engine.questions.Ask(t.ctx, &m.Messages, func(msg nfnl.Message) {
		if table, name := names(msg, unix.NFTA_RULE_CHAIN); table != m.table || name != chain {
			return
		}
		for kind, v := range nfnl.Attributes(msg.Body[4:]) {
			if kind == unix.NFTA_RULE_EXPRESSIONS {
				r, err := parseRule(t.family, v)
				if err != nil && failed == nil {
					failed = fmt.Errorf("chain %s: %w", chain, err)
				}
				out = append(out, r)
			}
		}
	})
	if missing(err) {
		err = nil // then it does nothing
	}
	if err == nil {
		err = failed
	}
	t.rules[chain] = out
	return out, err
}

// parseRule reads the expressions of a rule.
func parseRule(family proxy.Family, b []byte) (rule, error) {
	var out rule
	for _, item := range nfnl.Attributes(b) {
		var name string
		var data []byte
		for kind, v := range nfnl.Attributes(item) {
			switch kind {
			case unix.NFTA_EXPR_NAME:
				name = strings.TrimSuffix(string(v), "\x00")
			case unix.NFTA_EXPR_DATA:
				data = v
			}
		}
		e := emptyExpression(name)
		if e == nil {
			return nil, fmt.Errorf("%q: %w", name, errUnknown)
		}
		if err := expr.Unmarshal(nfFamily(family), data, e); err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		out = append(out, e)
	}
	return out, nil
}

// emptyExpression returns an empty expression of those that our rules have.
func emptyExpression(name string) expr.Any {
	switch name {
	case "payload":
		return &expr.Payload{}
	case "meta":
		return &expr.Meta{}
	case "fib":
		return &expr.Fib{}
	case "cmp":
		return &expr.Cmp{}
	case "bitwise":
		return &expr.Bitwise{}
	case "numgen":
		return &expr.Numgen{}
	case "lookup":
		return &expr.Lookup{}
	case "dynset":
		return &expr.Dynset{}
	case "nat":
		return &expr.NAT{}
	case "masq":
		return &expr.Masq{}
	case "reject":
		return &expr.Reject{}
	case "immediate":
		return &expr.Verdict{}
	}
	return nil
}

// looksUp reports whether a rule depends on a set.
func (r rule) looksUp(id setID) bool {
	return slices.ContainsFunc(r, func(e expr.Any) bool {
		l, ok := e.(*expr.Lookup)
		return ok && l.SetName == specs[id].name
	})
}

// text prints a rule in the words of nft. Of a comparison with an interface it
// prints the name, of others the bytes.
func (r rule) text() string {
	var words, loaded []string
	say := func(format string, args ...any) { words, loaded = append(words, fmt.Sprintf(format, args...)), nil }
	for _, e := range r {
		key := strings.Join(loaded, " . ")
		switch x := e.(type) {
		case *expr.Payload:
			loaded = append(loaded, payloadText(x))
		case *expr.Meta:
			name := map[expr.MetaKey]string{expr.MetaKeyL4PROTO: "meta l4proto", expr.MetaKeyIIFNAME: "iifname",
				expr.MetaKeyMARK: "meta mark", expr.MetaKeyPRIORITY: "meta priority"}[x.Key]
			if x.SourceRegister {
				say("%s set %s", name, key)
			} else {
				loaded = append(loaded, name)
			}
		case *expr.Fib:
			loaded = append(loaded, map[bool]string{true: "fib saddr type", false: "fib daddr type"}[x.FlagSADDR])
		case *expr.Cmp:
			say("%s %s%s", key, map[bool]string{true: "!= "}[x.Op == expr.CmpOpNeq], valueText(key, x.Data))
		case *expr.Bitwise:
			mask, xor := binary.NativeEndian.Uint32(x.Mask), binary.NativeEndian.Uint32(x.Xor)
			loaded = []string{fmt.Sprintf("%s & 0x%08x", key, mask)}
			if xor != 0 {
				loaded = []string{fmt.Sprintf("%s | 0x%08x", key, xor)}
			}
		case *expr.Numgen:
			text := fmt.Sprintf("numgen random mod %d", x.Modulus)
			if x.Offset != 0 {
				text += fmt.Sprintf(" offset %d", x.Offset)
			}
			loaded = append(loaded, text)
		case *expr.Lookup:
			switch {
			case x.IsDestRegSet && x.DestRegister == unix.NFT_REG_VERDICT:
				say("%s vmap @%s", key, x.SetName)
			case x.IsDestRegSet:
				loaded = []string{fmt.Sprintf("%s map @%s", key, x.SetName)}
			default:
				say("%s %s@%s", key, map[bool]string{true: "!= "}[x.Invert], x.SetName)
			}
		case *expr.Dynset:
			say("%s @%s { %s timeout %s }", map[bool]string{true: "update", false: "add"}[x.Operation == unix.NFT_DYNSET_OP_UPDATE], x.SetName, key, x.Timeout)
		case *expr.NAT:
			say("dnat to %s", key)
		case *expr.Masq:
			say("masquerade fully-random")
		case *expr.Reject:
			say("reject")
		case *expr.Verdict:
			if x.Kind == expr.VerdictDrop {
				say("drop")
			} else {
				say("goto %s", x.Chain)
			}
		}
	}
	return strings.Join(words, " ")
}

func payloadText(x *expr.Payload) string {
	if x.Base == expr.PayloadBaseTransportHeader {
		return "th dport"
	}
	name := "ip "
	if x.Len == 16 {
		name = "ip6 "
	}
	if x.Offset == 12 || x.Offset == 8 {
		return name + "saddr"
	}
	return name + "daddr"
}

// valueText prints what something is compared with.
func valueText(key string, data []byte) string {
	switch {
	case key == "iifname":
		name := strings.TrimRight(string(data), "\x00")
		if len(data) < unix.IFNAMSIZ {
			name += "*"
		}
		return fmt.Sprintf("%q", name)
	case strings.HasPrefix(key, "fib ") && len(data) == 4 && binary.NativeEndian.Uint32(data) == unix.RTN_LOCAL:
		return "local"
	case key == "meta l4proto":
		return proxy.Protocol(data[0]).String()
	case strings.HasPrefix(key, "ip"):
		if addr, ok := netip.AddrFromSlice(data); ok {
			return addr.String()
		}
	case strings.HasPrefix(key, "meta mark"):
		return fmt.Sprintf("0x%08x", binary.NativeEndian.Uint32(data))
	}
	return "0x" + hex.EncodeToString(data)
}

// text prints an element in the words of nft.
func (s *setSpec) text(family proxy.Family, key, data string) string {
	out := s.name + " { " + fieldsText(s.key, family, key)
	switch {
	case s.verdict && data == verdictDrop:
		out += " : drop"
	case s.verdict:
		out += " : goto " + data
	case s.data != nil:
		out += " : " + fieldsText(s.data, family, data)
	}
	return out + " }"
}

func fieldsText(fields []field, family proxy.Family, b string) string {
	var out []string
	for _, f := range fields {
		size := padded(f.size(family))
		if len(b) < size {
			break
		}
		v := []byte(b[:size])
		b = b[size:]
		switch f {
		case saddr, daddr:
			addr, _ := netip.AddrFromSlice(v)
			out = append(out, addr.String())
		case l4proto:
			out = append(out, proxy.Protocol(v[0]).String())
		case dport:
			out = append(out, fmt.Sprint(binary.BigEndian.Uint16(v)))
		case number:
			out = append(out, fmt.Sprint(binary.NativeEndian.Uint32(v)))
		default: // as nft prints a traffic control handle
			n := binary.NativeEndian.Uint32(v)
			out = append(out, fmt.Sprintf("%x:%x", n>>16, n&0xffff))
		}
	}
	return strings.Join(out, " . ")
}
