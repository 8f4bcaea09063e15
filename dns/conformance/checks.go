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
	return slices.Concat(n.services(), n.headless(), n.six(), n.external(), n.negative(), n.beyond(), n.pods(), n.apex(), n.messages())
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
		{Rule: "S7", Source: specification + "2.4.1", What: "an endpoint without hostname has a name that leads to it", Name: "_http._tcp." + pods, Type: dns.TypeSRV, verify: named},
		plain("S8", specification+"2.4.1", "no name for an endpoint that is not ready", n.svc("pod-1.pods"), dns.TypeA,
			expectation{rcode: dns.RcodeNameError, soa: true}),
		plain("S9", specification+"2.4.2", "SRV of each ready endpoint", "_http._tcp."+pods, dns.TypeSRV, expectation{has: srv}),
		plain("S10", specification+"2.4.3", "PTR of a ready endpoint", reverse(text("172.30.251.1")), dns.TypePTR,
			expectation{answer: []string{rr(reverse(text("172.30.251.1")), "PTR", n.svc("pod-0.pods"))}}),
		{Rule: "S10", Source: specification + "2.4.3", What: "no PTR of one that is not ready", Name: reverse(text("172.30.251.4")), Type: dns.TypePTR, verify: noPTR},
	}
}

// named checks that some target of the SRV records has the address of the
// endpoint without a hostname, whatever name that is.
func named(r *dns.Msg, _ bool) error {
	targets := map[string]bool{}
	for _, rr := range r.Answer {
		if srv, ok := rr.(*dns.SRV); ok {
			targets[srv.Target] = true
		}
	}
	for _, rr := range r.Extra {
		if a, ok := rr.(*dns.A); ok && a.A.String() == "172.30.251.3" && targets[a.Hdr.Name] {
			return nil
		}
	}
	if len(r.Extra) == 0 && len(targets) >= 2 {
		return nil // the additional section is optional
	}
	return fmt.Errorf("no target leads to 172.30.251.3: %v", r.Extra)
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
		return nil
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
	}
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
		{Rule: "C3", Source: coreDNS + "negative answers", What: "the SOA says how long: TTL and minimum are equal, and at most 300 s", Name: n.svc("none"), Type: dns.TypeA, verify: negativeTTL},
	}
}

func negativeTTL(r *dns.Msg, _ bool) error {
	for _, rr := range r.Ns {
		soa, ok := rr.(*dns.SOA)
		if !ok {
			continue
		}
		if soa.Minttl > 300 || soa.Hdr.Ttl > soa.Minttl {
			return fmt.Errorf("its TTL is %d and its minimum %d", soa.Hdr.Ttl, soa.Minttl)
		}
		return nil
	}
	return errors.New("no SOA record in the authority section")
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
		{Rule: "C2", Source: coreDNS + "TTL", What: "the TTL is at most an hour", Name: web, Type: dns.TypeA, verify: shortTTL},
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

func shortTTL(r *dns.Msg, _ bool) error {
	if len(r.Answer) == 0 {
		return errors.New("no answer")
	}
	if ttl := r.Answer[0].Header().Ttl; ttl > 3600 {
		return fmt.Errorf("it is %d s", ttl)
	}
	return nil
}

func (n names) pods() []Check {
	source := coreDNS + "pods " + n.Pods
	name := "1-2-3-4." + Namespace + ".pod." + n.zone
	none := expectation{rcode: dns.RcodeNameError, soa: true}
	switch n.Pods {
	case "insecure":
		return []Check{
			plain("C11", source, "any address in a namespace that exists", name, dns.TypeA, expectation{answer: []string{rr(name, "A", "1.2.3.4")}}),
			plain("C11", source, "none in one that does not", "1-2-3-4."+Namespace+"-none.pod."+n.zone, dns.TypeA, none),
			plain("C11", source, "none that is no address", "1-2-3."+Namespace+".pod."+n.zone, dns.TypeA, none),
		}
	default:
		return []Check{plain("C11", source, "no Pod has the address", name, dns.TypeA, none)}
	}
}
