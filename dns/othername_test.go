package dns

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/sluicenet/sluice/dns/autopath"
	"github.com/sluicenet/sluice/dns/hosts"
	"github.com/sluicenet/sluice/dns/ratelimit"
	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

// TestOtherNamesDoNotAllocate guards entries of hosts and rewrites, and that search
// paths cost nothing where there is none to complete.
func TestOtherNamesDoNotAllocate(t *testing.T) {
	s := newServer(t)
	table, errs := hosts.New([]string{"10.9.0.1 host.example", "10.9.0.2 host.example"}, hosts.Options{})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	s.hosts.Store(table)
	var err error
	if s.rewrites, err = rewriteTable([]Rewrite{{"old.example", "svc1.testns.svc.cluster.local"}, {"older.example", "web.example.com"}}); err != nil {
		t.Fatal(err)
	}
	walker, err := autopath.New("here", "cluster.local", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Autopath = true
	s.walker.Store(walker)
	s.limiter = ratelimit.New(ratelimit.Options{PerSecond: 1})
	w := &worker{counters: &counters{}}
	out := make([]byte, 0, wire.MaxMessage)
	for _, name := range []string{"host.example", "old.example", "older.example", "svc1.testns.svc.cluster.local", "nope.svc.cluster.local"} {
		msg := query(name, wire.TypeA, true, false)
		if allocs := testing.AllocsPerRun(100, func() {
			if reply, _ := s.answer(w, msg, out, false, nil); len(reply) == 0 {
				t.Fatal("no answer")
			}
		}); allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
	// One that is completed may, but not much.
	s.Store.Update(func(tx *model.Txn) {
		model.Pods.Put(tx, &model.Pod{Meta: model.Meta{Namespace: "testns", Name: "p"}, Node: "here", IPs: []netip.Addr{netip.MustParseAddr("10.1.1.1")}})
	})
	update, err := s.Store.Watch().Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	z, _ := s.planner.Update(update)
	s.publish(z)
	w.client = netip.MustParseAddrPort("10.1.1.1:1")
	msg := query("web.example.com.testns.svc.cluster.local", wire.TypeA, true, false)
	if allocs := testing.AllocsPerRun(100, func() {
		if reply, _ := s.answer(w, msg, out, false, nil); len(reply) == 0 || w.as == nil {
			t.Fatal("not completed")
		}
	}); allocs > 12 {
		t.Errorf("%v allocations to complete a name", allocs)
	}
}

// FuzzGraft proves that what another server says of a name never makes a broken
// answer for another one.
func FuzzGraft(f *testing.F) {
	name, err := wire.ParseName("web.example.com")
	if err != nil {
		f.Fatal(err)
	}
	for _, records := range []string{"web.example.com. 60 IN A 192.0.2.1", "web.example.com. 60 IN CNAME a.b.", "web.example.com. 1 IN MX 1 web.example.com."} {
		rr, err := dns.NewRR(records)
		if err != nil {
			f.Fatal(err)
		}
		m := new(dns.Msg).SetQuestion("web.example.com.", dns.TypeA)
		m.Response, m.Answer, m.Compress = true, []dns.RR{rr, rr}, true
		msg, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(msg[wire.HeaderLen+len(name)+4:], uint16(2), uint16(0), uint16(0))
	}
	f.Fuzz(func(t *testing.T, records []byte, an, ns, ar uint16) {
		if len(records) > 4096 {
			return
		}
		msg := wire.AppendQuery(nil, 0, wire.FlagQR, name, wire.TypeA, false, false)
		msg = append(msg, records...)
		for i, n := range []uint16{an, ns, ar} {
			msg[6+2*i], msg[7+2*i] = byte(n>>8), byte(n)
		}
		resp, err := wire.ParseResponse(msg, name, wire.TypeA)
		if err != nil {
			return
		}
		var q wire.Query
		if q.Parse(query("x.testns.svc.cluster.local", wire.TypeA, true, false), true) != wire.Answer {
			t.Fatal("no query")
		}
		r := q.Start(make([]byte, 0, wire.MaxMessage))
		graft(&r, resp.Msg, name, wire.QuestionOffset)
		reply := r.Finish(0, 0)
		for off, left := wire.HeaderLen+len(q.Question), int(reply[6])<<8+int(reply[7])+int(reply[8])<<8+int(reply[9])+int(reply[10])<<8+int(reply[11]); left > 0; left-- {
			var rr wire.RR
			if !rr.Parse(reply, off) {
				t.Fatalf("record at %d of %x", off, reply)
			}
			off = rr.End
		}
	})
}
