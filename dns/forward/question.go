package forward

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"

	"github.com/sluicenet/sluice/dns/wire"
)

// Question is what is asked.
type Question struct {
	Name []byte // wire form
	Type uint16
	DO   bool
	CD   bool
	// Subnet is the data of a Client Subnet option (RFC 7871 §6) to send along;
	// nil: none. No other option of a client is.
	Subnet []byte
}

// errCase indicates an answer that repeats the question with other letters than
// were sent: from a forger, or from a server that does not keep them.
var errCase = errors.New("answer does not repeat the case of the question")

// append makes the query. Servers say whether they validated an answer only to
// those who show that they understand it (RFC 6840 §5.7), hence AD.
func (q *Question) append(dst []byte, id uint16, edns bool) []byte {
	flags := uint16(wire.FlagAD)
	if q.CD {
		flags |= wire.FlagCD
	}
	dst = wire.AppendQuery(dst, id, flags, q.Name, q.Type, edns, q.DO)
	if edns && q.Subnet != nil {
		dst = wire.AppendSubnet(dst, q.Subnet)
	}
	return dst
}

// read parses an answer. One that cannot be read is as good as a failure, or where
// it is cut, as what says so. A server that does not understand the question may
// leave it out.
func (q *Question) read(msg []byte) (*wire.Response, error) {
	r, err := wire.ParseResponse(msg, q.Name, q.Type)
	switch {
	case err == nil && (r.Truncated || r.Rcode > wire.RcodeNXDomain || r.Prune(q.Name, q.Type, q.DO)):
		return r, nil
	case err != nil && !errors.Is(err, wire.ErrMalformed):
	case binary.BigEndian.Uint16(msg[2:])&wire.FlagTC != 0:
		return wire.Truncation(q.Name, q.Type), nil
	default:
		return wire.Failure(q.Name, q.Type, wire.RcodeServFail), nil
	}
	if len(msg) < wire.HeaderLen {
		return nil, err
	}
	flags, questions := binary.BigEndian.Uint16(msg[2:]), binary.BigEndian.Uint16(msg[4:])
	if rcode := flags & 0xf; flags&wire.FlagQR != 0 && questions == 0 && (rcode == wire.RcodeFormErr || rcode == wire.RcodeNotImp) {
		return wire.Failure(q.Name, q.Type, wire.RcodeFormErr), nil
	}
	return nil, err
}

// spelled returns the question with its letters in random case.
func (q *Question) spelled() *Question {
	s := *q
	s.Name = make([]byte, len(q.Name))
	bits := [4]uint64{rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64()}
	for i, c := range q.Name { // the lengths of labels are no letters
		if lower := c | 0x20; 'a' <= lower && lower <= 'z' && c > wire.MaxLabel {
			c = lower ^ byte(bits[i>>6]>>(i&63)&1)<<5
		}
		s.Name[i] = c
	}
	return &s
}

// repeats reports whether the answer repeats the question to the letter.
func (q *Question) repeats(msg []byte) bool {
	end := wire.HeaderLen + len(q.Name)
	return len(msg) >= end && string(msg[wire.HeaderLen:end]) == string(q.Name)
}
