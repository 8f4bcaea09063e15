package wire

import (
	"encoding/binary"
	"errors"
	"iter"
)

// Errors of [ParseResponse].
var (
	// ErrResponse indicates that a message is not an answer to the question.
	ErrResponse = errors.New("not an answer to the question")
	// ErrMalformed indicates an answer to it whose records cannot be read.
	ErrMalformed = errors.New("malformed answer")
)

// Response is an answer of another server, as it can be kept and sent again: the
// message without its OPT record, and where its TTLs are.
type Response struct {
	Msg       []byte
	TTLs      []uint16 // offsets of all records' TTLs
	Rcode     uint16   // with the OPT record's upper bits
	Truncated bool
	Answers   int
	// Scope is the length of the prefix for whose clients the answer holds, where it
	// was asked for with a Client Subnet option (RFC 7871 §7.3.1); 0: for all.
	Scope uint8
	// Keep says whether the answer may be cached, for Lifetime seconds: until
	// the first of its answers expires, or for a negative one by its SOA (RFC
	// 2308 §5). Without SOA a negative one is not kept.
	Keep     bool
	Negative bool
	Lifetime uint32

	owners []uint16 // offsets of answers' owners that spell the question's name
}

// ParseResponse reads the answer to a query for name, in wire form, and type. It
// may write to msg, which the response keeps. It allocates.
func ParseResponse(msg, name []byte, typ uint16) (*Response, error) {
	if len(msg) < HeaderLen || len(msg) > MaxMessage {
		return nil, ErrResponse
	}
	flags := binary.BigEndian.Uint16(msg[2:])
	r := &Response{Rcode: flags & rcodeMask, Truncated: flags&FlagTC != 0}
	end := HeaderLen + len(name) + 4
	switch {
	case flags&FlagQR == 0, flags&opcodeMask != 0, binary.BigEndian.Uint16(msg[4:]) != 1, len(msg) < end,
		!EqualFold(msg[HeaderLen:end-4], name),
		binary.BigEndian.Uint16(msg[end-4:]) != typ, binary.BigEndian.Uint16(msg[end-2:]) != ClassIN:
		return nil, ErrResponse
	}
	if !r.parseRecords(msg, name, typ) {
		return nil, ErrMalformed
	}
	return r, nil
}

// parseRecords walks the three sections.
func (r *Response) parseRecords(msg, name []byte, typ uint16) bool {
	off := HeaderLen + len(name) + 4
	r.Answers = int(binary.BigEndian.Uint16(msg[6:]))
	authority := r.Answers + int(binary.BigEndian.Uint16(msg[8:]))
	total := authority + int(binary.BigEndian.Uint16(msg[10:]))
	answered, least := false, uint32(1<<31)
	soa := false
	extra := uint16(0)
	var owner [MaxName]byte
	for i := range total {
		var rr RR
		if !rr.Parse(msg, off) {
			return false
		}
		if _, ok := AppendName(owner[:0], msg, off); !ok && i < authority {
			return false
		}
		if i >= authority && rr.Type == TypeOPT {
			r.Rcode |= uint16(rr.TTL>>24) << 4
			r.Scope = clientScope(msg[rr.Data:rr.End])
			// What may follow are signatures of the whole message, which is
			// not the whole any more; and pointers into what moved would break.
			break
		}
		if rr.TTL > 1<<31-1 { // RFC 2181 §8
			rr.TTL = 0
			binary.BigEndian.PutUint32(msg[rr.Fixed+4:], 0)
		}
		switch {
		case i < r.Answers:
			answered = answered || rr.Type == typ || typ == TypeANY
			if EqualFold(msg[off:rr.Fixed], name) {
				r.owners = append(r.owners, uint16(off))
			}
			least = min(least, rr.TTL)
		case i < authority && rr.Type == TypeSOA && rr.End-rr.Data >= 4:
			soa = true
			least = min(least, rr.TTL, binary.BigEndian.Uint32(msg[rr.End-4:]))
		case i >= authority:
			extra++
		}
		if rr.Fixed+4 <= MaxMessage {
			r.TTLs = append(r.TTLs, uint16(rr.Fixed+4))
		}
		off = rr.End
	}
	r.Msg = msg[:off:off]
	binary.BigEndian.PutUint16(r.Msg[10:], extra)
	r.Lifetime = least
	r.Negative = !answered
	r.Keep = !r.Truncated && least > 0 && (r.Rcode == RcodeSuccess || r.Rcode == RcodeNXDomain) && (answered || soa)
	return true
}

// Write makes the response the answer to q in the room of buf. Each TTL is what
// ttl makes of it. What does not fit is left out and the answer is marked as
// truncated, unless it is only of the additional section.
func (r *Response) Write(buf []byte, q *Query, flags uint16, ttl func(uint32) uint32) []byte {
	limit := min(q.Limit, cap(buf))
	if q.EDNS {
		limit -= optLen + subnetOptionLen(q.Subnet)
	}
	buf = append(buf[:0], r.Msg[:min(len(r.Msg), limit)]...)
	counts := [3]uint16{}
	for i := range counts {
		counts[i] = binary.BigEndian.Uint16(r.Msg[6+2*i:])
	}
	if len(r.Msg) > limit {
		var cut bool
		if buf, cut = r.cut(buf, &counts, HeaderLen+len(q.Question)); cut {
			flags |= FlagTC
		}
	}
	for _, off := range r.TTLs {
		if int(off)+4 > len(buf) {
			break
		}
		b := buf[off:]
		binary.BigEndian.PutUint32(b, ttl(binary.BigEndian.Uint32(b)))
	}
	// The same but for case, of which clients get back what they sent.
	copy(buf[HeaderLen:], q.Question)
	for _, off := range r.owners {
		if int(off)+len(q.Name) <= len(buf) {
			copy(buf[off:], q.Question[:len(q.Name)])
		}
	}
	for i, n := range counts {
		binary.BigEndian.PutUint16(buf[6+2*i:], n)
	}
	if q.EDNS {
		buf = appendSubnet(appendOPT(buf, r.Rcode, q.DO), q.Subnet, r.Scope)
		binary.BigEndian.PutUint16(buf[10:], counts[2]+1)
	}
	kept := binary.BigEndian.Uint16(r.Msg[2:]) & (FlagAA | FlagTC | FlagAD)
	if !q.DO && q.Flags&FlagAD == 0 { // RFC 6840 §5.8
		kept &^= FlagAD
	}
	binary.BigEndian.PutUint16(buf, q.ID)
	binary.BigEndian.PutUint16(buf[2:], FlagQR|FlagRA|kept|flags|q.Flags&(FlagRD|FlagCD)|r.Rcode&rcodeMask)
	return buf
}

// cut shortens buf, the start of the message, to whole records and corrects the
// counts. It reports whether something is missing that a client needs.
func (r *Response) cut(buf []byte, counts *[3]uint16, off int) ([]byte, bool) {
	kept := [3]uint16{}
	for section := range counts {
		for range counts[section] {
			var rr RR
			if !rr.Parse(r.Msg, off) || rr.End > len(buf) {
				*counts = kept
				return buf[:off], section < 2
			}
			kept[section]++
			off = rr.End
		}
	}
	return buf[:off], false
}

// AppendRecord appends the record rr of msg with all names in full, so that it
// can be part of another message, and with the TTL given. It reports false for a
// malformed record.
func AppendRecord(dst, msg []byte, rr RR, ttl uint32) ([]byte, bool) {
	dst, ok := AppendName(dst, msg, rr.Owner)
	if !ok {
		return dst, false
	}
	dst = binary.BigEndian.AppendUint16(dst, rr.Type)
	dst = binary.BigEndian.AppendUint16(dst, rr.Class)
	dst = binary.BigEndian.AppendUint32(dst, ttl)
	length := len(dst)
	dst = append(dst, 0, 0)
	off := rr.Data
	fixed, names := namesOf(msg, rr)
	if off+fixed > rr.End {
		return dst, false
	}
	dst = append(dst, msg[off:off+fixed]...)
	off += fixed
	for range names {
		if dst, ok = AppendName(dst, msg[:rr.End], off); !ok {
			return dst, false
		}
		if off, ok = nameEnd(msg, off); !ok || off > rr.End {
			return dst, false
		}
	}
	dst = append(dst, msg[off:rr.End]...)
	binary.BigEndian.PutUint16(dst[length:], uint16(len(dst)-length-2))
	return dst, true
}

// namesOf returns how many names the data of a record holds that may be compressed,
// and how many octets come before them: RFC 3597 §4 leaves that to the types of RFC
// 1035, and has servers expect it in some that followed before the rule.
func namesOf(msg []byte, rr RR) (fixed, names int) {
	switch rr.Type {
	case TypeNS, typeMD, typeMF, TypeCNAME, typeMB, typeMG, typeMR, TypePTR, typeNXT, typeDNAME:
		return 0, 1
	case TypeSOA, typeMINFO, typeRP:
		return 0, 2
	case TypeMX, typeAFSDB, typeRT, typeKX:
		return 2, 1
	case typePX:
		return 2, 2
	case TypeSRV:
		return 6, 1
	case typeSIG:
		return 18, 1
	case typeNAPTR: // order, preference and three strings
		fixed = 4
		for range 3 {
			if rr.Data+fixed >= rr.End {
				break
			}
			fixed += 1 + int(msg[rr.Data+fixed])
		}
		return fixed, 1
	}
	return 0, 0
}

// Records yields the records of the answer section.
func (r *Response) Records() iter.Seq[RR] { return r.records(0, r.Answers) }

// Authority yields the records of the authority section.
func (r *Response) Authority() iter.Seq[RR] {
	return r.records(r.Answers, r.Answers+int(binary.BigEndian.Uint16(r.Msg[8:])))
}

// records yields records by their numbers.
func (r *Response) records(from, to int) iter.Seq[RR] {
	return func(yield func(RR) bool) {
		off, ok := nameEnd(r.Msg, HeaderLen)
		off += 4
		for i := 0; ok && i < to; i++ {
			var rr RR
			if !rr.Parse(r.Msg, off) || i >= from && !yield(rr) {
				return
			}
			off = rr.End
		}
	}
}

// Truncation returns a response that only says that the whole one is larger. It
// allocates.
func Truncation(name []byte, typ uint16) *Response {
	return &Response{Msg: AppendQuery(nil, 0, FlagQR|FlagTC, name, typ, false, false), Truncated: true, Negative: true}
}

// Failure returns a response without records, to say that name could not be
// resolved. It is not kept. It allocates.
func Failure(name []byte, typ, rcode uint16) *Response {
	msg := AppendQuery(nil, 0, FlagQR|rcode&rcodeMask, name, typ, false, false)
	return &Response{Msg: msg, Rcode: rcode, Negative: true}
}
