package dns

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"sort"
	"time"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/dnstap"
	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/dns/zone"
)

// maxChain is how many aliases are followed, as in CoreDNS.
const maxChain = 10

// worker is what answering needs that only one goroutine may use at a time.
type worker struct {
	*counters
	query wire.Query
	key   [cache.MaxKey]byte

	// How the query came, and the time for its answer.
	stream, six bool
	now         time.Time
	client      netip.AddrPort // invalid: unknown
	server      netip.AddrPort // that it was sent to
	protocol    dnstap.Protocol

	source int    // where the answer came from
	scope  uint8  // of the answer, see [wire.Reply.Scope]
	as     []byte // the name that was answered for in place of the query's; nil: none
	step   int    // where to go on with what was missing, see [miss]

	datagram [wire.MaxUDP]byte // for an answer over UDP that was waited for

	// Of a worker that answers for a part of another's query.
	nested    bool
	rewritten bool
	room      [wire.MaxName + 4]byte
	inner     *worker // nil until it is needed
}

// miss is a name that has to be asked of another server before a query can be
// answered.
type miss struct {
	name  []byte      // nil: there is none
	stale *cache.Item // what can be answered if nobody knows better
	step  int         // how far along a search path the name is
}

// answer writes the answer to msg in the room of out. It returns nothing if there
// is none to be given, or if the answer needs what miss says. resolved is what was
// missing before, or nil.
func (s *Server) answer(w *worker, msg, out []byte, stream bool, resolved *cache.Item) ([]byte, miss) {
	q := &w.query
	verdict := q.Parse(msg, stream)
	if verdict == wire.Drop {
		return nil, miss{}
	}
	w.stream, w.as, w.scope = stream, nil, 0
	if !s.KeepSubnet {
		q.Subnet = nil
	}
	if resolved == nil {
		w.step = 0
	}
	var flags uint16
	if s.forward.Forwards() {
		flags = wire.FlagRA
	}
	if verdict == wire.Refused && !stream && q.Type == wire.TypeIXFR && s.mayTransfer(w) {
		return s.answerIncremental(w, msg, out, flags), miss{}
	}
	if verdict != wire.Answer {
		w.response(verdict.Rcode(), sourceNone)
		return q.Refuse(out, flags, verdict.Rcode()), miss{}
	}
	if q.Type == wire.TypeHINFO && s.probes.seen(q.Name) {
		w.response(wire.RcodeRefused, sourceNone)
		return q.Refuse(out, flags, wire.RcodeRefused), miss{}
	}
	return s.answerQuestion(w, out, flags, resolved)
}

// answerQuestion answers a query that there is an answer to.
func (s *Server) answerQuestion(w *worker, out []byte, flags uint16, resolved *cache.Item) ([]byte, miss) {
	q := &w.query
	if len(s.rewrites) > 0 && !w.rewritten {
		if to := s.rewrites[string(q.Name)]; to != nil {
			return s.answerRewritten(w, to, out, flags, resolved)
		}
	}
	if h := s.hosts.Load().Lookup(q.Name, q.Type); h.Found {
		r := q.Start(out)
		appendRotated(&r, h.Records, h.Count, q.Type, wire.QuestionOffset)
		w.response(wire.RcodeSuccess, sourceHosts)
		return r.Finish(flags|wire.FlagAA, wire.RcodeSuccess), miss{}
	}
	z := s.zone.Load()
	a := s.lookup(z, q.Name, q.Type)
	if a.Status == zone.Elsewhere || a.Status == zone.NXDomain && a.Reverse && s.forward.Handles(q.Name) {
		return s.answerOther(w, out, flags, resolved)
	}
	if a.Status == zone.NXDomain && !w.nested && s.Autopath {
		if reply, m := s.complete(w, z, &a, out, flags, resolved); len(reply) > 0 || m.name != nil {
			return reply, m
		}
	}
	return s.answerCluster(w, z, a, out, flags, resolved)
}

// about returns what was missing if it is about that name still: between the
// question to other servers and their answer the cluster's names may have changed.
func about(resolved *cache.Item, name []byte) *cache.Item {
	if resolved == nil || len(resolved.Msg) < wire.HeaderLen+len(name) || !wire.EqualFold(resolved.Msg[wire.HeaderLen:wire.HeaderLen+len(name)], name) {
		return nil
	}
	return resolved
}

// answerOther answers a name that is not the cluster's.
func (s *Server) answerOther(w *worker, out []byte, flags uint16, resolved *cache.Item) ([]byte, miss) {
	q := &w.query
	to := s.forward.Zone(q.Name)
	if to < 0 {
		w.response(wire.RcodeRefused, sourceNone)
		return q.Refuse(out, flags, wire.RcodeRefused), miss{}
	}
	now := w.now
	source := sourceForward
	if resolved = about(resolved, q.Name); resolved == nil {
		source = sourceCache
		var m miss
		if resolved, m = s.cached(w, q.Name, to, now); resolved == nil {
			return nil, m
		}
	}
	// Old C libraries drop what is not authoritative; CoreDNS' cache sets the
	// flag for them too.
	w.scope = resolved.Scope
	reply := resolved.Write(out, q, now, wire.FlagAA)
	if resolved.Stale(now) {
		source = sourceStale
		w.zone(to).hits[hitStale].Add(1)
	}
	w.response(resolved.Rcode, source)
	return reply, miss{}
}

// cached returns what the cache has for a name and the query's type, or what is
// missing. to is the number of the zone whose servers know the name.
func (s *Server) cached(w *worker, name []byte, to int, now time.Time) (*cache.Item, miss) {
	counts := w.zone(to)
	it := s.cache.Get(cache.AppendKey(w.key[:0], name, &w.query), now)
	if it == nil {
		counts.misses.Add(1)
		return nil, miss{name: name}
	}
	switch {
	case it.Left(now) > 0 && it.Negative:
		counts.hits[hitDenial].Add(1)
	case it.Left(now) > 0:
		counts.hits[hitSuccess].Add(1)
	case it.Rested(now):
		return it, miss{} // who gives it counts it
	default:
		counts.misses.Add(1)
		return nil, miss{name: name, stale: it}
	}
	if s.cache.Due(it, now) {
		counts.prefetches.Add(1)
		s.resolver.refresh(&w.query, name)
	}
	return it, miss{}
}

// answerCluster answers a name of the zone, following aliases.
func (s *Server) answerCluster(w *worker, z *zone.Zone, a zone.Answer, out []byte, flags uint16, resolved *cache.Item) ([]byte, miss) {
	q := &w.query
	flags |= wire.FlagAA
	r := q.Start(out)
	owner, nameLen := wire.QuestionOffset, len(q.Name)
	for hop := 0; a.Status == zone.Alias; hop++ {
		at := r.Len() + wire.Pointer + 10 // of the target
		r.Answer(a.Records, owner)
		if q.Type == wire.TypeCNAME || r.Truncated() || hop == maxChain {
			break
		}
		target := a.Target
		if wire.EqualFold(target, q.Name) { // in a circle; a longer one ends at maxChain
			break
		}
		owner, nameLen = at, len(target)
		if to := s.rewrites[string(target)]; to != nil && !w.rewritten {
			return s.followRewritten(w, &r, to, owner, flags, resolved)
		}
		a = s.lookup(z, target, q.Type)
		if a.Status == zone.Elsewhere {
			if h := s.hosts.Load().Lookup(target, q.Type); h.Found {
				appendRotated(&r, h.Records, h.Count, q.Type, owner)
				w.response(wire.RcodeSuccess, sourceZone)
				return r.Finish(flags, wire.RcodeSuccess), miss{}
			}
			to := s.forward.Zone(target)
			if to < 0 {
				break
			}
			now := w.now
			if resolved = about(resolved, target); resolved == nil {
				var m miss
				if resolved, m = s.cached(w, target, to, now); resolved == nil {
					return nil, m
				}
			}
			if resolved.Stale(now) {
				w.zone(to).hits[hitStale].Add(1)
			}
			w.scope = resolved.Scope
			r.Scope(w.scope)
			rcode := appendResolved(&r, resolved, now)
			w.response(rcode, sourceZone)
			return r.Finish(flags, rcode), miss{}
		}
	}

	var rcode uint16
	switch a.Status {
	case zone.Success:
		answers := r.Len()
		if a.NearCount > 0 {
			appendNear(&r, a, owner)
		} else {
			appendRotated(&r, a.Records, a.Count, q.Type, owner)
		}
		if q.Type == wire.TypeSRV && !r.Truncated() {
			appendTargets(&r, z, answers)
		}
	case zone.NotReady:
		// Not a name error: the client is to ask again, or somebody else.
		flags &^= wire.FlagAA
		rcode = wire.RcodeServFail
	case zone.NXDomain:
		rcode = wire.RcodeNXDomain
		r.Authority(a.SOA, owner+nameLen-a.Apex)
	case zone.NoData:
		r.Authority(a.SOA, owner+nameLen-a.Apex)
	}
	w.response(rcode, sourceZone)
	return r.Finish(flags, rcode), miss{}
}

// appendRotated appends the records of an answer. Addresses begin with a random
// one, since most clients use the first.
func appendRotated(r *wire.Reply, records []byte, count int, typ uint16, owner int) {
	first := 0
	if count > 1 && (typ == wire.TypeA || typ == wire.TypeAAAA) {
		first = rand.IntN(count) * wire.PackedLen(records)
	}
	r.Answer(records[first:], owner)
	if first > 0 && !r.Truncated() {
		r.Answer(records[:first], owner)
	}
}

// appendNear appends addresses, the near ones first: of these a random one, and
// likewise of the others.
func appendNear(r *wire.Reply, a zone.Answer, owner int) {
	size := wire.PackedLen(a.Near) // addresses of one family are of one size
	first := rand.IntN(a.NearCount) * size
	r.Answer(a.Near[first:], owner)
	if first > 0 && !r.Truncated() {
		r.Answer(a.Near[:first], owner)
	}
	first = rand.IntN(a.Count) * size
	for i := range a.Count {
		at := (first + i*size) % len(a.Records)
		record := a.Records[at : at+size]
		if r.Truncated() {
			return
		}
		if !contains(a.Near, record) {
			r.Answer(record, owner)
		}
	}
}

// contains reports whether a record is among others of its size, which are sorted.
func contains(records, record []byte) bool {
	size := len(record)
	_, found := sort.Find(len(records)/size, func(i int) int {
		return bytes.Compare(record, records[i*size:(i+1)*size])
	})
	return found
}

// appendTargets adds the addresses of the SRV records that begin at offset off,
// as far as they fit.
func appendTargets(r *wire.Reply, z *zone.Zone, off int) {
	for end := r.Len(); off < end; {
		size := wire.PackedLen(r.Bytes()[off:])
		target := off + wire.Pointer + 10 + 6
		name := r.Bytes()[target : off+size]
		off += size
		if target >= 1<<14 { // too far for a pointer
			return
		}
		for _, typ := range []uint16{wire.TypeA, wire.TypeAAAA} {
			if a := z.Lookup(name, typ); a.Status == zone.Success && !r.Additional(a.Records, target) {
				return
			}
		}
	}
}

// appendResolved adds what another server said of an alias' target, and returns
// the response code. Where none could say, the alias stands alone: a name that
// exists does not fail.
func appendResolved(r *wire.Reply, it *cache.Item, now time.Time) uint16 {
	if it.Rcode != wire.RcodeSuccess && it.Rcode != wire.RcodeNXDomain {
		return wire.RcodeSuccess
	}
	if it.Truncated {
		r.Truncate()
	}
	var buf [2*wire.MaxName + 512]byte
	for rr := range it.Records() {
		record, ok := wire.AppendRecord(buf[:0], it.Msg, rr, it.TTL(now, rr.TTL))
		if !ok || !r.Raw(record) {
			return it.Rcode
		}
	}
	// RFC 2308 §5: without the SOA nobody keeps that there is no such thing.
	for rr := range it.Authority() {
		if rr.Type != wire.TypeSOA {
			continue
		}
		if record, ok := wire.AppendRecord(buf[:0], it.Msg, rr, it.TTL(now, rr.TTL)); !ok || !r.RawIn(1, record) {
			break
		}
	}
	return it.Rcode // RFC 6604 §3: of the end of the chain
}
