package dns

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/dns/zone"
)

// Rewrite has one name answered with what there is of another, as if it were its
// own. Names below it are not rewritten.
type Rewrite struct{ From, To string }

// ParseRewrite reads "FROM=TO".
func ParseRewrite(text string) (Rewrite, error) {
	from, to, _ := strings.Cut(text, "=")
	var names [2][]byte
	for i, name := range []string{from, to} {
		n, err := wire.ParseName(name)
		if err != nil || len(n) == 1 {
			return Rewrite{}, fmt.Errorf("expected two names, as FROM=TO, found %q", text)
		}
		names[i] = wire.AppendLower(nil, n)
	}
	if bytes.Equal(names[0], names[1]) {
		return Rewrite{}, fmt.Errorf("expected another name to answer with, found %q", text)
	}
	return Rewrite{from, to}, nil
}

// rewriteTable returns the names in wire form and lower case, by those that are
// asked for.
func rewriteTable(list []Rewrite) (map[string][]byte, error) {
	table := map[string][]byte{}
	for _, r := range list {
		from, err := wire.ParseName(r.From)
		if err != nil {
			return nil, fmt.Errorf("dns: rewrite: %w", err)
		}
		to, err := wire.ParseName(r.To)
		if err != nil {
			return nil, fmt.Errorf("dns: rewrite: %w", err)
		}
		if key := string(wire.AppendLower(nil, from)); table[key] == nil { // the first counts
			table[key] = wire.AppendLower(nil, to)
		}
	}
	return table, nil
}

// derive returns a worker for the query of another name in place of w's: as long as
// it takes, and without OPT record, which the whole answer has. It is w's, for one
// name at a time.
func (w *worker) derive(name []byte) *worker {
	if w.inner == nil {
		w.inner = &worker{nested: true}
	}
	d := w.inner
	d.counters, d.client, d.stream, d.six, d.now = w.counters, w.client, w.stream, w.six, w.now
	d.rewritten, d.as, d.scope = false, nil, 0
	d.query = w.query
	q := append(d.room[:0], name...)
	q = binary.BigEndian.AppendUint16(q, w.query.Type)
	q = binary.BigEndian.AppendUint16(q, w.query.Class)
	d.query.Name, d.query.Question = q[:len(name):len(name)], q
	d.query.EDNS, d.query.Limit = false, wire.MaxMessage
	return d
}

// answerInner answers d, for a part of w, in the room of buf.
func (s *Server) answerInner(w, d *worker, buf []byte, flags uint16, resolved *cache.Item) ([]byte, miss) {
	reply, m := s.answerQuestion(d, buf, flags, resolved)
	w.source, w.scope = d.source, d.scope
	if w.as = d.query.Name; d.as != nil {
		w.as = d.as
	}
	return reply, m
}

// answerRewritten answers with what there is of another name, as if it were of the
// query's.
func (s *Server) answerRewritten(w *worker, to, out []byte, flags uint16, resolved *cache.Item) ([]byte, miss) {
	d := w.derive(to)
	d.rewritten = true
	room := s.rooms.Get().(*[]byte)
	defer s.rooms.Put(room)
	reply, m := s.answerInner(w, d, *room, flags, resolved)
	if len(reply) == 0 {
		return nil, m
	}
	r := w.query.Start(out)
	graft(&r, reply, to, wire.QuestionOffset)
	s.metrics.limits.rewritten.Add(1)
	return w.finish(&r, reply), miss{}
}

// followRewritten appends to r, the answer of an alias, what there is of the name that
// its target is rewritten to, as if it were of the target at offset owner.
func (s *Server) followRewritten(w *worker, r *wire.Reply, to []byte, owner int, flags uint16, resolved *cache.Item) ([]byte, miss) {
	d := w.derive(to)
	d.rewritten = true
	room := s.rooms.Get().(*[]byte)
	defer s.rooms.Put(room)
	reply, m := s.answerInner(w, d, *room, flags, resolved)
	w.as = nil // the alias itself is answered for under its own name
	if len(reply) == 0 {
		return nil, m
	}
	rcode := uint16(reply[3] & 0xf)
	if rcode == wire.RcodeSuccess || rcode == wire.RcodeNXDomain {
		graft(r, reply, to, owner)
	} else {
		rcode = wire.RcodeSuccess // see appendResolved
	}
	s.metrics.limits.rewritten.Add(1)
	w.response(rcode, sourceZone)
	r.Scope(w.scope)
	return r.Finish(flags, rcode), miss{}
}

// complete answers the first name of a Pod's search path with the first of the path
// that exists. It returns nothing where that is not what is asked for, or where no
// name exists or one cannot be told: then the resolver does what it would.
func (s *Server) complete(w *worker, z *zone.Zone, a *zone.Answer, out []byte, flags uint16, resolved *cache.Item) ([]byte, miss) {
	walker := s.walker.Load()
	if walker == nil || w.query.Type != wire.TypeA && w.query.Type != wire.TypeAAAA {
		return nil, miss{}
	}
	walk, ok := walker.Begin(z.Model(), w.client.Addr(), w.query.Name)
	if !ok {
		return nil, miss{}
	}
	room := s.rooms.Get().(*[]byte)
	defer s.rooms.Put(room)
	var buf [wire.MaxName + 2]byte
	for at := max(0, w.step-1); ; resolved = nil {
		var name []byte
		if name, at, ok = walk.Next(buf[:0], at); !ok {
			w.as = nil
			return nil, miss{}
		}
		d := w.derive(name)
		reply, m := s.answerInner(w, d, *room, flags, resolved)
		if len(reply) == 0 {
			m.step = at
			return nil, m
		}
		switch reply[3] & 0xf {
		case wire.RcodeSuccess:
		case wire.RcodeNXDomain:
			continue
		default:
			w.as = nil
			return nil, miss{}
		}
		r := w.query.Start(out)
		// The alias lives no longer than it is certain that its owner does not
		// exist otherwise.
		ttl := binary.BigEndian.Uint32(a.SOA[wire.Pointer+4:])
		target := r.Len() + wire.Pointer + 10
		var alias [wire.Pointer + 10 + wire.MaxName]byte
		r.Answer(wire.AppendPacked(alias[:0], wire.TypeCNAME, ttl, d.query.Name), wire.QuestionOffset)
		graft(&r, reply, d.query.Name, target)
		s.metrics.limits.completed.Add(1)
		return w.finish(&r, reply), miss{}
	}
}

// finish ends an answer that is made of one for another name. What was validated of
// that is not of this.
func (w *worker) finish(r *wire.Reply, inner []byte) []byte {
	rcode := uint16(inner[3] & 0xf)
	w.response(rcode, w.source)
	r.Scope(w.scope)
	const kept = wire.FlagAA | wire.FlagRA | wire.FlagTC
	return r.Finish(binary.BigEndian.Uint16(inner[2:])&kept, rcode)
}

// graft appends the records of msg, the answer for another name. Those that it owns
// are given to the name at offset owner.
func graft(r *wire.Reply, msg, name []byte, owner int) {
	off := wire.HeaderLen + len(name) + 4
	var buf [2*wire.MaxName + 512]byte
	for section := range 3 {
		for range binary.BigEndian.Uint16(msg[6+2*section:]) {
			var rr wire.RR
			if !rr.Parse(msg, off) {
				return
			}
			off = rr.End
			record, ok := wire.AppendRecord(buf[:0], msg, rr, rr.TTL)
			if !ok {
				return
			}
			if len(record) > len(name) && wire.EqualFold(record[:len(name)], name) {
				record = record[len(name)-wire.Pointer:]
				binary.BigEndian.PutUint16(record, 0xc000|uint16(owner))
			}
			if !r.RawIn(section, record) {
				return
			}
		}
	}
}
