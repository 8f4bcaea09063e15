package dns

import (
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/dns/zone"
)

// transferMessage is the longest message of a transfer, in octets: as far as
// pointers can lead, and short enough to be made while others are answered.
const transferMessage = 1 << 14

// mayTransfer reports whether the query of w, which was parsed as one to be refused,
// asks for a zone's transfer and comes from a client that may have it.
func (s *Server) mayTransfer(w *worker) bool {
	q := &w.query
	if q.Class != wire.ClassIN || q.Type != wire.TypeAXFR && q.Type != wire.TypeIXFR {
		return false
	}
	client := w.client.Addr().Unmap()
	return slices.ContainsFunc(s.Transfer, func(p netip.Prefix) bool { return p.Contains(client) })
}

// transferOf says what a client that may have a transfer is answered: with a failure,
// with the SOA record alone if it has the newest zone, or with the whole zone.
func transferOf(z *zone.Zone, q *wire.Query, msg []byte) (rcode uint16, current bool) {
	switch {
	case !z.IsApex(q.Name):
		return wire.RcodeNotAuth, false // RFC 5936 §2.2.1
	case !z.Ready():
		return wire.RcodeServFail, false
	case q.Type == wire.TypeAXFR:
		return wire.RcodeSuccess, false
	}
	serial, ok := q.Serial(msg)
	if !ok {
		return wire.RcodeFormErr, false
	}
	// RFC 1995 §2, in the arithmetic of RFC 1982. There is no history to answer an
	// older one from, for which §4 has the whole zone.
	return wire.RcodeSuccess, int32(serial-z.Serial()) >= 0
}

// answerIncremental answers a query of type IXFR over UDP, where a whole zone does not
// fit: with the SOA record alone, from which a client sees whether to ask over TCP
// (RFC 1995 §2).
func (s *Server) answerIncremental(w *worker, msg, out []byte, flags uint16) []byte {
	z, q := s.zone.Load(), &w.query
	rcode, _ := transferOf(z, q, msg)
	w.response(rcode, sourceZone)
	if rcode != wire.RcodeSuccess {
		return q.Refuse(out, flags, rcode)
	}
	r := q.Start(out)
	r.Answer(z.SOA(q.Name), wire.QuestionOffset)
	return r.Finish(flags|wire.FlagAA, rcode)
}

// sendTransfer answers a query for a transfer over a stream, in messages of
// [transferMessage] at most in the room of out. They are of one zone, whatever comes
// meanwhile. The query is the one that w has parsed. It holds up the queries that
// come after it on the connection, and no others.
func (s *Server) sendTransfer(work context.Context, c *stream, w *worker, msg, out []byte, received time.Time) error {
	z, q := s.zone.Load(), &w.query
	w.stream, w.as, q.Subnet = true, nil, nil
	rcode, current := transferOf(z, q, msg)
	w.response(rcode, sourceZone)
	if rcode != wire.RcodeSuccess {
		reply := q.Refuse(out, 0, rcode)
		s.observe(w, msg, reply, received)
		w.took(received)
		return c.write(reply)
	}
	q.Limit = transferMessage
	r := q.Start(out)
	told := false
	send := func() error {
		reply := r.Finish(wire.FlagAA, wire.RcodeSuccess)
		if !told { // of a transfer one message is enough to tell of
			s.observe(w, msg, reply, received)
			w.took(received)
			told = true
		}
		if err := work.Err(); err != nil {
			return err
		}
		return c.write(reply)
	}
	if current {
		r.Answer(z.SOA(q.Name), wire.QuestionOffset)
		return send()
	}
	var buf [2*wire.MaxName + 64]byte
	for name, records := range z.Transfer(q.Name) {
		for len(records) > 0 {
			n := wire.PackedLen(records)
			rr := appendBelow(buf[:0], name[:len(name)-len(q.Name)], records[:n])
			if r.Room() < len(rr) {
				if err := send(); err != nil {
					return err
				}
				r = q.Start(out)
			}
			r.Raw(rr)
			records = records[n:]
		}
	}
	return send()
}

// appendBelow appends a packed record whose owner is some labels below the question's
// name.
func appendBelow(dst, labels, record []byte) []byte {
	dst = append(dst, labels...)
	dst = binary.BigEndian.AppendUint16(dst, 0xc000|wire.QuestionOffset)
	return append(dst, record[wire.Pointer:]...)
}
