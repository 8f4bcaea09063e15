package conformance

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// names writes the names of a cluster.
type names struct {
	Params
	zone string // with a dot at the end
}

// svc returns a name below the namespace of the objects: web, or front.web.
func (n names) svc(name string) string { return name + "." + Namespace + ".svc." + n.zone }

// rr writes a record as an expectation has it.
func rr(name, typ string, data any) string { return fmt.Sprintf("%s %s %v", name, typ, data) }

func reverse(addr fmt.Stringer) string {
	name, err := dns.ReverseAddr(addr.String())
	if err != nil {
		panic(err)
	}
	return name
}

// Checks returns all that is asked of a server.
func Checks(p Params) []Check {
	n := names{p, dns.Fqdn(strings.ToLower(p.Zone))}
	return slices.Concat(n.services(), n.headless(), n.six(), n.external(), n.negative(), n.beyond(), n.pods(), n.lives(), n.apex(), n.messages(), n.unasked())
}

func plain(rule, source, what, name string, typ uint16, e expectation) Check {
	return Check{Rule: rule, Source: source, What: what, Name: name, Type: typ, verify: e.verify}
}

func (n names) services() []Check {
	web := n.svc("web")
	return []Check{
		plain("S1", specification+"2.2", "version of the schema", "dns-version."+n.zone, dns.TypeTXT,
			expectation{answer: []string{rr("dns-version."+n.zone, "TXT", `"1.1.0"`)}}),
		plain("S2", specification+"2.3.1", "A of a ClusterIP", web, dns.TypeA, expectation{answer: []string{rr(web, "A", n.four(1))}}),
		plain("S3", specification+"2.3.2", "SRV of a named TCP port", "_http._tcp."+web, dns.TypeSRV,
			expectation{answer: []string{rr("_http._tcp."+web, "SRV", "80 "+web)}}),
		plain("S3", specification+"2.3.2", "SRV of a named UDP port", "_dns._udp."+web, dns.TypeSRV,
			expectation{answer: []string{rr("_dns._udp."+web, "SRV", "53 "+web)}}),
		plain("S3", specification+"2.3.2", "no SRV for a port of another protocol", "_http._udp."+web, dns.TypeSRV,
			expectation{rcode: dns.RcodeNameError, soa: true}),
		plain("S4", specification+"2.3.3", "PTR of a ClusterIP", reverse(n.four(1)), dns.TypePTR,
			expectation{answer: []string{rr(reverse(n.four(1)), "PTR", web)}}),
	}
}

func (n names) headless() []Check {
	pods := n.svc("pods")
	var srv []string
	for _, target := range []string{n.svc("pod-0.pods"), n.svc("172-30-251-3.pods")} {
		srv = append(srv, rr("_http._tcp."+pods, "SRV", "8080 "+target))
	}
	return []Check{
		plain("S5", specification+"2.4.1", "A of each ready endpoint, and of no other", pods, dns.TypeA, expectation{answer: []string{
			rr(pods, "A", "172.30.251.1"), rr(pods, "A", "172.30.251.2"), rr(pods, "A", "172.30.251.3")}}),
		plain("S5", specification+"2.4.1", "NXDOMAIN where no endpoint is ready", n.svc("not-ready"), dns.TypeA,
			expectation{rcode: dns.RcodeNameError, soa: true}),
		plain("S6", specification+"2.4.1", "all addresses of a hostname", n.svc("pod-0.pods"), dns.TypeA, expectation{answer: []string{
			rr(n.svc("pod-0.pods"), "A", "172.30.251.1"), rr(n.svc("pod-0.pods"), "A", "172.30.251.2")}}),
		{Rule: "S7", Source: specification + "2.4.1", What: "an endpoint without hostname has a name that leads to it", Name: "_http._tcp." + pods, Type: dns.TypeSRV, then: unnamed(n.svc("pod-0.pods")),
			verify: func(r *dns.Msg, _ bool) error {
				if len(r.Answer) == 1 {
					if a, ok := r.Answer[0].(*dns.A); ok && a.A.String() == "172.30.251.3" {
						return nil
					}
				}
				return fmt.Errorf("the name of the SRV record leads to %v, expected 172.30.251.3", r.Answer)
			}},
		plain("S8", specification+"2.4.1", "no name for an endpoint that is not ready", n.svc("pod-1.pods"), dns.TypeA,
			expectation{rcode: dns.RcodeNameError, soa: true}),
		plain("S8", specification+"2.4.1", "a name for one that is not, where the Service has publishNotReadyAddresses", n.svc("starting.tolerant"), dns.TypeA,
			expectation{answer: []string{rr(n.svc("starting.tolerant"), "A", "172.30.255.1")}}),
		plain("S8", specification+"2.4.1", "and an address at the Service's name", n.svc("tolerant"), dns.TypeA,
			expectation{answer: []string{rr(n.svc("tolerant"), "A", "172.30.255.1")}}),
		plain("S9", specification+"2.4.2", "SRV of each ready endpoint", "_http._tcp."+pods, dns.TypeSRV, expectation{has: srv}),
		plain("S10", specification+"2.4.3", "PTR of a ready endpoint", reverse(text("172.30.251.1")), dns.TypePTR,
			expectation{answer: []string{rr(reverse(text("172.30.251.1")), "PTR", n.svc("pod-0.pods"))}}),
		{Rule: "S10", Source: specification + "2.4.3", What: "no PTR of one that is not ready", Name: reverse(text("172.30.251.4")), Type: dns.TypePTR, verify: noPTR},
	}
}

// unnamed asks for the address of the target of SRV records that is not the one
// given.
func unnamed(other string) func(*dns.Msg) (*dns.Msg, error) {
	return func(r *dns.Msg) (*dns.Msg, error) {
		for _, rr := range r.Answer {
			if srv, ok := rr.(*dns.SRV); ok && !strings.EqualFold(srv.Target, other) {
				return new(dns.Msg).SetQuestion(srv.Target, dns.TypeA), nil
			}
		}
		return nil, fmt.Errorf("no SRV record leads to another name than %s: %v", other, r.Answer)
	}
}

// noPTR accepts every answer without a PTR record: the address may be asked of
// another server, which may know it or fail.
func noPTR(r *dns.Msg, _ bool) error {
	for _, rr := range r.Answer {
		if ptr, ok := rr.(*dns.PTR); ok && strings.Contains(ptr.Ptr, Namespace) {
			return fmt.Errorf("answered %s", ptr)
		}
	}
	return nil
}

func authoritative(r *dns.Msg, _ bool) error {
	if !r.Authoritative {
		return errors.New("this one is not")
	}
	return nil
}

// text is an address as it is written.
type text string

func (t text) String() string { return string(t) }

// six asks for what only a cluster with IPv6 has.
func (n names) six() []Check {
	if !n.IPv6.IsValid() {
		const why = "no network for IPv6 is given"
		return []Check{
			notAsked("S2", specification+"2.3.1", "AAAA of a dual-stack Service", why),
			notAsked("S4", specification+"2.3.3", "PTR of an IPv6 ClusterIP", why),
			notAsked("S5", specification+"2.4.1", "AAAA of each ready endpoint", why),
			notAsked("S10", specification+"2.4.3", "PTR of an IPv6 endpoint", why),
			notAsked("C7", coreDNS+"endpoint names", "a name does not end with a dash", why),
			notAsked("C9", coreDNS+"SRV", "weight of a dual-stack Service", why),
		}
	}
	dual, pods := n.svc("dual"), n.svc("pods6")
	return []Check{
		plain("S2", specification+"2.3.1", "A of a dual-stack Service", dual, dns.TypeA, expectation{answer: []string{rr(dual, "A", n.four(3))}}),
		plain("S2", specification+"2.3.1", "AAAA of a dual-stack Service", dual, dns.TypeAAAA, expectation{answer: []string{rr(dual, "AAAA", n.Params.six(3))}}),
		plain("S4", specification+"2.3.3", "PTR of an IPv6 ClusterIP", reverse(n.Params.six(3)), dns.TypePTR,
			expectation{answer: []string{rr(reverse(n.Params.six(3)), "PTR", dual)}}),
		plain("S5", specification+"2.4.1", "AAAA of each ready endpoint", pods, dns.TypeAAAA,
			expectation{answer: []string{rr(pods, "AAAA", "fd00:30:251::1"), rr(pods, "AAAA", "fd00:30:251::2"), rr(pods, "AAAA", "fd00:30:252::")}}),
		plain("C7", coreDNS+"endpoint names", "a name does not end with a dash", n.svc("fd00-30-252--0.pods6"), dns.TypeAAAA,
			expectation{answer: []string{rr(n.svc("fd00-30-252--0.pods6"), "AAAA", "fd00:30:252::")}}),
		plain("S10", specification+"2.4.3", "PTR of an IPv6 endpoint", reverse(text("fd00:30:251::1")), dns.TypePTR,
			expectation{answer: []string{rr(reverse(text("fd00:30:251::1")), "PTR", n.svc("pod-0.pods6"))}}),
		plain("C9", coreDNS+"SRV", "a dual-stack Service counts twice in the weight", dual, dns.TypeSRV,
			expectation{answer: []string{rr(dual, "SRV", "0 50 443 "+dual)}, withWeights: true}),
		plain("C4", coreDNS+"negative answers", "NODATA for A where there is only IPv6", pods, dns.TypeA, expectation{soa: true}),
	}
}

func (n names) external() []Check {
	inside, outside := n.svc("inside"), n.svc("outside")
	return []Check{
		plain("S11", specification+"2.5", "CNAME of an ExternalName", outside, dns.TypeCNAME, expectation{answer: []string{rr(outside, "CNAME", "outside.invalid.")}}),
		plain("S11", specification+"2.5", "A has the CNAME and the target's address", inside, dns.TypeA, expectation{answer: []string{
			rr(inside, "CNAME", n.svc("web")), rr(n.svc("web"), "A", n.four(1))}}),
		plain("C10", coreDNS+"ExternalName", "nothing is below an ExternalName", "x."+outside, dns.TypeA, expectation{rcode: dns.RcodeNameError, soa: true}),
		plain("C10", coreDNS+"ExternalName", "an ExternalName has no SRV", outside, dns.TypeSRV, expectation{soa: true}),
		plain("C10", coreDNS+"ExternalName", "an address is no ExternalName", n.svc("address"), dns.TypeA, expectation{rcode: dns.RcodeNameError, soa: true}),
		{Rule: "C10", Source: coreDNS + "ExternalName", What: "a chain of eight leads to the address", Name: n.svc("chain-5"), Type: dns.TypeA,
			change: func(q *dns.Msg) { q.SetEdns0(1232, false) }, // more than 512 bytes
			verify: expectation{has: []string{rr(n.svc("web"), "A", n.four(1))}}.verify},
		{Rule: "C10", Source: coreDNS + "ExternalName", What: "one of twelve does not", Name: n.svc("chain-1"), Type: dns.TypeA,
			change: func(q *dns.Msg) { q.SetEdns0(1232, false) }, verify: ends},
		{Rule: "C10", Source: coreDNS + "ExternalName", What: "nor does a circle", Name: n.svc("ring-1"), Type: dns.TypeA, verify: ends},
		{Rule: "C10", Source: coreDNS + "ExternalName", What: "a look-up that fails is no failure of the alias", Name: "outside.invalid.", Type: dns.TypeA,
			then: func(r *dns.Msg) (*dns.Msg, error) {
				if r.Rcode == dns.RcodeSuccess || r.Rcode == dns.RcodeNameError {
					return nil, notAskedError("no look-up fails: the server answers " + dns.RcodeToString[r.Rcode] + " for outside.invalid")
				}
				return new(dns.Msg).SetQuestion(outside, dns.TypeA), nil
			},
			verify: ends},
	}
}

// ends checks that aliases lead to no address, which is no error, and are not
// followed forever.
func ends(r *dns.Msg, _ bool) error {
	if r.Rcode != dns.RcodeSuccess {
		return fmt.Errorf("answered %s, expected NOERROR", dns.RcodeToString[r.Rcode])
	}
	for _, rr := range r.Answer {
		if _, ok := rr.(*dns.CNAME); !ok {
			return fmt.Errorf("answered %s", rr)
		}
	}
	if r.Truncated {
		return errors.New("truncated, although all fits")
	}
	if len(r.Answer) > 11 {
		return fmt.Errorf("%d aliases were followed, expected 11 at most", len(r.Answer))
	}
	return nil
}

func (n names) negative() []Check {
	nodata := func(rule, what, name string, typ uint16) Check {
		return plain(rule, coreDNS+"negative answers", what, name, typ, expectation{soa: true})
	}
	nxdomain := func(what, name string) Check {
		return plain("C5", coreDNS+"negative answers", what, name, dns.TypeA, expectation{rcode: dns.RcodeNameError, soa: true})
	}
	return []Check{
		nodata("C4", "NODATA for AAAA of a Service with IPv4 only", n.svc("web"), dns.TypeAAAA),
		nodata("C4", "NODATA for a type that nobody has", n.svc("web"), dns.TypeMX),
		nodata("C4", "NODATA for HTTPS", n.svc("web"), dns.TypeHTTPS),
		nodata("C5", "the zone exists", n.zone, dns.TypeA),
		nodata("C5", "svc exists", "svc."+n.zone, dns.TypeA),
		nodata("C5", "pod exists", "pod."+n.zone, dns.TypeA),
		nodata("C5", "a namespace exists", Namespace+".svc."+n.zone, dns.TypeA),
		nodata("C5", "a namespace without Services exists", Namespace+"-empty.svc."+n.zone, dns.TypeA),
		nxdomain("an unknown namespace does not", "web."+Namespace+"-none.svc."+n.zone),
		nxdomain("an unknown Service does not", n.svc("none")),
		nxdomain("what is neither svc nor pod does not", "web."+Namespace+".abc."+n.zone),
		nxdomain("more than two labels before a Service do not", "x._http._tcp."+n.svc("web")),
	}
}

func (n names) beyond() []Check {
	web, pods := n.svc("web"), n.svc("pods")
	return []Check{
		plain("C8", coreDNS+"endpoint names", "endpoints of a ClusterIP have names, too", n.svc("front.web"), dns.TypeA,
			expectation{answer: []string{rr(n.svc("front.web"), "A", "172.30.250.1")}}),
		plain("C8", coreDNS+"endpoint names", "and so by their address", n.svc("172-30-250-2.web"), dns.TypeA,
			expectation{answer: []string{rr(n.svc("172-30-250-2.web"), "A", "172.30.250.2")}}),
		plain("C8", coreDNS+"endpoint names", "and PTR records", reverse(text("172.30.250.1")), dns.TypePTR,
			expectation{answer: []string{rr(reverse(text("172.30.250.1")), "PTR", n.svc("front.web"))}}),
		plain("C8", coreDNS+"endpoint names", "a PTR record of each Service with the address", reverse(text("172.30.255.1")), dns.TypePTR,
			expectation{answer: []string{rr(reverse(text("172.30.255.1")), "PTR", n.svc("starting.tolerant")), rr(reverse(text("172.30.255.1")), "PTR", n.svc("same.shared"))}}),
		plain("C8", coreDNS+"endpoint names", "one alone of an address that is a ClusterIP and an endpoint's", reverse(n.four(1)), dns.TypePTR,
			expectation{answer: []string{rr(reverse(n.four(1)), "PTR", web)}}),
		plain("C9", coreDNS+"SRV", "SRV of a Service itself has all ports", web, dns.TypeSRV,
			expectation{answer: []string{rr(web, "SRV", "0 50 80 "+web), rr(web, "SRV", "0 50 53 "+web)}, withWeights: true}),
		plain("C9", coreDNS+"SRV", "an unnamed port is in the SRV of the Service", n.svc("unnamed"), dns.TypeSRV,
			expectation{answer: []string{rr(n.svc("unnamed"), "SRV", "0 100 8080 "+n.svc("unnamed"))}, withWeights: true}),
		plain("C9", coreDNS+"SRV", "A of a port's name", "_http._tcp."+web, dns.TypeA, expectation{answer: []string{rr("_http._tcp."+web, "A", n.four(1))}}),
		plain("C9", coreDNS+"SRV", "ports without underscores", "http.tcp."+web, dns.TypeSRV, expectation{answer: []string{rr("http.tcp."+web, "SRV", "80 "+web)}}),
		plain("C9", coreDNS+"SRV", "headless without ports: A", n.svc("portless"), dns.TypeA, expectation{answer: []string{rr(n.svc("portless"), "A", "172.30.253.1")}}),
		plain("C9", coreDNS+"SRV", "headless without ports: no SRV", n.svc("portless"), dns.TypeSRV, expectation{soa: true}),
		{Rule: "S9", Source: specification + "2.4.2", What: "the additional section helps to avoid the next query, or is empty", Name: "_http._tcp." + pods, Type: dns.TypeSRV, verify: additional},
		plain("C7", coreDNS+"endpoint names", "an endpoint without hostname has the name of its address, with dashes", n.svc("172-30-251-3.pods"), dns.TypeA,
			expectation{answer: []string{rr(n.svc("172-30-251-3.pods"), "A", "172.30.251.3")}}),
		{Rule: "C1", Source: coreDNS + "server", What: "answers are authoritative", Name: web, Type: dns.TypeA, verify: authoritative},
		{Rule: "C1", Source: coreDNS + "server", What: "negative ones, too", Name: n.svc("none"), Type: dns.TypeA, verify: authoritative},
		{Rule: "C15", Source: coreDNS + "case", What: "the case of the question comes back", Name: mixed(web), Type: dns.TypeA, verify: sameCase(mixed(web))},
	}
}

func additional(r *dns.Msg, _ bool) error {
	for _, rr := range r.Extra {
		switch rr.(type) {
		case *dns.A, *dns.AAAA, *dns.OPT:
		default:
			return fmt.Errorf("found %s there", rr)
		}
	}
	return nil
}

func mixed(name string) string {
	b := []byte(name)
	for i := range b {
		if i%2 == 0 && b[i] >= 'a' && b[i] <= 'z' {
			b[i] -= 'a' - 'A'
		}
	}
	return string(b)
}

func sameCase(name string) func(*dns.Msg, bool) error {
	return func(r *dns.Msg, _ bool) error {
		if len(r.Question) != 1 || r.Question[0].Name != name {
			return fmt.Errorf("the question came back as %v", r.Question)
		}
		if len(r.Answer) != 1 || r.Answer[0].Header().Name != name {
			return fmt.Errorf("answered %v", r.Answer)
		}
		return nil
	}
}
