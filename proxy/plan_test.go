package proxy

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with a file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range list {
		out = append(out, netip.MustParsePrefix(a))
	}
	return out
}

var bothFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}

// web returns a Service of port 80 and applies edits.
func web(name string, edits ...func(*model.Service)) *model.Service {
	s := &model.Service{
		Meta: model.Meta{Namespace: "default", Name: name}, Type: corev1.ServiceTypeClusterIP,
		ClusterIPs: addrs("10.96.0.1"), Families: bothFamilies[:1],
		Ports: []model.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
	}
	for _, e := range edits {
		e(s)
	}
	return s
}

func loadBalancer(s *model.Service) {
	s.Type = corev1.ServiceTypeLoadBalancer
	s.LoadBalancerIPs = addrs("192.0.2.1")
	s.Ports[0].NodePort = 30080
}

func externalPolicyLocal(s *model.Service) {
	s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	s.HealthCheckNodePort = 32000
}

// endpoint makes the n-th endpoint: odd ones are on node1 and in zone a, even
// ones on node2 and in zone b.
func ep(n int, edits ...func(*model.Endpoint)) model.Endpoint {
	e := model.Endpoint{
		Addr: netip.AddrFrom4([4]byte{10, 244, 0, byte(n)}), Pod: fmt.Sprintf("p%d", n),
		Node: "node2", Zone: "b", Ready: true, Serving: true,
	}
	if n%2 == 1 {
		e.Node, e.Zone = "node1", "a"
	}
	for _, f := range edits {
		f(&e)
	}
	return e
}

func terminating(e *model.Endpoint) { e.Ready, e.Terminating = false, true }
func notReady(e *model.Endpoint)    { e.Ready, e.Serving = false, false }
func forZone(z string) func(*model.Endpoint) {
	return func(e *model.Endpoint) { e.Rare = &model.RareEndpoint{ForZones: []string{z}} }
}

func forNode(n string) func(*model.Endpoint) {
	return func(e *model.Endpoint) { e.Rare = &model.RareEndpoint{ForNodes: []string{n}} }
}

func slice(service string, endpoints ...model.Endpoint) *model.EndpointSlice {
	return &model.EndpointSlice{
		Meta: model.Meta{Namespace: "default", Name: service + "-1"}, Service: service, Weight: 1,
		Ports:     []model.EndpointPort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 8080}},
		Endpoints: endpoints,
	}
}

func named(s *model.EndpointSlice, name string, weight int32) *model.EndpointSlice {
	s.Name, s.Weight = name, weight
	return s
}

func labelled(s *model.EndpointSlice, name string) *model.EndpointSlice {
	s.Name, s.Labels = name, map[string]string{corev1.IsHeadlessService: "yes"}
	return s
}

func ofProxy(s *model.EndpointSlice, name string) *model.EndpointSlice {
	s.Labels = map[string]string{labelProxyName: name}
	return s
}

type object interface {
	GetNamespace() string
	GetName() string
}

func put(tx *model.Txn, objects ...object) {
	for _, o := range objects {
		kind := model.KindService
		switch o.(type) {
		case *model.EndpointSlice:
			kind = model.KindEndpointSlice
		case *model.Pod:
			kind = model.KindPod
		case *model.Node:
			kind = model.KindNode
		case *model.Split:
			kind = model.KindSplit
		case *model.ServiceCIDR:
			kind = model.KindServiceCIDR
		}
		tx.Put(kind, o)
	}
}

func node(name, zone string) *model.Node {
	return &model.Node{
		Meta:        model.Meta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}},
		InternalIPs: addrs("10.240.0.11"), PodCIDRs: prefixes("10.244.1.0/24"),
	}
}

// step puts objects and plans.
func step(t *testing.T, store *model.Store, w *model.Watcher, p *Planner, f func(*model.Txn)) Changes {
	t.Helper()
	store.Update(f)
	up, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p.Update(up)
}

func planOf(t *testing.T, cfg Config, objects ...object) *Plan {
	t.Helper()
	store := model.NewStore()
	return step(t, store, store.Watch(), NewPlanner(cfg), func(tx *model.Txn) { put(tx, objects...) }).New
}

func split(service string, backends ...model.SplitBackend) *model.Split {
	return &model.Split{
		Meta:    model.Meta{Namespace: "default", Name: service + ":80"},
		Service: model.Name{Namespace: "default", Name: service}, Port: 80, Protocol: corev1.ProtocolTCP,
		Backends: backends, Origin: model.Key{Kind: model.KindVirtualService, Namespace: "default", Name: "canary"},
	}
}

func share(service string, weight uint32, version string) model.SplitBackend {
	b := model.SplitBackend{Service: model.Name{Namespace: "default", Name: service}, Port: 80, Weight: weight}
	if version != "" {
		b.Selector = map[string]string{"version": version}
	}
	return b
}

func pod(name, version string) *model.Pod {
	return &model.Pod{Meta: model.Meta{Namespace: "default", Name: name, Labels: map[string]string{"version": version}}}
}

func TestPlan(t *testing.T) {
	for _, test := range []struct {
		name    string
		cfg     Config
		objects []object
	}{
		{name: "cluster-ip", objects: []object{web("web"), slice("web", ep(1), ep(2))}},
		{name: "no-endpoints", objects: []object{web("web", loadBalancer), slice("web", ep(1, notReady))}},
		{name: "masquerade-all", cfg: Config{MasqueradeAll: true}, objects: []object{web("web"), slice("web", ep(1))}},
		{name: "families-are-independent", objects: []object{web("web", func(s *model.Service) {
			s.ClusterIPs, s.Families = addrs("10.96.0.1", "fd00::1"), bothFamilies
		}), slice("web", ep(1))}},
		{name: "load-balancer", objects: []object{web("web", loadBalancer, func(s *model.Service) {
			s.ExternalIPs = addrs("203.0.113.1", "2001:db8::1")
			s.SourceRanges = prefixes("198.51.100.0/24", "2001:db8::/32")
		}), slice("web", ep(1), ep(2))}},
		{name: "source-ranges-with-the-node", objects: []object{web("web", loadBalancer, func(s *model.Service) {
			s.SourceRanges = prefixes("10.240.0.0/24")
		}), slice("web", ep(1))}},
		{name: "external-policy-local", objects: []object{web("web", loadBalancer, externalPolicyLocal), slice("web", ep(1), ep(2), ep(3, terminating))}},
		{name: "external-policy-local-none-here", objects: []object{web("web", loadBalancer, externalPolicyLocal), slice("web", ep(2))}},
		{name: "external-policy-local-terminating-here", objects: []object{web("web", loadBalancer, externalPolicyLocal), slice("web", ep(1, terminating), ep(2))}},
		{name: "internal-policy-local-none-here", objects: []object{web("web", func(s *model.Service) {
			s.InternalTrafficPolicy = corev1.ServiceInternalTrafficPolicyLocal
		}), slice("web", ep(2))}},
		{name: "terminating", objects: []object{web("web"), slice("web", ep(1, terminating), ep(2))}},
		{name: "only-terminating", objects: []object{web("web"), slice("web", ep(1, terminating), ep(2, notReady))}},
		{name: "hints-for-zone", objects: []object{web("web"), slice("web", ep(1, forZone("a")), ep(2, forZone("b")))}},
		{name: "hints-for-another-zone", objects: []object{web("web"), slice("web", ep(2, forZone("b")), ep(4, forZone("b")))}},
		{name: "hints-incomplete", objects: []object{web("web"), slice("web", ep(1, forZone("a")), ep(2))}},
		{name: "hints-for-node", objects: []object{web("web"), slice("web",
			ep(1, forZone("a"), forNode("node1")), ep(2, forZone("a"), forNode("node2")))}},
		{name: "hints-of-unready-do-not-count", objects: []object{web("web"), slice("web", ep(1, forZone("a")), ep(2, notReady))}},
		{name: "affinity", objects: []object{web("web", func(s *model.Service) { s.AffinityTimeout = 3 * time.Hour }), slice("web", ep(1))}},
		{name: "weights", objects: []object{web("web"), named(slice("web", ep(1), ep(2)), "old", 6), named(slice("web", ep(3)), "new", 2), named(slice("web", ep(4)), "drained", 0)}},
		{name: "same-endpoint-in-two-slices", objects: []object{web("web"), named(slice("web", ep(1, notReady)), "x", 1), named(slice("web", ep(1)), "y", 1)}},
		{name: "endpoint-without-node", objects: []object{web("web"), slice("web", ep(1, func(e *model.Endpoint) { e.Node = "" }))}},
		{name: "split", objects: []object{
			web("web"), web("canary", func(s *model.Service) { s.ClusterIPs = nil }),
			slice("web", ep(1), ep(2), ep(3)), slice("canary", ep(4)), split("web", share("web", 90, ""), share("canary", 10, "")),
		}},
		{name: "split-by-subsets", objects: []object{
			web("web"), slice("web", ep(1), ep(2), ep(3)), pod("p1", "v1"), pod("p2", "v1"), pod("p3", "v2"),
			split("web", share("web", 75, "v1"), share("web", 25, "v2")),
		}},
		{name: "split-to-nobody", objects: []object{web("web"), slice("web", ep(1)), split("web", share("web", 50, ""), share("gone", 50, ""))}},
		{name: "conflict", objects: []object{
			web("web", loadBalancer), slice("web", ep(1)),
			web("thief", loadBalancer, func(s *model.Service) { s.Created = time.Unix(1, 0); s.ClusterIPs = addrs("10.96.0.2") }), slice("thief", ep(2)),
		}},
		{name: "mistakes", objects: []object{
			web("none", func(s *model.Service) { s.Ports = nil }),
			web("strange", func(s *model.Service) { s.Ports[0].Protocol = "DCCP" }),
			web("twice", func(s *model.Service) { s.Ports = append(s.Ports, s.Ports[0]) }),
		}},
		{name: "ignored", objects: []object{
			web("headless", func(s *model.Service) { s.Headless = true }),
			web("external", func(s *model.Service) { s.Type = corev1.ServiceTypeExternalName }),
			web("other", func(s *model.Service) { s.Labels = map[string]string{labelProxyName: "other"} }),
		}},
		{name: "headless-label", objects: []object{
			web("hidden", func(s *model.Service) { s.Labels = map[string]string{corev1.IsHeadlessService: ""} }), slice("hidden", ep(1)),
			web("web"), named(slice("web", ep(1)), "seen", 1), labelled(slice("web", ep(2)), "hidden"),
		}},
		{name: "scheduler", objects: []object{web("web", func(s *model.Service) { s.Scheduler = "lc" }), slice("web", ep(1))}},
		{name: "service-cidrs", cfg: Config{ServiceCIDRs: prefixes("10.96.0.0/16")}, objects: []object{
			&model.ServiceCIDR{Meta: model.Meta{Name: "more"}, CIDRs: prefixes("10.97.0.0/16", "fd00:96::/108")},
			&model.ServiceCIDR{Meta: model.Meta{Name: "same"}, CIDRs: prefixes("10.96.0.0/16")},
		}},
		{name: "load-balancer-in-mode-proxy", objects: []object{web("web", loadBalancer, func(s *model.Service) { s.LoadBalancerIPs = nil }), slice("web", ep(1))}},
		{name: "load-balancer-without-node-ports", objects: []object{web("web", loadBalancer, externalPolicyLocal, func(s *model.Service) { s.Ports[0].NodePort = 0 }), slice("web", ep(1))}},
		{name: "both-policies-local", objects: []object{web("web", loadBalancer, externalPolicyLocal, func(s *model.Service) {
			s.InternalTrafficPolicy = corev1.ServiceInternalTrafficPolicyLocal
		}), slice("web", ep(2), ep(3, terminating))}},
		{name: "external-policy-local-terminating-only", objects: []object{web("web", loadBalancer, externalPolicyLocal), slice("web", ep(1, terminating), ep(2, terminating))}},
		{name: "terminating-that-do-not-serve", objects: []object{web("web"), slice("web", ep(1, terminating, notReady), ep(2, notReady))}},
		{name: "drained-by-weight", objects: []object{web("web"), named(slice("web", ep(1)), "drained", 0)}},
		{name: "drained-by-weight-but-one", objects: []object{web("web"), named(slice("web", ep(1)), "drained", 0), named(slice("web", ep(2, terminating)), "last", 1)}},
		{name: "hints-for-node-of-one-only", objects: []object{web("web"), slice("web", ep(1, forZone("a"), forNode("node1")), ep(3, forZone("a")))}},
		{name: "hints-do-not-concern-local", objects: []object{web("web", loadBalancer, externalPolicyLocal), slice("web",
			ep(1, forZone("b")), ep(2, forZone("a")), ep(3, forZone("b")))}},
		{name: "hints-with-terminating", objects: []object{web("web"), slice("web", ep(1, forZone("a"), terminating), ep(2, forZone("b")))}},
		{name: "udp", objects: []object{
			web("dns", func(s *model.Service) {
				s.Ports = []model.ServicePort{{Name: "t", Protocol: "TCP", Port: 53}, {Name: "u", Protocol: "UDP", Port: 53}, {Name: "s", Protocol: "SCTP", Port: 53}}
			}),
			func() object {
				s := slice("dns", ep(1), ep(2, terminating), ep(3, notReady))
				s.Ports = []model.EndpointPort{{Name: "t", Protocol: "TCP", Port: 5353}, {Name: "u", Protocol: "UDP", Port: 5354}, {Name: "s", Protocol: "SCTP", Port: 5355}}
				return s
			}(),
		}},
		{name: "ports-in-several-slices", objects: []object{
			web("web", func(s *model.Service) {
				s.Ports = append(s.Ports, model.ServicePort{Name: "admin", Protocol: "TCP", Port: 9090})
			}),
			slice("web", ep(1)),
			func() object {
				s := named(slice("web", ep(2)), "admin", 1)
				s.Ports[0] = model.EndpointPort{Name: "admin", Protocol: "TCP", Port: 9091}
				return s
			}(),
		}},
		{name: "external-ip-of-another-family", objects: []object{web("web", loadBalancer, func(s *model.Service) {
			s.ExternalIPs, s.LoadBalancerIPs = addrs("203.0.113.1", "2001:db8::1"), addrs("2001:db8::2")
		}), slice("web", ep(1))}},
		{name: "sources-of-another-family", objects: []object{web("web", loadBalancer, func(s *model.Service) {
			s.SourceRanges = prefixes("2001:db8::/32")
		}), slice("web", ep(1))}},
		{name: "endpoints-without-the-port", objects: []object{
			web("web", func(s *model.Service) { s.Ports[0].Name = "https" }), slice("web", ep(1)),
			web("none", func(s *model.Service) { s.ClusterIPs = addrs("10.96.0.2") }), func() object {
				s := slice("none", ep(1))
				s.Ports = nil
				return s
			}(),
		}},
		{name: "node-port-twice", objects: []object{
			web("web", loadBalancer, func(s *model.Service) {
				s.Ports = append(s.Ports, model.ServicePort{Name: "more", Protocol: "TCP", Port: 81, NodePort: 30080})
			}), slice("web", ep(1)),
			// Another protocol is another port.
			web("udp", loadBalancer, func(s *model.Service) {
				s.ClusterIPs, s.LoadBalancerIPs, s.Ports[0].Protocol = addrs("10.96.0.2"), nil, "UDP"
			}),
		}},
		{name: "detect-node-cidr", cfg: Config{DetectLocal: DetectNodeCIDR, ClusterCIDRs: prefixes("10.0.0.0/8")}, objects: []object{web("web"), slice("web", ep(1))}},
		{name: "detect-bridge", cfg: Config{DetectLocal: DetectBridgeInterface, PodInterfaces: []string{"cni0"}}},
		{name: "detect-interface-prefix", cfg: Config{DetectLocal: DetectInterfaceNamePrefix, PodInterfaces: []string{"veth", "cali"}}},
		{name: "node-ports-primary", cfg: Config{NodePorts: NodePortAddresses{Primary: true, Localhost: true}}},
		{name: "proxy-name", cfg: Config{ProxyName: "other"}, objects: []object{
			web("other", func(s *model.Service) { s.Labels = map[string]string{labelProxyName: "other"} }), ofProxy(slice("other", ep(1)), "other"),
			// kube-proxy selects Services and EndpointSlices by the same labels.
			web("unlabelled", func(s *model.Service) { s.ClusterIPs = addrs("10.96.0.2") }), named(slice("other", ep(2)), "unlabelled", 1),
			ofProxy(named(slice("other", ep(3)), "third", 1), "third"),
		}},
		{name: "proxy-name-empty", objects: []object{
			web("other", func(s *model.Service) { s.Labels = map[string]string{labelProxyName: ""} }), slice("other", ep(1)),
			web("web", func(s *model.Service) { s.ClusterIPs = addrs("10.96.0.2") }), slice("web", ep(2)), ofProxy(named(slice("web", ep(1)), "other", 1), ""),
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Node = "node1"
			golden(t, "plan/"+test.name, planOf(t, test.cfg, append(test.objects, node("node1", "a"))...).String())
		})
	}
}

func TestTrace(t *testing.T) {
	objects := []object{node("node1", "a"),
		web("web", loadBalancer, externalPolicyLocal, func(s *model.Service) { s.SourceRanges = prefixes("198.51.100.0/24", "10.244.0.0/16") }),
		named(slice("web", ep(1)), "x", 3), named(slice("web", ep(2)), "y", 1),
		web("empty", func(s *model.Service) { s.ClusterIPs = addrs("10.96.0.2") }),
		web("elsewhere", loadBalancer, externalPolicyLocal, func(s *model.Service) {
			s.ClusterIPs, s.LoadBalancerIPs, s.Ports[0].NodePort = addrs("10.96.0.3"), nil, 30081
		}), slice("elsewhere", ep(2))}
	type packet struct{ source, destination string }
	for _, test := range []struct {
		name    string
		cfg     Config
		packets []packet
	}{
		{"trace", Config{ClusterCIDRs: prefixes("10.244.0.0/16"), ServiceCIDRs: prefixes("10.96.0.0/16")}, []packet{
			{"10.244.0.9", "10.96.0.1:80"},
			{"10.244.0.1", "10.96.0.1:80"},
			{"", "10.96.0.1:80"},
			{"10.244.0.9", "10.96.0.2:80"},
			{"198.51.100.7", "192.0.2.1:80"},
			{"203.0.113.7", "192.0.2.1:80"},
			{"10.244.0.9", "192.0.2.1:80"},
			{"203.0.113.7", "10.240.0.11:30080"},
			{"203.0.113.7", "10.240.0.12:30080"},
			{"10.244.0.9", "10.96.0.1:81"},
			{"10.244.0.9", "10.96.0.9:80"},
			{"10.244.0.9", "192.0.2.1:81"},
			{"127.0.0.1", "127.0.0.1:30080"},
		}},
		{"trace-by-interface", Config{DetectLocal: DetectBridgeInterface, PodInterfaces: []string{"cni0"}, NodePorts: NodePortAddresses{All: true, Localhost: true}}, []packet{
			{"10.244.0.9", "10.96.0.1:80"},
			{"10.244.0.9", "10.240.0.11:30080"},
			{"", "10.96.0.1:80"},
			{"127.0.0.1", "127.0.0.1:30080"},
			{"127.0.0.1", "127.0.0.1:30081"},
			{"127.0.0.1", "127.0.0.1:30082"},
		}},
	} {
		test.cfg.Node = "node1"
		plan := planOf(t, test.cfg, objects...)
		var got string
		for _, p := range test.packets {
			var source netip.Addr
			if p.source != "" {
				source = netip.MustParseAddr(p.source)
			}
			got += Trace(plan, source, netip.MustParseAddrPort(p.destination), TCP).String()
		}
		golden(t, test.name, got)
	}
}

// TestCompare checks what is said of a kernel that does something else.
func TestCompare(t *testing.T) {
	plan := planOf(t, Config{Node: "node1", ClusterCIDRs: prefixes("10.244.0.0/16"), ServiceCIDRs: prefixes("10.96.0.0/16")},
		web("web"), slice("web", ep(1), ep(2)))
	trace := func(destination string) Decision {
		return Trace(plan, netip.MustParseAddr("10.244.0.9"), netip.MustParseAddrPort(destination), TCP)
	}
	choice := func(n byte, probability float64, masquerade bool) Choice {
		return Choice{Backend{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 0, n}), 8080)}, probability, masquerade}
	}
	for _, test := range []struct {
		to   string
		seen Observed
		want []string
	}{
		{"10.96.0.1:80", Observed{Found: true, Action: ToCluster, Choices: []Choice{choice(1, .5, false), choice(2, .502, false)}}, nil},
		{"10.96.0.1:80", Observed{}, []string{"the plan sends it to an endpoint, the kernel lets it go on unchanged"}},
		{"10.96.0.1:80", Observed{Found: true, Action: Drop, Refused: true}, []string{"the plan sends it to an endpoint, the kernel drops it for its source"}},
		{"10.96.0.1:80", Observed{Found: true, Action: ToCluster, Choices: []Choice{choice(1, .75, true), choice(3, .25, false)}}, []string{
			"10.244.0.1:8080: the plan gives it 50.0% of the connections, the kernel 75.0%",
			"10.244.0.1:8080: the kernel masquerades connections to it, the plan does not",
			"10.244.0.2:8080: the plan has this endpoint, the kernel does not",
			"10.244.0.3:8080: the kernel has this endpoint, the plan does not",
		}},
		{"10.96.0.1:81", Observed{Miss: UnknownPort, Action: Reject}, nil},
		{"10.96.0.1:81", Observed{}, []string{"the plan rejects it, as to a port that the Service does not have, the kernel lets it go on unchanged"}},
		{"10.96.0.7:80", Observed{Miss: Unallocated, Action: Drop}, nil},
		{"192.0.2.7:80", Observed{Found: true, Action: Reject}, []string{"the plan lets it go on unchanged, the kernel rejects it"}},
	} {
		if got := trace(test.to).Compare(test.seen); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.to, got, test.want)
		}
	}
}

// TestManyPorts plans a Service of 10,000 ports, and one that has none of them.
func TestManyPorts(t *testing.T) {
	const ports, perSlice = 10000, 100
	svc := web("web", loadBalancer)
	svc.Ports = nil
	var objects []object
	for i := range ports {
		name := fmt.Sprintf("p%d", i)
		svc.Ports = append(svc.Ports, model.ServicePort{Name: name, Protocol: "TCP", Port: uint16(1 + i), NodePort: uint16(20000 + i)})
		if i%perSlice == 0 {
			s := named(slice("web", ep(1), ep(2)), fmt.Sprintf("web-%d", i), 1)
			s.Ports = nil
			objects = append(objects, s)
		}
		s := objects[len(objects)-1].(*model.EndpointSlice)
		s.Ports = append(s.Ports, model.EndpointPort{Name: name, Protocol: "TCP", Port: uint16(30000 + i)})
	}
	other := *svc
	other.Name, other.ClusterIPs = "zzz", addrs("10.96.0.2") // claims the same NodePorts
	plan := planOf(t, Config{Node: "node1"}, append(objects, svc, &other, slice("zzz", ep(3)))...)
	s := plan.Service(model.Name{Namespace: "default", Name: "web"})
	if len(s.Ports) != ports || len(s.Problems) != 0 {
		t.Fatalf("%d ports and problems %v", len(s.Ports), s.Problems)
	}
	for i, p := range s.Ports {
		if len(p.Cluster) != 2 || p.Cluster[0].Port() != uint16(30000+i) || len(p.Frontends) != 3 {
			t.Fatalf("port %d is %+v", p.Port, p)
		}
	}
	lost := 0
	for _, p := range plan.Service(model.Name{Namespace: "default", Name: "zzz"}).Problems {
		if p.Lost != (FrontendKey{}) {
			lost++
		}
	}
	if lost != 2*ports {
		t.Errorf("the other Service lost %d frontends, want %d", lost, 2*ports)
	}
}
