package nftables

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// answers is what a packet case expects: the names of those who may answer, and
// the source that they must see.
type answers struct {
	by     string // "a", "a,b"; or refused, or silence
	source func(w *world, six bool) netip.Addr
}

func addrOf(four, six netip.Addr, want6 bool) netip.Addr {
	if want6 {
		return six
	}
	return four
}

var (
	asNode   = func(w *world, six bool) netip.Addr { return addrOf(w.node1.IPv4(), w.node1.IPv6(), six) }
	asClient = func(w *world, six bool) netip.Addr { return addrOf(w.client.IPv4(), w.client.IPv6(), six) }
	asA      = func(w *world, six bool) netip.Addr { return addrOf(w.a.IPv4(), w.a.IPv6(), six) }
)

// TestPackets sends real packets through what the engine made.
func TestPackets(t *testing.T) {
	w := newWorld(t, proxy.Config{})
	type packet struct {
		from *lab.Namespace
		to   string // "vip", "lb", "node:30080"
		want answers
	}
	client, node, a, c := w.client.Namespace, w.node1.Namespace, w.a.Namespace, w.c.Namespace
	nodePort := func(edit func(*model.Service)) func(*model.Service) {
		return func(s *model.Service) {
			s.Type = corev1.ServiceTypeLoadBalancer
			s.LoadBalancerIPs = []netip.Addr{lb4, lb6}
			for i := range s.Ports {
				s.Ports[i].NodePort = 30080
			}
			if edit != nil {
				edit(s)
			}
		}
	}
	external := func(s *model.Service) { s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	for _, test := range []struct {
		name    string
		service func(*model.Service)
		pods    []*lab.Pod
		edit    func(*model.EndpointSlice)
		packets []packet
	}{
		{name: "cluster IP", pods: []*lab.Pod{w.b, w.c}, packets: []packet{
			{a, "vip", answers{"b,c", asA}},
			{node, "vip", answers{"b,c", nil}},
			{client, "vip", answers{"b,c", asNode}},
		}},
		{name: "one endpoint elsewhere", pods: []*lab.Pod{w.c}, packets: []packet{
			{a, "vip", answers{"c", asA}},
		}},
		{name: "hairpin", pods: []*lab.Pod{w.a}, packets: []packet{
			{a, "vip", answers{"a", asNode}},
		}},
		{name: "no endpoints", service: nodePort(nil), packets: []packet{
			{a, "vip", answers{refused, nil}},
			{node, "vip", answers{refused, nil}},
			{client, "vip", answers{refused, nil}},
			{client, "node:30080", answers{refused, nil}},
			{client, "lb", answers{refused, nil}},
		}},
		{name: "ready in one family only", pods: []*lab.Pod{w.b}, edit: func(s *model.EndpointSlice) {
			if s.IPv6 {
				s.Endpoints = nil
			}
		}, packets: []packet{{a, "vip", answers{"b,refused", nil}}}},
		{name: "terminating", pods: []*lab.Pod{w.b, w.c}, edit: func(s *model.EndpointSlice) {
			s.Endpoints[0].Ready, s.Endpoints[0].Terminating = false, true
		}, packets: []packet{{a, "vip", answers{"c", asA}}}},
		{name: "only terminating", pods: []*lab.Pod{w.b, w.c}, edit: func(s *model.EndpointSlice) {
			s.Endpoints[0].Ready, s.Endpoints[0].Terminating = false, true
			s.Endpoints[1].Ready, s.Endpoints[1].Serving = false, false
		}, packets: []packet{{a, "vip", answers{"b", asA}}}},
		{name: "node port", service: nodePort(nil), pods: []*lab.Pod{w.b, w.c}, packets: []packet{
			{client, "node:30080", answers{"b,c", asNode}},
			{c, "node:30080", answers{"b,c", asNode}},
			{node, "node:30080", answers{"b,c", nil}},
			{client, "lb", answers{"b,c", asNode}},
			{a, "lb", answers{"b,c", asNode}},
		}},
		{name: "external policy local", service: nodePort(external), pods: []*lab.Pod{w.b, w.c}, packets: []packet{
			{client, "node:30080", answers{"b", asClient}},
			{client, "lb", answers{"b", asClient}},
			{a, "lb", answers{"b,c", asA}},
			{a, "vip", answers{"b,c", asA}},
			{node, "lb", answers{"b,c", asNode}},
		}},
		{name: "external policy local, none here", service: nodePort(external), pods: []*lab.Pod{w.c}, packets: []packet{
			{client, "node:30080", answers{silence, nil}},
			{client, "lb", answers{silence, nil}},
			{a, "lb", answers{"c", asA}},
			{a, "node:30080", answers{"c", asA}},
			{node, "lb", answers{"c", asNode}},
		}},
		{name: "internal policy local", service: func(s *model.Service) {
			s.InternalTrafficPolicy = corev1.ServiceInternalTrafficPolicyLocal
		}, pods: []*lab.Pod{w.b, w.c}, packets: []packet{{a, "vip", answers{"b", asA}}}},
		{name: "internal policy local, none here", service: func(s *model.Service) {
			s.InternalTrafficPolicy = corev1.ServiceInternalTrafficPolicyLocal
		}, pods: []*lab.Pod{w.c}, packets: []packet{{a, "vip", answers{silence, nil}}}},
		{name: "sources", service: nodePort(func(s *model.Service) {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.250.0.0/24"), netip.MustParsePrefix("10.250.0.0/28"), netip.MustParsePrefix("fd00:10:250::/64")}
		}), pods: []*lab.Pod{w.b}, packets: []packet{
			{client, "lb", answers{"b", asNode}},
			{a, "lb", answers{silence, nil}},
			{a, "node:30080", answers{"b", asNode}},
			{a, "vip", answers{"b", asA}},
		}},
		{name: "sources refuse", service: nodePort(func(s *model.Service) {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}), pods: []*lab.Pod{w.b}, packets: []packet{
			{client, "lb", answers{silence, nil}},
			{client, "node:30080", answers{"b", asNode}},
		}},
		{name: "affinity", service: nodePort(func(s *model.Service) { s.AffinityTimeout = time.Hour }), pods: []*lab.Pod{w.b, w.c}, packets: []packet{
			{a, "vip", answers{"b,c", asA}},
			{client, "node:30080", answers{"b,c", asNode}},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			old := w.t
			w.t = t
			defer func() { w.t = old }()
			w.update(func(tx *model.Txn) {
				model.Services.Put(tx, service("web", test.service))
				for _, s := range w.slicesOf("web", 1, test.pods...) {
					if test.edit != nil {
						test.edit(s)
					}
					model.EndpointSlices.Put(tx, s)
				}
			})
			for _, p := range test.packets {
				for _, network := range []string{"tcp", "udp"} {
					for _, six := range []bool{false, true} {
						w.check(p.from, network, w.destination(p.to, six), p.want, six)
					}
				}
			}
		})
	}
}

func (w *world) destination(name string, six bool) netip.AddrPort {
	switch name {
	case "vip":
		return netip.AddrPortFrom(addrOf(vip4, vip6, six), 80)
	case "lb":
		return netip.AddrPortFrom(addrOf(lb4, lb6, six), 80)
	}
	return netip.AddrPortFrom(addrOf(w.node1.IPv4(), w.node1.IPv6(), six), 30080)
}

// check sends a few connections and compares the outcomes.
func (w *world) check(from *lab.Namespace, network string, to netip.AddrPort, want answers, six bool) {
	w.t.Helper()
	allowed := strings.Split(want.by, ",")
	seen := map[string]bool{}
	sticky := w.plan.Service(model.Name{Namespace: "default", Name: "web"}).Ports[0].Affinity != 0
	tries := 48 // that they are all the same of two is one in 10¹⁴
	if sticky {
		tries = 4
	}
	for range tries {
		var got string
		if want.by == silence {
			got = w.attempt(from, network, to)
		} else {
			got = w.ask(from, network, to)
		}
		name, source, _ := strings.Cut(got, " ")
		ok := false
		for _, a := range allowed {
			ok = ok || a == name
		}
		if !ok {
			w.t.Errorf("%s %s %s: got %q, want %s", from.Name(), network, to, got, want.by)
			return
		}
		if want.source != nil && source != "" && source != want.source(w, six).String() {
			w.t.Errorf("%s %s %s: %s saw the source %s, want %s", from.Name(), network, to, name, source, want.source(w, six))
		}
		seen[name] = true
		if len(seen) == len(allowed) || allowed[len(allowed)-1] == refused {
			return
		}
	}
	if len(allowed) == 2 && allowed[1] != refused && len(seen) < 2 && !sticky {
		w.t.Errorf("%s %s %s: all connections went to %v, want %s", from.Name(), network, to, seen, want.by)
	}
}
