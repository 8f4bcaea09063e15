package dns_test

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	sluicedns "github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/internal/dnstest"
)

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// askOnce forwards to one server and asks it nothing a second time where the machine
// is slow, for tests that count what it was asked.
func askOnce(o *sluicedns.Options, upstream *dnstest.Upstream) {
	const patience = 30 * time.Second
	o.Forward.Zones = forward.Root(forward.Plain(upstream.Addr)...)
	o.Forward.Hedge, o.Forward.Timeout, o.Forward.Total = patience, patience, patience
}

// start runs a server of the cluster on loopback for the time of the test, and
// waits until it answers from the store's newest snapshot.
func start(t testing.TB, change func(*sluicedns.Options)) *sluicedns.Server {
	t.Helper()
	o := sluicedns.Options{
		Store:  dnstest.Cluster(),
		Listen: []netip.AddrPort{loopback},
		Log:    slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	s, err := sluicedns.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	if err := s.WaitRevision(ctx, o.Store.Snapshot().Revision()); err != nil {
		t.Fatal(err)
	}
	return s
}

// ask sends one query and returns the answer. Lost packets are asked for again.
func ask(t testing.TB, addr netip.AddrPort, network, name, typ string, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.StringToType[typ])
	q.SetEdns0(1232, false)
	for _, f := range change {
		f(q)
	}
	c := &dns.Client{Net: network, Timeout: 10 * time.Second}
	if q.IsEdns0() == nil {
		c.UDPSize = 512
	}
	r, _, err := c.Exchange(q, addr.String())
	if err != nil {
		t.Fatalf("%s %s over %s: %v", name, typ, network, err)
	}
	return r
}

// texts returns records in the form of a table, without the OPT record, sorted.
func texts(rrs []dns.RR) []string {
	var lines []string
	for _, rr := range rrs {
		switch rr := rr.(type) {
		case *dns.OPT:
			continue
		case *dns.SOA:
			rr.Serial = 1
		}
		lines = append(lines, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	slices.Sort(lines)
	return lines
}

// normal brings records that a person wrote into the same form.
func normal(t testing.TB, lines []string) []string {
	t.Helper()
	var rrs []dns.RR
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		rrs = append(rrs, rr)
	}
	return texts(rrs)
}
