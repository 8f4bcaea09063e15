package nftables

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
)

// field is a part of a key or of a map's data. It knows the type that the kernel
// and nft have for it, how a rule loads it, and how nft writes it down.
type field uint8

const (
	saddr    field = iota // ip saddr
	daddr                 // ip daddr
	l4proto               // meta l4proto
	dport                 // th dport
	number                // numgen random mod N
	priority              // meta priority
)

// numgenModulus is the modulus in the type of slots' keys. It is part of what
// nft prints, and more than any rule's.
const numgenModulus = 1 << 16

// size returns the field's length in bytes. In keys and registers every field
// is padded to a multiple of four.
func (f field) size(family proxy.Family) int {
	switch f {
	case saddr, daddr:
		if family == proxy.IPv6 {
			return 16
		}
		return 4
	case l4proto:
		return 1
	case dport:
		return 2
	}
	return 4
}

func padded(n int) int { return (n + 3) &^ 3 }

// kind returns nft's number of the field's data type.
func (f field) kind(family proxy.Family) uint32 {
	switch f {
	case saddr, daddr:
		if family == proxy.IPv6 {
			return 8 // ipv6_addr
		}
		return 7 // ipv4_addr
	case l4proto:
		return 12 // inet_proto
	case dport:
		return 13 // inet_service
	case number:
		return 4 // integer
	}
	return 23 // classid
}

// load returns the expression that loads the field into a register.
func (f field) load(family proxy.Family, register uint32, slots span) expr.Any {
	switch f {
	case saddr, daddr:
		offset := uint32(12)
		if family == proxy.IPv6 {
			offset = 8
		}
		size := uint32(f.size(family))
		if f == daddr {
			offset += size
		}
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}
	case l4proto:
		return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}
	case dport:
		return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
	case number:
		return &expr.Numgen{Register: register, Modulus: uint32(slots.count), Type: unix.NFT_NG_RANDOM, Offset: uint32(slots.from)}
	}
	return &expr.Meta{Key: expr.MetaKeyPRIORITY, Register: register}
}

// original returns the expression that loads what the field was in the first
// packet of the connection, as its sender sent it, whatever packet this is.
func (f field) original(family proxy.Family, register uint32) expr.Any {
	switch f {
	case daddr:
		key := expr.CtKey(unix.NFT_CT_DST_IP)
		if family == proxy.IPv6 {
			key = unix.NFT_CT_DST_IP6
		}
		return &expr.Ct{Key: key, Register: register}
	case dport:
		return &expr.Ct{Key: expr.CtKeyPROTODST, Register: register}
	}
	return f.load(family, register, span{})
}

// span is a range of slots' numbers.
type span struct{ from, count int }

// Numbers of nft's own serialisation of expressions, in a set's user data.
const (
	exprVerdict = 1
	exprPayload = 7
	exprMeta    = 9
	exprConcat  = 13
	exprNumgen  = 23
)

// typeof returns nft's serialisation of the field.
func (f field) typeof(family proxy.Family) []byte {
	number32 := func(t byte, v uint32) []byte { return tlv(t, binary.LittleEndian.AppendUint32(nil, v)) }
	payload := func(header, field uint32) []byte {
		return expression(exprPayload, append(number32(0, header), number32(1, field)...))
	}
	switch f {
	case saddr, daddr:
		header, first := uint32(12), uint32(11) // ip, saddr
		if family == proxy.IPv6 {
			header, first = 13, 8
		}
		if f == daddr {
			first++
		}
		return payload(header, first)
	case l4proto:
		return expression(exprMeta, number32(0, unix.NFT_META_L4PROTO))
	case dport:
		return payload(11, 2)
	case number:
		data := number32(0, unix.NFT_NG_RANDOM)
		data = append(data, number32(1, numgenModulus)...)
		return expression(exprNumgen, append(data, number32(2, 0)...))
	}
	return expression(exprMeta, number32(0, unix.NFT_META_PRIORITY))
}

// typeofAll returns nft's serialisation of a concatenation, or of one field.
func typeofAll(fields []field, family proxy.Family) []byte {
	if len(fields) == 1 {
		return fields[0].typeof(family)
	}
	var parts []byte
	for i, f := range fields {
		parts = append(parts, tlv(byte(i), f.typeof(family))...)
	}
	return expression(exprConcat, parts)
}

func expression(kind uint32, data []byte) []byte {
	return append(tlv(0, binary.LittleEndian.AppendUint32(nil, kind)), tlv(1, data)...)
}

func tlv(t byte, data []byte) []byte {
	return append([]byte{t, byte(len(data))}, data...)
}
