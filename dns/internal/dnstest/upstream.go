package dnstest

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Upstream is a name server that does what a function says. It counts what it is
// asked.
type Upstream struct {
	Addr netip.AddrPort

	mu    sync.Mutex
	asked map[string]int
}

// Handler answers a query; nil says nothing.
type Handler func(q *dns.Msg, tcp bool) *dns.Msg

// NewUpstream starts a server on a free port of loopback for the time of the
// test.
func NewUpstream(t testing.TB, h Handler) *Upstream {
	t.Helper()
	u := &Upstream{asked: map[string]int{}}
	var pc net.PacketConn
	var l net.Listener
	for range 16 {
		var err error
		if pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if l, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			break
		}
		_ = pc.Close()
	}
	u.Addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		_, tcp := w.RemoteAddr().(*net.TCPAddr)
		question := q.Question[0]
		u.mu.Lock()
		u.asked[strings.ToLower(question.Name)+" "+dns.TypeToString[question.Qtype]]++
		u.mu.Unlock()
		if reply := h(q, tcp); reply != nil {
			if err := w.WriteMsg(reply); err != nil {
				t.Logf("upstream: %v", err)
			}
		}
	})
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: handler}, {Listener: l, Handler: handler}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := s.ActivateAndServe(); err != nil {
				t.Logf("upstream: %v", err)
			}
		}()
		<-started
		t.Cleanup(func() {
			if err := s.Shutdown(); err != nil {
				t.Logf("upstream: %v", err)
			}
			<-done
		})
	}
	return u
}

// Asked returns how often a name, with its last dot, was asked for.
func (u *Upstream) Asked(name, typ string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[name+" "+typ]
}

// Reply makes the answer with records as in a master file.
func Reply(q *dns.Msg, rcode int, answer ...string) *dns.Msg {
	m := new(dns.Msg).SetRcode(q, rcode)
	m.RecursionAvailable = true
	for _, text := range answer {
		rr, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		if rr.Header().Rrtype == dns.TypeSOA && len(m.Question) > 0 && m.Question[0].Qtype != dns.TypeSOA {
			m.Ns = append(m.Ns, rr)
		} else {
			m.Answer = append(m.Answer, rr)
		}
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
	}
	return m
}

// Names answers from a table of records by "name type"; a name that is in it with
// another type has no data, and all others do not exist.
func Names(table map[string][]string) Handler {
	const soa = "example.com. 60 IN SOA ns.example.com. admin.example.com. 1 2 3 4 20"
	return func(q *dns.Msg, _ bool) *dns.Msg {
		name := strings.ToLower(q.Question[0].Name)
		if records, ok := table[name+" "+dns.TypeToString[q.Question[0].Qtype]]; ok {
			return Reply(q, dns.RcodeSuccess, records...)
		}
		for key := range table {
			if strings.HasPrefix(key, name+" ") {
				return Reply(q, dns.RcodeSuccess, soa)
			}
		}
		return Reply(q, dns.RcodeNameError, soa)
	}
}
