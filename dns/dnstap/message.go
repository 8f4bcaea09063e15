// Package dnstap tells an observer of the queries that a server gets and of the
// answers that it gives, in dnstap's format (dnstap.info) over Frame Streams to a
// socket. The server never waits for it: what the observer does not take in time is
// dropped and counted.
package dnstap

import (
	"net/netip"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Protocol is how a client asked.
type Protocol uint8

// The protocols, with the numbers of dnstap's SocketProtocol.
const (
	UDP Protocol = 1
	TCP Protocol = 2
	DoT Protocol = 3
)

// Message is a query of a client, or with a Response the answer to it.
type Message struct {
	Client, Server netip.AddrPort
	Protocol       Protocol
	Query          []byte
	Response       []byte // nil: the query alone
	Received       time.Time
	Answered       time.Time // of a response
}

// Numbers of dnstap.proto: fields of the messages Dnstap and Message, and values.
const (
	fieldIdentity = 1
	fieldVersion  = 2
	fieldMessage  = 14
	fieldKind     = 15
	kindMessage   = 1

	fieldType            = 1
	fieldFamily          = 2
	fieldProtocol        = 3
	fieldQueryAddress    = 4
	fieldResponseAddress = 5
	fieldQueryPort       = 6
	fieldResponsePort    = 7
	fieldQuerySeconds    = 8 // and 9: nanoseconds
	fieldQuery           = 10
	fieldResponseSeconds = 12 // and 13
	fieldResponse        = 14

	typeClientQuery    = 5
	typeClientResponse = 6

	familyIPv4 = 1
	familyIPv6 = 2
)

// appendTo appends the message as a Dnstap.
func (m *Message) appendTo(dst []byte, identity, version string) []byte {
	typ := uint64(typeClientQuery)
	if m.Response != nil {
		typ = typeClientResponse
	}
	var inner []byte
	inner = appendNumber(inner, fieldType, typ)
	if m.Client.IsValid() {
		family := uint64(familyIPv6)
		if m.Client.Addr().Unmap().Is4() {
			family = familyIPv4
		}
		inner = appendNumber(inner, fieldFamily, family)
	}
	inner = appendNumber(inner, fieldProtocol, uint64(m.Protocol))
	inner = appendAddr(inner, fieldQueryAddress, fieldQueryPort, m.Client)
	inner = appendAddr(inner, fieldResponseAddress, fieldResponsePort, m.Server)
	inner = appendTime(inner, fieldQuerySeconds, m.Received)
	if m.Response == nil {
		inner = appendBytes(inner, fieldQuery, m.Query)
	} else {
		inner = appendTime(inner, fieldResponseSeconds, m.Answered)
		inner = appendBytes(inner, fieldResponse, m.Response)
	}
	if identity != "" {
		dst = appendBytes(dst, fieldIdentity, []byte(identity))
	}
	if version != "" {
		dst = appendBytes(dst, fieldVersion, []byte(version))
	}
	dst = appendBytes(dst, fieldMessage, inner)
	return appendNumber(dst, fieldKind, kindMessage)
}

func appendNumber(dst []byte, field protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), n)
}

func appendBytes(dst []byte, field protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, field, protowire.BytesType), b)
}

func appendAddr(dst []byte, addr, port protowire.Number, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return dst
	}
	dst = appendBytes(dst, addr, a.Addr().Unmap().AsSlice())
	return appendNumber(dst, port, uint64(a.Port()))
}

// appendTime appends the seconds, and the nanoseconds as the field that follows.
func appendTime(dst []byte, seconds protowire.Number, t time.Time) []byte {
	if t.IsZero() {
		return dst
	}
	dst = appendNumber(dst, seconds, uint64(t.Unix()))
	dst = protowire.AppendTag(dst, seconds+1, protowire.Fixed32Type)
	return protowire.AppendFixed32(dst, uint32(t.Nanosecond()))
}
