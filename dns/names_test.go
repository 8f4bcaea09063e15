package dns_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
	"github.com/sluicenet/sluice/model"
)

// TestHosts answers entries before anything else, and follows their file.
func TestHosts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(file, []byte("10.9.0.2 file.example\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, func(o *sluicedns.Options) {
		o.Forward.Zones = forward.Root(forward.Plain(examples(t).Addr)...)
		o.Hosts = sluicedns.Hosts{Entries: []string{"10.9.0.1 web.example.com www.example.com svc1.testns.svc.cluster.local"}, File: file, TTL: time.Minute}
	})
	for _, c := range []struct{ name, typ, want string }{
		{"web.EXAMPLE.com.", "A", "web.EXAMPLE.com. 60 IN A 10.9.0.1"},
		{"svc1.testns.svc.cluster.local.", "A", "svc1.testns.svc.cluster.local. 60 IN A 10.9.0.1"},
		{"web.example.com.", "AAAA", ""},
		{"file.example.", "A", "file.example. 60 IN A 10.9.0.2"},
		{"2.0.9.10.in-addr.arpa.", "PTR", "2.0.9.10.in-addr.arpa. 60 IN PTR file.example."},
		{"ext.testns.svc.cluster.local.", "A", "ext.testns.svc.cluster.local. 5 IN CNAME www.example.com. www.example.com. 60 IN A 10.9.0.1"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r := ask(t, s.Addrs()[0], network, c.name, c.typ)
			if got := strings.Join(texts(r.Answer), " "); r.Rcode != dns.RcodeSuccess || !r.Authoritative || !strings.EqualFold(got, c.want) {
				t.Errorf("%s %s over %s: %s %q, want %q", c.name, c.typ, network, dns.RcodeToString[r.Rcode], got, c.want)
			}
		}
	}
	if err := os.WriteFile(file, []byte("10.9.0.3 file.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the new entry", func() bool {
		r := ask(t, s.Addrs()[0], "udp", "file.example.", "A")
		return strings.HasSuffix(strings.Join(texts(r.Answer), " "), " 10.9.0.3")
	})
	e, err := s.Explain(t.Context(), netip.Addr{}, "file.example", "A")
	if err != nil || e.Source != "hosts" {
		t.Errorf("%+v, %v", e, err)
	}
}

// TestTTL0 gives records that nobody is to keep.
func TestTTL0(t *testing.T) {
	s := start(t, func(o *sluicedns.Options) {
		o.TTL = -time.Second
		o.Hosts = sluicedns.Hosts{Entries: []string{"10.9.0.1 web.example.com"}, TTL: -time.Second}
	})
	for _, name := range []string{"svc1.testns.svc.cluster.local.", "web.example.com.", "none.testns.svc.cluster.local."} {
		r := ask(t, s.Addrs()[0], "udp", name, "A")
		records := append(r.Answer, r.Ns...)
		if len(records) == 0 {
			t.Errorf("%s: no records", name)
		}
		for _, rr := range records {
			if rr.Header().Ttl != 0 {
				t.Errorf("%s: %v, want TTL 0", name, rr)
			}
		}
	}
}

// TestRewrites answers with what there is of another name, which nobody sees.
func TestRewrites(t *testing.T) {
	upstream := examples(t)
	s := start(t, func(o *sluicedns.Options) {
		askOnce(o, upstream)
		o.Rewrites = []sluicedns.Rewrite{
			{From: "api.example.org", To: "svc1.testns.svc.cluster.local"}, {From: "Site.example.org.", To: "web.example.com"},
			{From: "svc2.testns.svc.cluster.local", To: "svc1.testns.svc.cluster.local"}, {From: "none.example.org", To: "nope.testns.svc.cluster.local"},
			{From: "web.example.com", To: "never.example.org"},
		}
	})
	for _, c := range []struct{ name, want string }{
		{"API.example.org.", "API.example.org. 5 IN A 10.0.0.1"},
		{"svc2.testns.svc.cluster.local.", "svc2.testns.svc.cluster.local. 5 IN A 10.0.0.1"},
	} {
		r := ask(t, s.Addrs()[0], "udp", c.name, "A")
		if got := strings.Join(texts(r.Answer), " "); got != c.want || r.Question[0].Name != c.name {
			t.Errorf("%s: %q of %v, want %q", c.name, got, r.Question, c.want)
		}
	}
	for range 2 { // from the server, and from the cache
		r := ask(t, s.Addrs()[0], "tcp", "site.example.org.", "A")
		if len(r.Answer) != 1 || r.Answer[0].Header().Name != "site.example.org." {
			t.Errorf("of another server: %v", r)
		}
	}
	if n := upstream.Asked("web.example.com.", "A"); n != 1 {
		t.Errorf("asked %d times", n)
	}
	r := ask(t, s.Addrs()[0], "udp", "none.example.org.", "A")
	if r.Rcode != dns.RcodeNameError || len(r.Ns) != 1 || r.Ns[0].Header().Name != "cluster.local." {
		t.Errorf("a name that does not exist: %v", r)
	}
	e, err := s.Explain(t.Context(), netip.Addr{}, "api.example.org", "A")
	if err != nil || e.Source != "zone" || e.As != "svc1.testns.svc.cluster.local." || e.Object != "Service testns/svc1" {
		t.Errorf("%+v, %v", e, err)
	}
}

// podHere makes a Pod of this node of the address that tests ask from.
func podHere(o *sluicedns.Options) {
	o.Store.Update(func(tx *model.Txn) {
		model.Pods.Put(tx, &model.Pod{Meta: dnstest.Meta("testns", "client"), Node: "here", IPs: dnstest.Addrs("127.0.0.1")})
	})
}

// TestAutopath answers a search in one round trip, as a whole walk would.
func TestAutopath(t *testing.T) {
	upstream := dnstest.NewUpstream(t, func(q *dns.Msg, _ bool) *dns.Msg {
		name := strings.ToLower(q.Question[0].Name)
		switch {
		case strings.HasSuffix(name, ".broken."):
			return dnstest.Reply(q, dns.RcodeServerFailure)
		case name == "web.example.com." && q.Question[0].Qtype == dns.TypeA:
			return dnstest.Reply(q, dns.RcodeSuccess, "web.example.com. 60 IN A 192.0.2.1")
		case name == "alias.corp.":
			return dnstest.Reply(q, dns.RcodeSuccess, "alias.corp. 60 IN CNAME real.corp.", "real.corp. 60 IN A 192.0.2.2")
		case name == "web.example.com.":
			return dnstest.Reply(q, dns.RcodeSuccess, "example.com. 60 IN SOA ns.example.com. a.example.com. 1 2 3 4 20")
		}
		return dnstest.Reply(q, dns.RcodeNameError, ". 60 IN SOA a. b. 1 2 3 4 20")
	})
	var store *model.Store
	options := func(o *sluicedns.Options) {
		askOnce(o, upstream)
		o.Autopath, o.Node, o.Search = true, "here", []string{"corp"}
		store = o.Store
		podHere(o)
	}
	s := start(t, options)
	const path = ".testns.svc.cluster.local."
	for _, c := range []struct {
		what, name, typ string
		rcode           int
		want            []string
	}{
		{"a Service of its namespace", "svc1" + path, "A", 0, []string{"svc1" + path + " 5 IN A 10.0.0.1"}},
		{"a Service of another", "kubernetes.default" + path, "A", 0, []string{
			"kubernetes.default" + path + " 5 IN CNAME kubernetes.default.svc.cluster.local.", "kubernetes.default.svc.cluster.local. 5 IN A 10.96.0.1"}},
		{"a name outside", "Web.Example.com" + path, "A", 0, []string{
			"Web.Example.com" + path + " 5 IN CNAME web.example.com.", "web.example.com. 60 IN A 192.0.2.1"}},
		{"no record of the type", "web.example.com" + path, "AAAA", 0, []string{"web.example.com" + path + " 5 IN CNAME web.example.com."}},
		{"the host's domain", "alias" + path, "A", 0, []string{
			"alias" + path + " 5 IN CNAME alias.corp.", "alias.corp. 60 IN CNAME real.corp.", "real.corp. 60 IN A 192.0.2.2"}},
		{"a whole name of the cluster", "svc1.testns.svc.cluster.local" + path, "A", 0, []string{
			"svc1.testns.svc.cluster.local" + path + " 5 IN CNAME svc1.testns.svc.cluster.local.", "svc1.testns.svc.cluster.local. 5 IN A 10.0.0.1"}},
		{"no such name", "gone.example.com" + path, "A", dns.RcodeNameError, nil},
		{"a server that fails", "x.broken" + path, "A", dns.RcodeNameError, nil},
		{"another type", "web.example.com" + path, "TXT", dns.RcodeNameError, nil},
		{"another namespace's path", "web.example.com.default.svc.cluster.local.", "A", dns.RcodeNameError, nil},
	} {
		for _, network := range []string{"udp", "tcp"} {
			r := ask(t, s.Addrs()[0], network, c.name, c.typ)
			if r.Rcode != c.rcode || !slices.Equal(texts(r.Answer), normal(t, c.want)) {
				t.Errorf("%s over %s: %s %q, want %q", c.what, network, dns.RcodeToString[r.Rcode], texts(r.Answer), c.want)
			}
			if c.rcode == dns.RcodeNameError && (len(r.Ns) != 1 || r.Ns[0].Header().Name != "cluster.local.") {
				t.Errorf("%s: authority %v", c.what, r.Ns)
			}
		}
	}
	if n := upstream.Asked("web.example.com.", "A"); n != 1 {
		t.Errorf("asked %d times for one name", n)
	}
	e, err := s.Explain(t.Context(), netip.MustParseAddr("127.0.0.1"), "web.example.com"+path, "A")
	if err != nil || e.Source != "cache" || e.As != "web.example.com." {
		t.Errorf("%+v, %v", e, err)
	}

	// Whoever is not sure to be that Pod walks by himself.
	for what, change := range map[string]func(*model.Pod){
		"ended":    func(p *model.Pod) { p.Terminated = true },
		"deleting": func(p *model.Pod) { p.Deleting = true },
		"host":     func(p *model.Pod) { p.HostNetwork = true },
		"reused":   func(p *model.Pod) { p.Name = "second" },
	} {
		store.Update(func(tx *model.Txn) {
			for _, f := range []func(*model.Pod){func(*model.Pod) {}, change} {
				p := &model.Pod{Meta: dnstest.Meta("testns", "client"), Node: "here", IPs: dnstest.Addrs("127.0.0.1")}
				f(p)
				model.Pods.Put(tx, p)
			}
		})
		if err := s.WaitRevision(t.Context(), store.Snapshot().Revision()); err != nil {
			t.Fatal(err)
		}
		if r := ask(t, s.Addrs()[0], "udp", "web.example.com"+path, "A"); r.Rcode != dns.RcodeNameError {
			t.Errorf("%s: %v", what, r)
		}
		store.Update(func(tx *model.Txn) { tx.Delete(model.Key{Kind: model.KindPod, Namespace: "testns", Name: "second"}) })
	}
}
