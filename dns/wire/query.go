package wire

import "encoding/binary"

// Query is what a server reads of a query. It is meant to be reused: its slices
// belong to it or to the message that was parsed last.
type Query struct {
	ID       uint16
	Flags    uint16
	Question []byte // the question as it was sent, part of the message; nil if there is none
	Name     []byte // the question's name in lower case
	Type     uint16
	Class    uint16
	EDNS     bool // there was an OPT record, and the answer needs one
	Version  uint8
	DO       bool   // DNSSEC records are wanted (RFC 3225)
	Limit    int    // the largest answer in octets
	Size     uint16 // the size that the client offers in its OPT record
	// Subnet is the data of a well-formed Client Subnet option (RFC 7871 §6), part
	// of the message; nil if there is none.
	Subnet []byte

	name [MaxName]byte
}

// Verdict says what is to be done with a message.
type Verdict uint8

// What [Query.Parse] finds. All but Drop and Answer are refusals that
// [Verdict.Rcode] gives the code of.
const (
	Answer  Verdict = iota
	Drop            // not a query, or too short to be answered
	FormErr         // malformed, or more than one question
	Empty           // without a question; CoreDNS answers SERVFAIL
	NotImp          // another opcode than QUERY
	Refused         // another class than IN, or a zone transfer
	BadVers         // another version of EDNS than 0
)

// Rcode returns the response code that the verdict asks for.
func (v Verdict) Rcode() uint16 {
	switch v {
	case FormErr:
		return RcodeFormErr
	case Empty:
		return RcodeServFail
	case NotImp:
		return RcodeNotImp
	case Refused:
		return RcodeRefused
	case BadVers:
		return RcodeBadVers
	}
	return RcodeSuccess
}

// Parse reads a query. stream says that it came over a transport without a limit
// of size other than the format's. The query keeps parts of msg.
func (q *Query) Parse(msg []byte, stream bool) Verdict {
	q.Question, q.Name, q.Type, q.Class = nil, nil, 0, 0
	q.EDNS, q.Version, q.DO, q.Size, q.Subnet = false, 0, false, 0, nil
	q.Limit = MinUDP
	if stream {
		q.Limit = MaxMessage
	}
	if len(msg) < HeaderLen {
		return Drop
	}
	q.ID = binary.BigEndian.Uint16(msg)
	q.Flags = binary.BigEndian.Uint16(msg[2:])
	if q.Flags&FlagQR != 0 {
		return Drop
	}
	if q.Flags&opcodeMask != 0 {
		return NotImp
	}
	switch binary.BigEndian.Uint16(msg[4:]) {
	case 0:
		return Empty
	case 1:
	default:
		return FormErr
	}
	off := q.parseQuestion(msg)
	if off == 0 || !q.parseOPT(msg, off) {
		return FormErr
	}
	if q.EDNS && !stream {
		q.Limit = min(max(int(q.Size), MinUDP), MaxUDP)
	}
	switch {
	case q.Version != 0:
		return BadVers
	case q.Class != ClassIN, q.Type == TypeAXFR, q.Type == TypeIXFR:
		return Refused
	}
	return Answer
}

// Serial returns the serial number of the zone that its client has, which a query
// of type IXFR says in an SOA record of the authority section (RFC 1995 §3). msg is
// the message that was parsed.
func (q *Query) Serial(msg []byte) (uint32, bool) {
	const numbers = 5 * 4 // at the end of the record
	off := HeaderLen + len(q.Question)
	var rr RR
	for range int(binary.BigEndian.Uint16(msg[6:])) {
		if !rr.Parse(msg, off) {
			return 0, false
		}
		off = rr.End
	}
	if binary.BigEndian.Uint16(msg[8:]) != 1 || !rr.Parse(msg, off) || rr.Type != TypeSOA || rr.End-rr.Data < 2+numbers {
		return 0, false
	}
	return binary.BigEndian.Uint32(msg[rr.End-numbers:]), true
}

// Slip writes an answer to msg without records that has its client ask again over
// TCP, in the room of buf. It returns nothing if msg is no query.
func (q *Query) Slip(msg, buf []byte) []byte {
	if q.Parse(msg, false) != Answer {
		return nil
	}
	q.Subnet = nil // there is no answer that would be some clients' own
	return q.Refuse(buf, FlagTC, RcodeSuccess)
}

// parseQuestion returns the offset after the question, or 0.
func (q *Query) parseQuestion(msg []byte) int {
	off := HeaderLen
	for {
		if off >= len(msg) {
			return 0
		}
		n := int(msg[off])
		if n > MaxLabel { // nothing comes before that a pointer could lead to
			return 0
		}
		off += 1 + n
		if n == 0 {
			break
		}
	}
	if off-HeaderLen > MaxName || off+4 > len(msg) {
		return 0
	}
	q.Name = AppendLower(q.name[:0], msg[HeaderLen:off])
	q.Type = binary.BigEndian.Uint16(msg[off:])
	q.Class = binary.BigEndian.Uint16(msg[off+2:])
	q.Question = msg[HeaderLen : off+4]
	return off + 4
}

// parseOPT looks for the OPT record among the records from off on.
func (q *Query) parseOPT(msg []byte, off int) bool {
	records := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:]))
	extra := int(binary.BigEndian.Uint16(msg[10:]))
	for i := range records + extra {
		var rr RR
		if !rr.Parse(msg, off) {
			return false
		}
		if i >= records && rr.Type == TypeOPT {
			if q.EDNS || msg[off] != 0 { // RFC 6891 §6.1.1: one, owned by the root
				return false
			}
			q.EDNS = true
			q.Size = rr.Class
			q.Version = uint8(rr.TTL >> 16)
			q.DO = rr.TTL&(1<<15) != 0
			q.Subnet = clientSubnet(msg[rr.Data:rr.End])
		}
		off = rr.End
	}
	return true
}

// RR is where the parts of a record are in its message.
type RR struct {
	Type  uint16
	Class uint16
	TTL   uint32
	Owner int // offset of the owner's name
	Fixed int // offset of the type, after the owner
	Data  int // offset of the data
	End   int // offset after the record
}

// Parse reads the record at off of msg. It reports whether there is a whole one.
// Names within the data are not looked at.
func (rr *RR) Parse(msg []byte, off int) bool {
	end, ok := nameEnd(msg, off)
	if !ok || end+10 > len(msg) {
		return false
	}
	f := msg[end : end+10]
	rr.Owner, rr.Fixed = off, end
	rr.Type = binary.BigEndian.Uint16(f)
	rr.Class = binary.BigEndian.Uint16(f[2:])
	rr.TTL = binary.BigEndian.Uint32(f[4:])
	rr.Data = end + 10
	rr.End = rr.Data + int(binary.BigEndian.Uint16(f[8:]))
	return rr.End <= len(msg)
}
