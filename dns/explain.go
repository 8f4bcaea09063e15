package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/dns/zone"
)

// Explanation is an answer with where it comes from.
type Explanation struct {
	Name       string   `json:"name"`
	Type       string   `json:"type"`
	Rcode      string   `json:"rcode"`
	Answer     []string `json:"answer,omitempty"`     // records as in a master file
	Authority  []string `json:"authority,omitempty"`  // likewise
	Additional []string `json:"additional,omitempty"` // likewise
	// Source is zone, hosts, cache, stale, forward or none.
	Source string `json:"source"`
	// As is the name that was answered for in place of the one asked for: by a
	// rewrite, or because the client's search path leads there.
	As string `json:"as,omitempty"`
	// Reason says in words why the answer is what it is.
	Reason string `json:"reason"`
	// Object is the Service, Pod or Namespace that decides, if one does.
	Object   string `json:"object,omitempty"`
	Upstream string `json:"upstream,omitempty"` // the server that gave what was forwarded or cached
	Revision uint64 `json:"revision"`           // of the model
}

// ErrType indicates that there is no such type of records.
var ErrType = errors.New("unknown record type")

// Explain answers a query for the name and type, such as "web.default.svc.cluster.local"
// and "A", as a client over TCP would get it, and says where the answer comes
// from. It asks other servers if need be. client is the address of a Pod to answer
// as if it had asked; an invalid one is nobody.
func (s *Server) Explain(ctx context.Context, client netip.Addr, name, typ string) (*Explanation, error) {
	number, ok := parseType(typ)
	if !ok {
		return nil, fmt.Errorf("%w %q", ErrType, typ)
	}
	asked, err := wire.ParseName(name)
	if err != nil {
		return nil, err
	}
	msg := wire.AppendQuery(nil, 0, 0, asked, number, true, false)
	w := &worker{counters: &counters{}} // not counted: it is no client
	w.client = netip.AddrPortFrom(client, 0)
	room := make([]byte, 0, wire.MaxMessage)
	w.now = time.Now()
	reply, m := s.answer(w, msg, room, true, nil)
	var it *cache.Item
	for range maxRounds {
		if m.name == nil {
			break
		}
		done := make(chan *cache.Item, 1)
		s.resolver.resolve(context.WithoutCancel(ctx), &w.query, m, func(it *cache.Item) { done <- it })
		select {
		case it = <-done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		w.step, w.now = m.step, time.Now()
		reply, m = s.answer(w, msg, room, true, it)
	}
	var parsed dns.Msg
	if err := parsed.Unpack(reply); err != nil {
		return nil, fmt.Errorf("answer for %s: %w", name, err)
	}
	e := &Explanation{
		Name: wire.NameString(asked), Type: strings.ToUpper(typ), Rcode: rcodeName(uint16(parsed.Rcode)),
		Answer: texts(parsed.Answer), Authority: texts(parsed.Ns), Additional: texts(parsed.Extra),
		Source: sources[w.source],
	}
	decided := w.query.Name
	if w.as != nil {
		decided, e.As = w.as, wire.NameString(w.as)
	}
	if it == nil || w.source == sourceCache {
		it = s.cachedBehind(w, decided)
	}
	s.explain(e, w.source, decided, number, it)
	if s.rewrites[string(w.query.Name)] != nil {
		e.Reason = "rewritten to " + e.As + " by the configuration: " + e.Reason
	} else if w.as != nil {
		e.Reason = "the client's search path leads to " + e.As + ": " + e.Reason
	}
	return e, nil
}

// parseType reads a type of records by its name, or as TYPE65 (RFC 3597 §5).
func parseType(text string) (number uint16, ok bool) {
	text = strings.ToUpper(text)
	if number, ok = dns.StringToType[text]; ok {
		return number, true
	}
	digits, ok := strings.CutPrefix(text, "TYPE")
	n, err := strconv.ParseUint(digits, 10, 16)
	return uint16(n), ok && err == nil
}

// cachedBehind returns what the cache has for the name, or for the one that an
// alias leads to.
func (s *Server) cachedBehind(w *worker, name []byte) *cache.Item {
	z := s.zone.Load()
	for range maxChain {
		a := s.lookup(z, name, w.query.Type)
		if a.Status != zone.Alias {
			break
		}
		name = a.Target
	}
	return s.cache.Get(cache.AppendKey(nil, name, &w.query), time.Now())
}

func (s *Server) explain(e *Explanation, source int, name []byte, typ uint16, it *cache.Item) {
	z := s.zone.Load()
	e.Revision = z.Revision()
	if key, ok := z.Origin(name); ok {
		e.Object = key.String()
	}
	switch source {
	case sourceZone:
		status := s.lookup(z, name, typ).Status
		e.Reason = zoneReason(status)
		if status != zone.Alias {
			return
		}
	case sourceHosts:
		e.Reason = "an entry of hosts in the configuration"
		return
	case sourceNone:
		e.Reason = noneReason(e.Rcode, typ)
		return
	case sourceForward:
		e.Reason = "not a name of the cluster: asked of an upstream"
	default:
		e.Reason = "cached"
		if it != nil {
			left := it.Left(time.Now()).Round(time.Second)
			e.Reason = fmt.Sprintf("cached for another %v", left)
			if left < 0 {
				e.Reason = fmt.Sprintf("expired %v ago, and no upstream has a newer answer", -left)
			}
		}
	}
	if it == nil {
		return
	}
	if it.From != (netip.AddrPort{}) {
		e.Upstream = it.From.String()
	}
	if why := s.whyFailed(it); why != "" {
		e.Reason += ": " + why
	}
}

// whyFailed says what became of the questions to other servers where an item is no
// answer of theirs, or one that has expired; it is empty for all others.
func (s *Server) whyFailed(it *cache.Item) string {
	failed := it.Rcode != wire.RcodeSuccess && it.Rcode != wire.RcodeNXDomain
	if !failed && !it.Stale(time.Now()) {
		return ""
	}
	if failed && it.From.IsValid() {
		return fmt.Sprintf("%v answered %s", it.From, rcodeName(it.Rcode))
	}
	name, _ := wire.AppendName(nil, it.Msg, wire.HeaderLen)
	if failures := s.forward.Failures(wire.AppendLower(nil, name)); len(failures) > 0 {
		return "no upstream answered: " + strings.Join(failures, "; ")
	}
	if failed {
		return "no upstream answered in time, or too many questions were under way"
	}
	return ""
}

// noneReason says why a query is answered from nowhere.
func noneReason(rcode string, typ uint16) string {
	switch {
	case typ == dns.TypeAXFR || typ == dns.TypeIXFR:
		return "a transfer of a zone, which only the clients in dns.transfer may have: ask the server itself, as with dig"
	case rcode == rcodeName(wire.RcodeRefused):
		return "not a name of the cluster, and there is no upstream to ask"
	}
	return "a kind of query that is not answered"
}

func zoneReason(st zone.Status) string {
	switch st {
	case zone.Success:
		return "the cluster's zone has records"
	case zone.Alias:
		return "an ExternalName Service: an alias"
	case zone.NoData:
		return "the name exists, without records of this type"
	case zone.NXDomain:
		return "no such name: no such Service, or a headless one without ready endpoints"
	default:
		return "the cluster's objects are not all read yet"
	}
}

// texts returns records as in a master file, without the OPT record.
func texts(rrs []dns.RR) []string {
	var lines []string
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeOPT {
			lines = append(lines, strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	return slices.Clip(lines)
}
