package conformance

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// pods asks for the names of Pods by their addresses.
func (n names) pods() []Check {
	source := coreDNS + "pods " + n.Pods
	name := "1-2-3-4." + Namespace + ".pod." + n.zone
	none := expectation{rcode: dns.RcodeNameError, soa: true}
	var list []Check
	switch n.Pods {
	case "insecure":
		six := "fd00--1." + Namespace + ".pod." + n.zone
		list = []Check{
			plain("C11", source, "any address in a namespace that exists", name, dns.TypeA, expectation{answer: []string{rr(name, "A", "1.2.3.4")}}),
			plain("C11", source, "of IPv6, too", six, dns.TypeAAAA, expectation{answer: []string{rr(six, "AAAA", "fd00::1")}}),
			plain("C11", source, "none in one that does not", "1-2-3-4."+Namespace+"-none.pod."+n.zone, dns.TypeA, none),
			plain("C11", source, "none that is no address", "1-2-3."+Namespace+".pod."+n.zone, dns.TypeA, none),
		}
	default:
		list = []Check{plain("C11", source, "no Pod has the address", name, dns.TypeA, none)}
	}
	if !n.Pod.IsValid() {
		return append(list, notAsked("C11", source, "the address of a Pod that runs", "no such Pod is given"))
	}
	name = dashed(n.Pod) + "." + n.PodNamespace + ".pod." + n.zone
	typ, elsewhere := dns.TypeA, dashed(n.Pod)+"."+Namespace+".pod."+n.zone
	if n.Pod.Is6() {
		typ = dns.TypeAAAA
	}
	if n.Pods == "disabled" {
		return append(list, plain("C11", source, "nor has one that runs a name", name, typ, none))
	}
	list = append(list, plain("C11", source, "the address of a Pod that runs", name, typ,
		expectation{answer: []string{rr(name, dns.TypeToString[typ], n.Pod)}}))
	if n.Pods == "verified" {
		list = append(list, plain("C11", source, "but not in another namespace", elsewhere, typ, none))
	}
	return list
}

func dashed(a netip.Addr) string { return strings.NewReplacer(".", "-", ":", "-").Replace(a.String()) }

// lives asks how long answers may be kept.
func (n names) lives() []Check {
	web, none := n.svc("web"), n.svc("none")
	list := []Check{
		{Rule: "C2", Source: coreDNS + "TTL", What: "the TTL is at most an hour", Name: web, Type: dns.TypeA, verify: answerTTL(0, maxTTL)},
		{Rule: "C3", Source: coreDNS + "negative answers", What: "the SOA's names and serial", Name: none, Type: dns.TypeA, verify: n.soaNames},
		{Rule: "C3", Source: coreDNS + "negative answers", What: "its timers are 7200, 1800 and 86400", Name: none, Type: dns.TypeA, verify: soaIs(func(soa *dns.SOA) error {
			if soa.Refresh != 7200 || soa.Retry != 1800 || soa.Expire != 86400 {
				return fmt.Errorf("they are %d, %d and %d", soa.Refresh, soa.Retry, soa.Expire)
			}
			return nil
		})},
		{Rule: "C3", Source: coreDNS + "negative answers", What: "its TTL is at most the minimum and 300 s", Name: none, Type: dns.TypeA, verify: soaIs(func(soa *dns.SOA) error {
			if soa.Minttl > maxTTL || soa.Hdr.Ttl > min(soa.Minttl, 300) {
				return fmt.Errorf("it is %d, and the minimum %d", soa.Hdr.Ttl, soa.Minttl)
			}
			return nil
		})},
	}
	if n.TTL == 0 {
		const why = "the TTL that the server is configured with is not given"
		return append(list, notAsked("C2", coreDNS+"TTL", "the TTL is that of the configuration, by default 5 s", why),
			notAsked("C2", coreDNS+"TTL", "and so is the minimum of the SOA", why))
	}
	return append(list,
		Check{Rule: "C2", Source: coreDNS + "TTL", What: fmt.Sprintf("the TTL is %d s", n.TTL), Name: web, Type: dns.TypeA, verify: answerTTL(n.TTL, n.TTL)},
		Check{Rule: "C2", Source: coreDNS + "TTL", What: "and so is the minimum of the SOA", Name: none, Type: dns.TypeA, verify: soaIs(func(soa *dns.SOA) error {
			if soa.Minttl != n.TTL {
				return fmt.Errorf("it is %d", soa.Minttl)
			}
			return nil
		})})
}

// maxTTL is the longest TTL that CoreDNS can be configured with.
const maxTTL = 3600

func answerTTL(least, most uint32) func(*dns.Msg, bool) error {
	return func(r *dns.Msg, _ bool) error {
		if len(r.Answer) == 0 {
			return errors.New("no answer")
		}
		for _, rr := range r.Answer {
			if ttl := rr.Header().Ttl; ttl < least || ttl > most {
				return fmt.Errorf("it is %d s", ttl)
			}
		}
		return nil
	}
}

// soaIs checks the SOA record of a negative answer.
func soaIs(verify func(*dns.SOA) error) func(*dns.Msg, bool) error {
	return func(r *dns.Msg, _ bool) error {
		for _, rr := range r.Ns {
			if soa, ok := rr.(*dns.SOA); ok {
				return verify(soa)
			}
		}
		return errors.New("no SOA record in the authority section")
	}
}

func (n names) soaNames(r *dns.Msg, tcp bool) error {
	return soaIs(func(soa *dns.SOA) error {
		switch {
		case !strings.EqualFold(soa.Hdr.Name, n.zone), !strings.EqualFold(soa.Ns, "ns.dns."+n.zone), !strings.EqualFold(soa.Mbox, "hostmaster."+n.zone):
			return fmt.Errorf("found %s, expected that of %s with ns.dns and hostmaster below it", soa, n.zone)
		case time.Unix(int64(soa.Serial), 0).Year() < 2015 || time.Until(time.Unix(int64(soa.Serial), 0)) > 24*time.Hour:
			return fmt.Errorf("the serial %d is not the time of a change", soa.Serial)
		}
		return nil
	})(r, tcp)
}
