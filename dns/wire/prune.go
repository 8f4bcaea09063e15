package wire

import "encoding/binary"

// maxChain is how many aliases of one answer are followed.
const maxChain = 16

// Prune takes from the answer to a question what was not asked for, so that it is
// neither kept nor handed on: records of names that no alias leads to from the
// question's, the servers of a zone, and the additional section. With dnssec the
// authority section stays whole, for it may hold proofs. A negative answer whose
// SOA is of a zone that the name is not in is not to be kept. It allocates only if
// the answer section holds what does not belong there. It reports false if the
// answer is malformed where what belongs cannot be told from the rest.
func (r *Response) Prune(name []byte, typ uint16, dnssec bool) bool {
	var offsets [maxChain]int
	chain := r.chain(offsets[:])
	authority := int(binary.BigEndian.Uint16(r.Msg[8:]))
	foreign, answered, soa := false, false, false
	end := HeaderLen + len(name) + 4
	answersEnd, soaEnd := end, 0
	soas, leading := 0, 0 // in the authority section, and at its start
	for i := range r.Answers + authority {
		var rr RR
		if !rr.Parse(r.Msg, end) {
			return false
		}
		end = rr.End
		switch {
		case i < r.Answers:
			belongs := r.belongs(chain, &rr)
			foreign = foreign || !belongs
			answered = answered || belongs && (rr.Type == typ || typ == TypeANY)
			answersEnd = end
		case rr.Type == TypeSOA:
			if soas++; soas == i-r.Answers+1 {
				leading, soaEnd = soas, end
			}
			for _, n := range chain {
				soa = soa || below(r.Msg, n, rr.Owner)
			}
		}
	}
	r.Negative = !answered
	r.Keep = r.Keep && (answered || soa)
	switch {
	case foreign, r.Negative && !dnssec && leading < soas:
		return r.rebuild(chain, name, typ, dnssec)
	case dnssec:
		r.shorten(end, authority)
	case r.Negative && soas > 0:
		r.shorten(soaEnd, soas)
	default:
		r.shorten(answersEnd, 0)
	}
	return true
}

// chain returns the offsets of the names that aliases lead to, from the question's
// on.
func (r *Response) chain(room []int) []int {
	chain := append(room[:0], HeaderLen)
	for grown := true; grown; {
		grown = false
		for rr := range r.Records() {
			if rr.Type != TypeCNAME || len(chain) == cap(chain) || !contains(r.Msg, chain, rr.Owner) || contains(r.Msg, chain, rr.Data) {
				continue
			}
			chain = append(chain, rr.Data)
			grown = true
		}
	}
	return chain
}

func (r *Response) belongs(chain []int, rr *RR) bool {
	if contains(r.Msg, chain, rr.Owner) {
		return true
	}
	covered := rr.Type == typeRRSIG && rr.End-rr.Data > 2 && binary.BigEndian.Uint16(r.Msg[rr.Data:]) == typeDNAME
	if rr.Type != typeDNAME && !covered {
		return false
	}
	for _, n := range chain {
		if below(r.Msg, n, rr.Owner) {
			return true
		}
	}
	return false
}

// shorten cuts the message off after the answer section and the given number of
// records of the authority section.
func (r *Response) shorten(end, authority int) {
	if end == len(r.Msg) {
		return
	}
	r.Msg = append([]byte(nil), r.Msg[:end]...) // so that the rest is not kept in memory
	binary.BigEndian.PutUint16(r.Msg[8:], uint16(authority))
	binary.BigEndian.PutUint16(r.Msg[10:], 0)
	for len(r.TTLs) > 0 && int(r.TTLs[len(r.TTLs)-1]) >= end {
		r.TTLs = r.TTLs[:len(r.TTLs)-1]
	}
}

// rebuild makes the message anew of the records that belong to it, without
// compression but for their owners where that is the question's name.
func (r *Response) rebuild(chain []int, name []byte, typ uint16, dnssec bool) bool {
	msg := append(make([]byte, 0, len(r.Msg)), r.Msg[:HeaderLen+len(name)+4]...)
	off := len(msg)
	answers, authority := r.Answers, int(binary.BigEndian.Uint16(r.Msg[8:]))
	counts := [2]uint16{}
	for i := range answers + authority {
		var rr RR
		if !rr.Parse(r.Msg, off) {
			return false
		}
		off = rr.End
		section := 0
		if i >= answers {
			section = 1
		}
		if section == 0 && !r.belongs(chain, &rr) || section == 1 && !dnssec && (rr.Type != TypeSOA || !r.Negative) {
			continue
		}
		start := len(msg)
		longer, ok := AppendRecord(msg, r.Msg, rr, rr.TTL)
		if !ok || len(longer) > MaxMessage {
			return false
		}
		msg = longer
		if sameName(r.Msg, HeaderLen, rr.Owner) {
			ownerEnd, _ := nameEnd(msg, start)
			msg = append(append(msg[:start], 0xc0, QuestionOffset), msg[ownerEnd:]...)
		}
		counts[section]++
	}
	for i, n := range [...]uint16{counts[0], counts[1], 0} {
		binary.BigEndian.PutUint16(msg[6+2*i:], n)
	}
	keep, rcode := r.Keep, r.Rcode
	again, err := ParseResponse(msg, name, typ)
	if err != nil {
		return false
	}
	*r = *again
	r.Keep, r.Rcode = r.Keep && keep, rcode
	return true
}

func contains(msg []byte, names []int, name int) bool {
	for _, n := range names {
		if sameName(msg, n, name) {
			return true
		}
	}
	return false
}

// label returns the offset of the label that the name at off begins with, past any
// pointers, and its length. It reports false for a malformed name.
func label(msg []byte, off int) (int, int, bool) {
	for range maxPointers {
		if off >= len(msg) {
			return 0, 0, false
		}
		n := int(msg[off])
		if n <= MaxLabel {
			return off, n, off+1+n <= len(msg)
		}
		if n < 0xc0 || off+1 >= len(msg) {
			return 0, 0, false
		}
		off = n&0x3f<<8 | int(msg[off+1])
	}
	return 0, 0, false
}

const maxPointers = 64

// sameName reports whether the names at two offsets are the same but for case.
func sameName(msg []byte, a, b int) bool {
	for range MaxName {
		i, n, ok := label(msg, a)
		j, m, also := label(msg, b)
		switch {
		case !ok || !also || n != m:
			return false
		case i == j, n == 0:
			return true
		case !EqualFold(msg[i+1:i+1+n], msg[j+1:j+1+n]):
			return false
		}
		a, b = i+1+n, j+1+n
	}
	return false
}

// below reports whether the name at an offset is the zone at another or below it.
func below(msg []byte, name, zone int) bool {
	for range MaxName {
		if sameName(msg, name, zone) {
			return true
		}
		i, n, ok := label(msg, name)
		if !ok || n == 0 {
			return false
		}
		name = i + 1 + n
	}
	return false
}
