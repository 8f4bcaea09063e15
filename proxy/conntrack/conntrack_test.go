package conntrack

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// dns is a UDP Service with a ClusterIP and a NodePort.
func dns(clusterIP string, endpoints ...string) *proxy.Service {
	p := &proxy.Port{Family: proxy.IPv4, Protocol: proxy.UDP, Port: 53, Frontends: []proxy.Frontend{
		{Kind: proxy.ClusterIP, Addr: netip.MustParseAddr(clusterIP), Port: 53},
		{Kind: proxy.NodePort, Port: 30053},
	}}
	for _, e := range endpoints {
		p.Kept = append(p.Kept, ap(e))
	}
	return &proxy.Service{Name: name, Ports: []*proxy.Port{p}}
}

var name = model.Name{Namespace: "kube-system", Name: "dns"}

func TestStale(t *testing.T) {
	const vip, a, b = "10.96.0.10:53", "10.244.0.1:53", "10.244.0.2:53"
	here := map[netip.Addr]struct{}{netip.MustParseAddr("10.240.0.11"): {}}
	change := func(old, now *proxy.Service) proxy.Change { return proxy.Change{Name: name, Old: old, New: now} }
	for _, test := range []struct {
		name        string
		changes     []proxy.Change
		to, answers string
		want        bool
	}{
		{"endpoint gone", []proxy.Change{change(dns("10.96.0.10", a, b), dns("10.96.0.10", b))}, vip, a, true},
		{"endpoint that stays", []proxy.Change{change(dns("10.96.0.10", a, b), dns("10.96.0.10", b))}, vip, b, false},
		{"last endpoint gone", []proxy.Change{change(dns("10.96.0.10", a), dns("10.96.0.10"))}, vip, a, true},
		{"only one more", []proxy.Change{change(dns("10.96.0.10", a), dns("10.96.0.10", a, b))}, vip, "10.244.0.9:53", false},
		{"of before a start", []proxy.Change{change(nil, dns("10.96.0.10", a))}, vip, "10.244.0.9:53", true},
		{"healthy at a start", []proxy.Change{change(nil, dns("10.96.0.10", a))}, vip, a, false},
		{"sent before there was a Service", []proxy.Change{change(nil, dns("10.96.0.10", a))}, vip, vip, true},
		{"Service gone", []proxy.Change{change(dns("10.96.0.10", a), nil)}, vip, a, true},
		{"not ours", []proxy.Change{change(dns("10.96.0.10", a), nil)}, vip, vip, false},
		{"another address", []proxy.Change{change(dns("10.96.0.10", a), dns("10.96.0.11", a))}, vip, a, true},
		{"NodePort, endpoint gone", []proxy.Change{change(dns("10.96.0.10", a), dns("10.96.0.10"))}, "10.240.0.11:30053", a, true},
		{"same port elsewhere", []proxy.Change{change(dns("10.96.0.10", a), dns("10.96.0.10"))}, "10.240.0.99:30053", a, false},
		{"there and back", []proxy.Change{change(dns("10.96.0.10", a), dns("10.96.0.10", a))}, vip, a, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := flow{destination: ap(test.to), answers: ap(test.answers)}
			if got := collect(nil, test.changes).stale(&f, here); got != test.want {
				t.Errorf("stale is %v, want %v", got, test.want)
			}
		})
	}
}

// TestNothing checks that a change which leaves no stale flows costs no listing.
func TestNothing(t *testing.T) {
	w := collect(nil, []proxy.Change{{Name: name, Old: dns("10.96.0.10", "10.244.0.1:53"), New: dns("10.96.0.10", "10.244.0.1:53", "10.244.0.2:53")}})
	if len(w.frontends) != 0 || len(w.nodePorts) != 0 {
		t.Errorf("an added endpoint has flows listed: %v", w)
	}
}

func FuzzParse(f *testing.F) {
	m := &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_CTNETLINK, 0, 0, unix.AF_INET)
	t := m.Nest(attrTupleOrig)
	ip := m.Nest(tupleIP)
	m.Bytes(ip4Src, []byte{10, 0, 0, 1})
	m.Bytes(ip4Dst, []byte{10, 0, 0, 2})
	m.End(ip)
	m.End(t)
	m.Finish()
	for msg := range m.All() {
		f.Add(msg.Body)
	}
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parse(b) })
}
