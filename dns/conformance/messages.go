package conformance

import (
	"errors"
	"fmt"

	"github.com/miekg/dns"
)

func (n names) apex() []Check {
	return []Check{
		{Rule: "C3", Source: coreDNS + "apex", What: "SOA of the zone", Name: n.zone, Type: dns.TypeSOA, verify: has[*dns.SOA]("SOA")},
		{Rule: "C12", Source: coreDNS + "apex", What: "NS of the zone", Name: n.zone, Type: dns.TypeNS, verify: has[*dns.NS]("NS")},
		{Rule: "C12", Source: coreDNS + "apex", What: "address of that name server", Name: n.zone, Type: dns.TypeNS, then: addressOfNS, verify: addresses},
		{Rule: "C13", Source: coreDNS + "transfer", What: "a zone transfer is refused", Name: n.zone, Type: dns.TypeAXFR, verify: refused},
		{Rule: "C13", Source: coreDNS + "transfer", What: "an incremental one, too", Name: n.zone, Type: dns.TypeIXFR, verify: refused},
	}
}

// addressOfNS asks for the address of the first name server.
func addressOfNS(r *dns.Msg) (*dns.Msg, error) {
	for _, rr := range r.Answer {
		if ns, ok := rr.(*dns.NS); ok {
			return new(dns.Msg).SetQuestion(ns.Ns, dns.TypeA), nil
		}
	}
	return nil, errors.New("there is no NS record")
}

// addresses accepts any address.
func addresses(r *dns.Msg, _ bool) error {
	for _, rr := range r.Answer {
		if _, ok := rr.(*dns.A); ok {
			return nil
		}
	}
	return fmt.Errorf("answered %s with %s", dns.RcodeToString[r.Rcode], list(expectation{}.texts(r.Answer)))
}

// unasked are the rules that no query can tell of, or only one to a server that is
// configured for it.
func (n names) unasked() []Check {
	return []Check{
		notAsked("C6", coreDNS+"startup", "SERVFAIL until the Services are read", "a running server has read them"),
		notAsked("C13", coreDNS+"transfer", "what a transfer holds", "none is allowed by default"),
		notAsked("C14", coreDNS+"filters", "filters by namespace and label, empty Services", "needs a server that is configured to filter"),
		notAsked("C17", coreDNS+"multicluster", "names of clusterset.local", "needs ServiceImports, and what makes EndpointSlices of other clusters of them"),
	}
}

func has[T dns.RR](what string) func(*dns.Msg, bool) error {
	return func(r *dns.Msg, _ bool) error {
		for _, rr := range r.Answer {
			if _, ok := rr.(T); ok {
				return nil
			}
		}
		return fmt.Errorf("answered %s without any %s", dns.RcodeToString[r.Rcode], what)
	}
}

func refused(r *dns.Msg, _ bool) error {
	if r.Rcode != dns.RcodeRefused || len(r.Answer) > 0 {
		return fmt.Errorf("answered %s with %d records, expected REFUSED", dns.RcodeToString[r.Rcode], len(r.Answer))
	}
	return nil
}

// messages asks what concerns the protocol more than the cluster.
func (n names) messages() []Check {
	web, many := n.svc("web"), n.svc("many")
	return []Check{
		{Rule: "C16", Source: coreDNS + "server", What: "a class other than IN is refused", Name: web, Type: dns.TypeA,
			change: func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassHESIOD }, verify: refused},
		{Rule: "C16", Source: "RFC 6891, 6.1.3", What: "an unknown version of EDNS is told", Name: web, Type: dns.TypeA,
			change: func(q *dns.Msg) { q.SetEdns0(1232, false); q.IsEdns0().SetVersion(1) },
			verify: func(r *dns.Msg, _ bool) error {
				// The upper bits of the code are in the OPT record.
				if o := r.IsEdns0(); o == nil || o.ExtendedRcode()|r.Rcode != dns.RcodeBadVers {
					return fmt.Errorf("answered %s, expected BADVERS", dns.RcodeToString[r.Rcode])
				}
				return nil
			}},
		{Rule: "C16", Source: coreDNS + "server", What: "a query without question is an error", Name: web, Type: dns.TypeA,
			change: func(q *dns.Msg) { q.Question = nil },
			verify: func(r *dns.Msg, _ bool) error {
				// CoreDNS' server answers SERVFAIL; the library below it is first,
				// with FORMERR.
				if r.Rcode != dns.RcodeServerFailure && r.Rcode != dns.RcodeFormatError {
					return fmt.Errorf("answered %s, expected SERVFAIL or FORMERR", dns.RcodeToString[r.Rcode])
				}
				return nil
			}},
		{Rule: "C16", Source: coreDNS + "server", What: "a name of no zone is refused", Name: "conformance.invalid.", Type: dns.TypeA, verify: unmatched},
		{Rule: "C18", Source: "RFC 1035, 4.2.1", What: "without EDNS an answer over UDP has 512 bytes at most, and says that it is cut", Name: many, Type: dns.TypeA, verify: fits(512, false)},
		{Rule: "C18", Source: "RFC 6891, 6.2.3", What: "with EDNS it has as much as the client takes", Name: many, Type: dns.TypeA,
			change: func(q *dns.Msg) { q.SetEdns0(1232, false) }, verify: fits(1232, true)},
		{Rule: "C18", Source: "RFC 6891, 6.1.1", What: "an answer has an OPT record where the query has one", Name: web, Type: dns.TypeA,
			change: func(q *dns.Msg) { q.SetEdns0(1232, false) },
			verify: func(r *dns.Msg, _ bool) error {
				if r.IsEdns0() == nil {
					return errors.New("it has none")
				}
				return nil
			}},
		{Rule: "C18", Source: "RFC 6891, 7", What: "and has none otherwise", Name: web, Type: dns.TypeA,
			verify: func(r *dns.Msg, _ bool) error {
				if r.IsEdns0() != nil {
					return errors.New("it has one")
				}
				return nil
			}},
	}
}

// unmatched checks an answer for a name of nobody, unless the server asks others for
// such names.
func unmatched(r *dns.Msg, tcp bool) error {
	if r.Rcode == dns.RcodeServerFailure || r.Rcode != dns.RcodeRefused && r.RecursionAvailable {
		return notAskedError("the server asks others for names of other zones, and answers " + dns.RcodeToString[r.Rcode])
	}
	return refused(r, tcp)
}

// fits checks an answer of sixty addresses: whole over TCP, and over UDP not
// larger than size, whole or truncated.
func fits(size int, whole bool) func(*dns.Msg, bool) error {
	return func(r *dns.Msg, tcp bool) error {
		r.Compress = true
		switch {
		case tcp && (r.Truncated || len(r.Answer) != 60):
			return fmt.Errorf("over TCP, %d of 60 records, truncated %v", len(r.Answer), r.Truncated)
		case tcp:
		case r.Len() > size:
			return fmt.Errorf("%d bytes, which are more than %d", r.Len(), size)
		case !whole && !r.Truncated:
			return fmt.Errorf("%d of 60 records, and not marked as truncated", len(r.Answer))
		case whole && !r.Truncated && len(r.Answer) != 60:
			return fmt.Errorf("%d of 60 records, and not marked as truncated", len(r.Answer))
		case whole && r.Truncated:
			return fmt.Errorf("truncated at %d of 60 records, although all fit in %d bytes", len(r.Answer), size)
		}
		return nil
	}
}
