package main

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// upstream answers every name, other than those of nx, with an address. It counts.
type upstream struct {
	queries atomic.Int64
	slow    atomic.Bool // take a while for each answer
	servers []*dns.Server
}

func newUpstream(listen func(network, address string) (net.Listener, error), packets func(network, address string) (net.PacketConn, error)) (*upstream, error) {
	u := &upstream{}
	p, err := packets("udp", upstreamAddress)
	if err != nil {
		return nil, err
	}
	l, err := listen("tcp", upstreamAddress)
	if err != nil {
		return nil, err
	}
	u.servers = []*dns.Server{{PacketConn: p, Handler: u}, {Listener: l, Handler: u}}
	for _, s := range u.servers {
		go func() { _ = s.ActivateAndServe() }()
	}
	return u, nil
}

func (u *upstream) close() {
	var closing sync.WaitGroup
	for _, s := range u.servers {
		closing.Go(func() { _ = s.Shutdown() })
	}
	closing.Wait()
}

// ServeDNS implements [dns.Handler].
func (u *upstream) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	u.queries.Add(1)
	if u.slow.Load() {
		time.Sleep(100 * time.Millisecond)
	}
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	name := q.Question[0].Name
	switch {
	case strings.HasPrefix(name, "nx"):
		m.Rcode = dns.RcodeNameError
		fallthrough
	case q.Question[0].Qtype != dns.TypeA:
		m.Ns = []dns.RR{&dns.SOA{
			Hdr: dns.RR_Header{Name: "local.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 600},
			Ns:  "ns.local.", Mbox: "hostmaster.local.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 600,
		}}
		if !strings.HasSuffix(name, ".local.") {
			m.Ns[0].Header().Name = "example."
		}
	default:
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 600}, A: net.IPv4(192, 0, 2, 1)}}
	}
	_ = w.WriteMsg(m)
}
