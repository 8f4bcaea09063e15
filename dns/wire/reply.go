package wire

import "encoding/binary"

// Pointer is the length of a compression pointer, which every record that
// [Reply] takes has as its owner.
const Pointer = 2

// QuestionOffset is where the question's name is in a message.
const QuestionOffset = HeaderLen

// Reply writes an answer into a buffer, without growing beyond what the client
// can take.
type Reply struct {
	buf            []byte
	limit          int
	qd, an, ns, ar uint16
	flags          uint16
	edns, do       bool
	subnet         []byte // of the query
	scope          uint8
}

// Start begins the answer to q in the room of buf, which must hold at least a
// header, a question and an OPT record.
func (q *Query) Start(buf []byte) Reply {
	r := Reply{buf: buf[:HeaderLen], limit: min(q.Limit, cap(buf)), edns: q.EDNS, do: q.DO, subnet: q.Subnet}
	if q.EDNS {
		r.limit -= optLen + subnetOptionLen(q.Subnet)
	}
	binary.BigEndian.PutUint16(r.buf, q.ID)
	// RFC 1035 §4.1.1 and RFC 4035 §3.2.2: these come back as they were sent.
	r.flags = FlagQR | q.Flags&(opcodeMask|FlagRD|FlagCD)
	if len(q.Question) > 0 {
		r.qd = 1
		r.buf = append(r.buf, q.Question...)
	}
	return r
}

// Len returns the offset at which the next record is written.
func (r *Reply) Len() int { return len(r.buf) }

// Room returns how many octets of records fit still.
func (r *Reply) Room() int { return r.limit - len(r.buf) }

// Bytes returns what is written so far.
func (r *Reply) Bytes() []byte { return r.buf }

// Truncated reports whether something that belongs in the answer did not fit.
func (r *Reply) Truncated() bool { return r.flags&FlagTC != 0 }

// Truncate says that something is missing from the answer.
func (r *Reply) Truncate() { r.flags |= FlagTC }

// Answer appends packed records, whose owner is replaced by a pointer to offset
// owner. Where not all fit, as many as do are written and the reply is marked as
// truncated: resolvers that do not speak TCP use what they get.
func (r *Reply) Answer(records []byte, owner int) {
	n, all := r.append(records, owner)
	r.an += n
	if !all {
		r.flags |= FlagTC
	}
}

// Authority appends packed records to the authority section, all or none.
func (r *Reply) Authority(records []byte, owner int) {
	if len(r.buf)+len(records) > r.limit {
		r.flags |= FlagTC
		return
	}
	n, _ := r.append(records, owner)
	r.ns += n
}

// Additional appends packed records that a client can do without, all or none,
// and reports whether they fit.
func (r *Reply) Additional(records []byte, owner int) bool {
	if len(r.buf)+len(records) > r.limit {
		return false
	}
	n, _ := r.append(records, owner)
	r.ar += n
	return true
}

// Raw appends one record of the answer section as it is.
func (r *Reply) Raw(record []byte) bool { return r.RawIn(0, record) }

// RawIn appends one record as it is, to the section of the number given: 0 answer,
// 1 authority, 2 additional, of which clients can do without. Sections are written
// in that order.
func (r *Reply) RawIn(section int, record []byte) bool {
	if len(r.buf)+len(record) > r.limit {
		if section < 2 {
			r.flags |= FlagTC
		}
		return false
	}
	r.buf = append(r.buf, record...)
	*[...]*uint16{&r.an, &r.ns, &r.ar}[section]++
	return true
}

func (r *Reply) append(records []byte, owner int) (n uint16, all bool) {
	for len(records) > 0 {
		size := PackedLen(records)
		if len(r.buf)+size > r.limit {
			return n, false
		}
		at := len(r.buf)
		r.buf = append(r.buf, records[:size]...)
		binary.BigEndian.PutUint16(r.buf[at:], 0xc000|uint16(owner))
		records = records[size:]
		n++
	}
	return n, true
}

// PackedLen returns the length of the first of some packed records.
func PackedLen(records []byte) int {
	return Pointer + 10 + int(binary.BigEndian.Uint16(records[Pointer+8:]))
}

// AppendPacked appends a record in the form that [Reply] takes: a pointer to the
// question as its owner, class IN.
func AppendPacked(dst []byte, typ uint16, ttl uint32, data []byte) []byte {
	dst = append(dst, 0xc0, QuestionOffset)
	dst = binary.BigEndian.AppendUint16(dst, typ)
	dst = binary.BigEndian.AppendUint16(dst, ClassIN)
	dst = binary.BigEndian.AppendUint32(dst, ttl)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(data)))
	return append(dst, data...)
}

// Scope says for which clients the answer holds, where the query has a Client Subnet
// option: the length of the prefix that they have in common (RFC 7871 §6), by default
// 0, for all.
func (r *Reply) Scope(prefix uint8) { r.scope = prefix }

// Finish writes the header and the OPT record, and returns the message. flags
// are added to those that come from the query.
func (r *Reply) Finish(flags, rcode uint16) []byte {
	if r.edns {
		r.buf = appendSubnet(appendOPT(r.buf, rcode, r.do), r.subnet, r.scope)
		r.ar++
	}
	binary.BigEndian.PutUint16(r.buf[2:], r.flags|flags|rcode&rcodeMask)
	binary.BigEndian.PutUint16(r.buf[4:], r.qd)
	binary.BigEndian.PutUint16(r.buf[6:], r.an)
	binary.BigEndian.PutUint16(r.buf[8:], r.ns)
	binary.BigEndian.PutUint16(r.buf[10:], r.ar)
	return r.buf
}

func appendOPT(dst []byte, rcode uint16, do bool) []byte {
	var flags byte
	if do {
		flags = 1 << 7
	}
	return append(dst, 0, 0, TypeOPT, MaxUDP>>8, MaxUDP&0xff, byte(rcode>>4), 0, flags, 0, 0, 0)
}

// Refuse writes an answer without records.
func (q *Query) Refuse(buf []byte, flags, rcode uint16) []byte {
	r := q.Start(buf)
	return r.Finish(flags, rcode)
}

// AppendQuery appends a query for a name in wire form, with RD set. edns adds an
// OPT record that offers [MaxUDP].
func AppendQuery(dst []byte, id uint16, flags uint16, name []byte, typ uint16, edns, do bool) []byte {
	dst = binary.BigEndian.AppendUint16(dst, id)
	dst = binary.BigEndian.AppendUint16(dst, flags|FlagRD)
	extra := byte(0)
	if edns {
		extra = 1
	}
	dst = append(dst, 0, 1, 0, 0, 0, 0, 0, extra)
	dst = append(dst, name...)
	dst = binary.BigEndian.AppendUint16(dst, typ)
	dst = binary.BigEndian.AppendUint16(dst, ClassIN)
	if edns {
		dst = appendOPT(dst, 0, do)
	}
	return dst
}
