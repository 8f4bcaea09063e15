package conformance

import (
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// The sources of the rules.
const (
	specification = "Kubernetes DNS specification 1.1.0 "
	coreDNS       = "CoreDNS kubernetes plugin: "
)

// Check is one thing to ask of a server, and what it must say.
type Check struct {
	Rule   string // such as "S2", or "C4"
	Source string // where it comes from
	What   string
	Name   string
	Type   uint16

	// NotAsked is why nothing is asked; empty: it is.
	NotAsked string

	// change makes another query of the usual one.
	change func(q *dns.Msg)
	// then makes another query of the first answer, whose answer is verified in its
	// place; or an error, which is the outcome.
	then func(r *dns.Msg) (*dns.Msg, error)
	// verify says what is wrong with the answer; tcp tells how it came.
	verify func(r *dns.Msg, tcp bool) error
}

// notAskedError is why an answer does not tell whether a rule is kept.
type notAskedError string

func (e notAskedError) Error() string { return string(e) }

func notAsked(rule, source, what, why string) Check {
	return Check{Rule: rule, Source: source, What: what, NotAsked: why}
}

// expectation is what most answers are compared with. Times to live and the
// order of records are left out, and where the specification leaves them open,
// the priorities and weights of SRV records.
type expectation struct {
	rcode  int
	answer []string // NAME TYPE DATA, of all records in the answer section
	has    []string // records that must be in it, maybe among others
	soa    bool     // negative: the zone's SOA is in the authority section
	// withWeights compares priorities and weights, too.
	withWeights bool
}

func (e expectation) verify(r *dns.Msg, _ bool) error {
	if r.Rcode != e.rcode {
		return fmt.Errorf("answered %s, expected %s", dns.RcodeToString[r.Rcode], dns.RcodeToString[e.rcode])
	}
	if r.Rcode != dns.RcodeRefused && r.Rcode != dns.RcodeServerFailure && !r.Authoritative {
		return fmt.Errorf("the answer is not authoritative")
	}
	got := e.texts(r.Answer)
	if e.has == nil {
		want := e.normal(e.answer)
		if !slices.Equal(got, want) {
			return fmt.Errorf("answered %s, expected %s", list(got), list(want))
		}
	}
	for _, want := range e.normal(e.has) {
		if !slices.Contains(got, want) {
			return fmt.Errorf("answered %s, without %s", list(got), want)
		}
	}
	if !e.soa {
		return nil
	}
	for _, rr := range r.Ns {
		if _, ok := rr.(*dns.SOA); ok {
			return nil
		}
	}
	return fmt.Errorf("no SOA record in the authority section")
}

func list(texts []string) string {
	if len(texts) == 0 {
		return "nothing"
	}
	return strings.Join(texts, "; ")
}

// texts prints records as they are compared.
func (e expectation) texts(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		data := strings.TrimPrefix(rr.String(), rr.Header().String())
		if srv, ok := rr.(*dns.SRV); ok && !e.withWeights {
			data = fmt.Sprintf("%d %s", srv.Port, srv.Target)
		}
		out = append(out, strings.ToLower(fmt.Sprintf("%s %s %s", rr.Header().Name, dns.TypeToString[rr.Header().Rrtype], data)))
	}
	slices.Sort(out)
	return out
}

func (e expectation) normal(want []string) []string {
	out := make([]string, 0, len(want))
	for _, w := range want {
		out = append(out, strings.ToLower(w))
	}
	slices.Sort(out)
	if len(out) == 0 {
		return nil
	}
	return out
}
