package forward

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicenet/sluice/dns/wire"
)

// switched answers while on.
func switched(on *atomic.Bool) *server {
	return &server{answer: func(q *dns.Msg, conn int) *dns.Msg {
		if !on.Load() {
			return nil
		}
		return named(q, conn)
	}}
}

func isProbe(q *dns.Msg) bool { return q.Question[0].Qtype == dns.TypeNS && q.Question[0].Name == "." }

// TestDeadServer follows one that dies: it is left out, asked now and then, and
// used again when it answers.
func TestDeadServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var on atomic.Bool
		var asked, probed atomic.Int32
		first := switched(&on)
		inner := first.answer
		first.answer = func(q *dns.Msg, conn int) *dns.Msg {
			if isProbe(q) {
				probed.Add(1)
			} else {
				asked.Add(1)
			}
			return inner(q, conn)
		}
		second := &server{answer: named}
		addrs := []netip.AddrPort{n.add(1, first), n.add(2, second)}
		f := n.forwarder(t, Options{Zones: over(UDP, addrs...)})
		defer f.Close()
		for i := range maxFails + 1 { // overtaken each time
			start := time.Now()
			askAll(t, f, 1)
			if took := time.Since(start); took != hedgeUnknown {
				t.Errorf("question %d took %v, want %v", i, took, hedgeUnknown)
			}
		}
		was := asked.Load()
		start := time.Now()
		for range 20 {
			askAll(t, f, 1)
		}
		if took := time.Since(start); took != 0 || asked.Load() != was {
			t.Errorf("with a dead server 20 questions took %v and it was asked %d times", took, asked.Load()-was)
		}
		time.Sleep(time.Minute)
		if got := probed.Load(); got < 8 || got > 20 {
			t.Errorf("probed %d times in a minute", got)
		}
		on.Store(true)
		time.Sleep(probeMost + 3*time.Second)
		synctest.Wait()
		if s := f.Stats()[0]; !s.Healthy || s.Broken != 1 || s.FailedProbes == 0 {
			t.Errorf("%+v", s)
		}
		askAll(t, f, 1)
		if asked.Load() != was+1 {
			t.Error("a server that is back is not asked")
		}
		now := probed.Load()
		time.Sleep(time.Minute)
		if probed.Load() != now {
			t.Error("a server that answers is probed")
		}
	})
}

// TestAllDead fails fast once it is known that nobody answers, and notices at once
// when somebody does.
func TestAllDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var on atomic.Bool
		s := switched(&on)
		f := n.forwarder(t, Options{Zones: over(UDP, n.add(1, s))})
		defer f.Close()
		ask := func() (time.Duration, error) {
			start := time.Now()
			_, _, err := f.Ask(t.Context(), text(t, "a.example.com"))
			return time.Since(start), err
		}
		root := []byte{0}
		for i := range maxFails {
			if took, err := ask(); !errors.Is(err, ErrUnanswered) || took > 4*time.Second || f.Dead(root) != (i == maxFails-1) {
				t.Errorf("question %d: %v after %v, dead %v", i, err, took, f.Dead(root))
			}
			if got := f.Stats()[0].Failures; got != uint64(i+1) {
				t.Errorf("%d failures after %d questions: each fails a server once", got, i+1)
			}
		}
		if took, err := ask(); !errors.Is(err, ErrUnanswered) || took != deadTotal || f.Broken() != 1 {
			t.Errorf("%v after %v, want %v", err, took, deadTotal)
		}
		on.Store(true)
		if took, err := ask(); err != nil || took != 0 || f.Dead(root) {
			t.Errorf("%v after %v: dead servers are to be tried anyway", err, took)
		}
	})
}

// TestTotal proves that nobody waits longer than a resolver's 5 s, however many
// servers are silent.
func TestTotal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var addrs []netip.AddrPort
		for i := range 10 {
			addrs = append(addrs, n.add(byte(i+1), &server{answer: nothing}))
		}
		f := n.forwarder(t, Options{Zones: over(UDP, addrs...)})
		defer f.Close()
		start := time.Now()
		_, _, err := f.Ask(t.Context(), text(t, "a.example.com"))
		if took := time.Since(start); !errors.Is(err, ErrUnanswered) || took != 4*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// TestLostDatagram is asked for again, although there is no other server.
func TestLostDatagram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var asked atomic.Int32
		s := &server{answer: func(q *dns.Msg, conn int) *dns.Msg {
			if asked.Add(1) == 1 {
				return nil
			}
			return named(q, conn)
		}}
		f := n.forwarder(t, Options{Zones: over(UDP, n.add(1, s))})
		defer f.Close()
		start := time.Now()
		askAll(t, f, 1)
		if took := time.Since(start); took != repeatAfter || asked.Load() != 2 || f.Stats()[0].Failures != 0 {
			t.Errorf("took %v and %d questions, %+v", took, asked.Load(), f.Stats())
		}
	})
}

// TestSlowAlone proves that a server that is alone is not asked twice because it
// takes longer for one name than for others.
func TestSlowAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var asked atomic.Int32
		s := &server{answer: func(q *dns.Msg, conn int) *dns.Msg {
			if asked.Add(1) > 10 {
				time.Sleep(repeatAfter - time.Millisecond)
			}
			return named(q, conn)
		}}
		f := n.forwarder(t, Options{Zones: over(UDP, n.add(1, s))})
		defer f.Close()
		for range 11 {
			askAll(t, f, 1)
		}
		if n := asked.Load(); n != 11 {
			t.Errorf("asked %d times for 11 names", n)
		}
	})
}

// TestHedgeFollowsTheServer proves that one that is quick is not waited for as long
// as one that is slow.
func TestHedgeFollowsTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		var asked atomic.Int32
		slow := &server{answer: func(q *dns.Msg, conn int) *dns.Msg {
			time.Sleep(600 * time.Millisecond)
			return named(q, conn)
		}}
		other := &server{answer: func(q *dns.Msg, conn int) *dns.Msg {
			asked.Add(1)
			time.Sleep(600 * time.Millisecond)
			return named(q, conn)
		}}
		f := n.forwarder(t, Options{Zones: over(UDP, n.add(1, slow), n.add(2, other))})
		defer f.Close()
		askAll(t, f, 1)
		askAll(t, f, 1)
		was := asked.Load()
		askAll(t, f, 1)
		if asked.Load() != was {
			t.Error("a server that takes its usual time is overtaken")
		}
		u := f.table.Load().upstreams[0]
		for range 100 {
			u.rtt.observe(time.Millisecond)
		}
		if got := u.hedge(); got != hedgeLeast {
			t.Errorf("after quick answers: %v, want %v", got, hedgeLeast)
		}
	})
}

func TestPolicies(t *testing.T) {
	for policy, check := range map[Policy]func(counts []int) bool{
		Sequential: func(c []int) bool { return slices.Equal(c, []int{300, 0, 0}) },
		RoundRobin: func(c []int) bool { return slices.Equal(c, []int{100, 100, 100}) },
		Random:     func(c []int) bool { return slices.Min(c) > 50 },
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork()
			servers := []*server{{answer: named}, {answer: named}, {answer: named}}
			var addrs []netip.AddrPort
			for i, s := range servers {
				addrs = append(addrs, n.add(byte(i+1), s))
			}
			elsewhere := &server{answer: named}
			zones := over(UDP, addrs...)
			zones[0].Policy = policy
			zones = append(zones, Zone{Name: "example.org", Servers: Plain(n.add(9, elsewhere))})
			f := n.forwarder(t, Options{Zones: zones})
			defer f.Close()
			askAll(t, f, 300)
			var counts []int
			for _, s := range servers {
				udp, _, _, _ := s.counts()
				counts = append(counts, udp)
			}
			if udp, _, _, _ := elsewhere.counts(); !check(counts) || udp != 0 {
				t.Errorf("%v: %v, and %d of another zone", policy, counts, udp)
			}
		})
	}
}

// TestSetZone replaces servers: what is known of those that stay is kept, and the
// connections of those that go are closed.
func TestSetZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork()
		gone, stays, comes := &server{answer: named}, &server{answer: nothing}, &server{answer: named}
		zones := over(TCP, n.add(1, gone), n.add(2, stays), n.add(3, comes))
		all := zones[0].Servers
		zones[0].Servers = all[:2]
		f := n.forwarder(t, Options{Zones: zones, Self: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.99:53")}})
		defer f.Close()
		askAll(t, f, 1)
		f.table.Load().upstreams[1].failures.Store(7)
		if err := f.SetZone(Zone{Name: ".", Servers: all[1:]}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s := f.Stats()
		if len(s) != 2 || s[0].Failures != 7 || gone.open != 0 {
			t.Errorf("%+v, %d connections to the one that is gone", s, gone.open)
		}
		<-f.Changed()
		if err := f.SetZone(Zone{Name: ".", Servers: Plain(f.Self[0])}); err == nil || len(f.Stats()) != 2 {
			t.Errorf("this server itself is taken: %v", err)
		}
		if err := f.SetZone(Zone{Name: "other.example"}); !errors.Is(err, ErrNoUpstream) {
			t.Errorf("unknown zone: %v", err)
		}
	})
}

// TestRandomCase proves that letters are in random case, that an answer that does
// not repeat them is asked for again over TCP, and that clients see theirs.
func TestRandomCase(t *testing.T) {
	for _, keeps := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork()
			var mixed atomic.Int32
			s := &server{answer: func(q *dns.Msg, conn int) *dns.Msg {
				if name := q.Question[0].Name; name != strings.ToLower(name) {
					mixed.Add(1)
				}
				if !keeps {
					q.Question[0].Name = strings.ToLower(q.Question[0].Name)
				}
				return named(q, conn)
			}}
			f := n.forwarder(t, Options{Zones: over(UDP, n.add(1, s)), RandomCase: true})
			defer f.Close()
			r, _, err := f.Ask(t.Context(), text(t, "the-quick-brown-fox.jumps.example.com"))
			if err != nil || r.Answers != 1 || r.Truncated {
				t.Errorf("%+v, %v", r, err)
			}
			if udp, tcp, _, _ := s.counts(); mixed.Load() != 1 || udp != 1 || (tcp == 1) == keeps {
				t.Errorf("keeps %v: %d in mixed case, %d over UDP, %d over TCP", keeps, mixed.Load(), udp, tcp)
			}
		})
	}
}

// TestQuery is what upstreams see of a question: no more than is needed.
func TestQuery(t *testing.T) {
	q := question(t, "www.example.com")
	q.DO, q.CD, q.Subnet = true, true, []byte{0, 1, 24, 0, 203, 0, 113}
	var m dns.Msg
	if err := m.Unpack(q.append(nil, 7, true)); err != nil {
		t.Fatal(err)
	}
	opt := m.IsEdns0()
	if m.Id != 7 || !m.RecursionDesired || !m.AuthenticatedData || !m.CheckingDisabled || opt == nil || opt.UDPSize() != 1232 || !opt.Do() || len(opt.Option) != 1 {
		t.Fatalf("%v", &m)
	}
	if got := opt.Option[0].String(); got != "203.0.113.0/24/0" {
		t.Errorf("subnet %s", got)
	}
	q = question(t, "www.example.com")
	m = dns.Msg{}
	if err := m.Unpack(q.append(nil, 7, true)); err != nil || len(m.IsEdns0().Option) != 0 || m.IsEdns0().Do() || m.CheckingDisabled {
		t.Errorf("%v, %v", &m, err)
	}
}

// TestIDsAndPorts proves that neither is used again and again.
func TestIDsAndPorts(t *testing.T) {
	ids := map[uint16]bool{}
	n := newNetwork()
	s := &server{answer: named}
	addr := n.add(1, s)
	f := n.forwarder(t, Options{Zones: over(UDP, addr)})
	defer f.Close()
	s.answer = func(q *dns.Msg, conn int) *dns.Msg {
		ids[q.Id] = true
		return named(q, conn)
	}
	for range 100 {
		askAll(t, f, 1)
	}
	if len(ids) < 90 {
		t.Errorf("%d IDs for 100 questions", len(ids))
	}
	ports := map[uint16]bool{}
	for range 50 {
		conn, err := dial(context.Background(), "udp", netip.MustParseAddrPort("127.0.0.1:9"))
		if err != nil {
			t.Fatal(err)
		}
		ports[netip.MustParseAddrPort(conn.LocalAddr().String()).Port()] = true
		closeQuietly(conn)
	}
	if len(ports) < 40 {
		t.Errorf("%d ports for 50 sockets", len(ports))
	}
}

// FuzzAnswer reads what a server may send. What is accepted answers the question,
// and holds nothing else.
func FuzzAnswer(f *testing.F) {
	q := question(f, "www.example.com")
	add := func(records ...string) {
		m := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
		m.Response, m.Compress = true, true
		for _, text := range records {
			rr, err := dns.NewRR(text)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		m.Ns = append(m.Ns, &dns.SOA{Hdr: dns.RR_Header{Name: "example.com.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 30}, Ns: "ns.", Mbox: "m.", Minttl: 20})
		m.SetEdns0(1232, true)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add()
	add("www.example.com. 60 IN A 192.0.2.1")
	add("www.example.com. 60 IN CNAME a.example.com.", "a.example.com. 60 IN A 192.0.2.1", "evil.example.org. 60 IN A 192.0.2.2")
	add("b.example.com. 60 IN A 192.0.2.1", "www.example.com. 60 IN CNAME b.example.com.")
	f.Fuzz(func(t *testing.T, msg []byte) {
		r, err := q.read(slices.Clone(msg))
		if err != nil || len(r.Msg) == 0 {
			return
		}
		if _, err := wire.ParseResponse(slices.Clone(r.Msg), q.Name, q.Type); err != nil && r.Rcode != wire.RcodeFormErr && !r.Truncated {
			t.Errorf("%x became %x: %v", msg, r.Msg, err)
		}
		if r.Truncated || r.Rcode > wire.RcodeNXDomain {
			return
		}
		var m dns.Msg
		if m.Unpack(r.Msg) != nil {
			return
		}
		allowed := map[string]bool{"www.example.com.": true}
		for range m.Answer {
			for _, rr := range m.Answer {
				if c, ok := rr.(*dns.CNAME); ok && allowed[strings.ToLower(c.Hdr.Name)] {
					allowed[strings.ToLower(c.Target)] = true
				}
			}
		}
		for _, rr := range m.Answer {
			h := rr.Header()
			if h.Rrtype != dns.TypeDNAME && h.Rrtype != dns.TypeRRSIG && !allowed[strings.ToLower(h.Name)] {
				t.Errorf("%v of %x is kept", rr, msg)
			}
		}
		if len(m.Extra) > 0 || !r.Negative && len(m.Ns) > 0 {
			t.Errorf("kept of %x: %v", msg, &m)
		}
	})
}
