package nftables

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

func inCluster(edit func(*proxy.Config)) proxy.Config {
	cfg := proxy.Config{Node: "node1",
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")}}
	if edit != nil {
		edit(&cfg)
	}
	return cfg
}

// TestUnserved sends packets to ports that a Service does not have, and to
// addresses that no Service has.
func TestUnserved(t *testing.T) {
	w := newWorld(t, inCluster(nil))
	w.put(service("web", nil), w.b)
	for _, network := range []string{"tcp", "udp"} {
		for to, want := range map[string]string{
			"10.96.0.10:81": refused, "[fd00:10:96::10]:81": refused,
			"10.96.0.77:80": silence, "[fd00:10:96::77]:80": silence,
			"10.96.0.10:80": "b", "[fd00:10:96::10]:80": "b",
		} {
			if got, _, _ := strings.Cut(w.attempt(w.a.Namespace, network, netip.MustParseAddrPort(to)), " "); got != want {
				t.Errorf("pod: %s %s: got %s, want %s", network, to, got, want)
			}
			// A packet that the node drops of its own is refused in its sender's face.
			got, _, _ := strings.Cut(w.attempt(w.node1.Namespace, network, netip.MustParseAddrPort(to)), " ")
			if got != want && (network != "udp" || want != silence || got != refused) {
				t.Errorf("node: %s %s: got %s, want %s", network, to, got, want)
			}
		}
	}
	if got := w.ask(w.client.Namespace, "tcp", netip.MustParseAddrPort("10.96.0.10:81")); got != refused {
		t.Errorf("client: got %s, want %s", got, refused)
	}
	// An address that the node has itself is the node's business.
	w.must(w.node1.AddAddress(netip.MustParsePrefix("10.96.0.53/32")))
	ln, err := w.node1.Listen("tcp", "10.96.0.53:9153")
	w.must(err)
	defer func() { _ = ln.Close() }()
	go func() {
		if c, err := ln.Accept(); err == nil {
			_, _ = c.Write([]byte("node"))
			_ = c.Close()
		}
	}()
	if got := w.ask(w.a.Namespace, "tcp", netip.MustParseAddrPort("10.96.0.53:9153")); got != "node" {
		t.Errorf("an address of the node in a range of ClusterIPs: got %s", got)
	}
}

// TestEarlyClient begins a connection before its Service is there, and counts on
// the next packet that the client sends.
func TestEarlyClient(t *testing.T) {
	w := newWorld(t, inCluster(nil))
	for _, to := range []netip.AddrPort{vip4Port, vip6Port} {
		w.update(func(tx *model.Txn) {
			tx.Delete(model.Key{Kind: model.KindService, Namespace: "default", Name: "web"})
			putSlices(tx, w.slicesOf("other", 1, w.c)) // so that there is a change at all
		})
		early := make(chan string)
		go func() { early <- w.ask(w.a.Namespace, "tcp", to) }()
		udp, err := w.a.DialContext(t.Context(), "udp", to.String())
		w.must(err)
		if got := exchange(udp, 300*time.Millisecond); got != silence {
			t.Errorf("udp %s: without a Service, got %s", to, got)
		}
		w.put(service("web", nil), w.b)
		if got := <-early; !strings.HasPrefix(got, "b ") {
			t.Errorf("tcp %s: the early connection got %s", to, got)
		}
		if got := exchange(udp, 5*time.Second); !strings.HasPrefix(got, "b ") {
			t.Errorf("udp %s: the early flow got %s", to, got)
		}
		_ = udp.Close()
	}
}

// TestAffinityOfAllFrontends checks that a client has one backend by whatever
// frontend it comes, and another Service's backend on its own.
func TestAffinityOfAllFrontends(t *testing.T) {
	w := newWorld(t, inCluster(nil))
	w.must(w.node1.AddAddress(netip.MustParsePrefix("10.240.0.111/24")))
	w.must(w.node1.AddAddress(netip.MustParsePrefix("fd00:10:240::111/64")))
	w.put(service("web", func(s *model.Service) {
		s.Type, s.AffinityTimeout = corev1.ServiceTypeLoadBalancer, time.Hour
		s.LoadBalancerIPs = []netip.Addr{lb4, lb6}
		s.Ports[0].NodePort, s.Ports[1].NodePort = 30080, 30080
	}), w.a, w.b, w.c)
	for _, network := range []string{"tcp", "udp"} {
		for _, to := range [][]string{
			{"10.96.0.10:80", "10.97.0.10:80", "10.240.0.11:30080", "10.240.0.111:30080"},
			{"[fd00:10:96::10]:80", "[fd00:10:97::10]:80", "[fd00:10:240::11]:30080", "[fd00:10:240::111]:30080"},
		} {
			seen := map[string]bool{}
			for range 8 {
				for _, addr := range to {
					name, _, _ := strings.Cut(w.ask(w.client.Namespace, network, netip.MustParseAddrPort(addr)), " ")
					seen[name] = true
				}
			}
			if len(seen) != 1 {
				t.Errorf("%s %s: a client went to %v", network, to[0], seen)
			}
			// It is remembered across a restart.
			_ = w.engine.Close()
			w.engine = w.newEngine()
			w.must(w.engine.Sync(t.Context(), w.plan))
			for _, addr := range to {
				if name, _, _ := strings.Cut(w.ask(w.client.Namespace, network, netip.MustParseAddrPort(addr)), " "); !seen[name] {
					t.Errorf("%s %s: after a restart, the client went to %s, before to %v", network, addr, name, seen)
				}
			}
		}
	}
}

// TestPodsByInterface checks who is masqueraded, and who gets around the
// external traffic policy, where Pods are told by their interface.
func TestPodsByInterface(t *testing.T) {
	for name, cfg := range map[string]proxy.Config{
		"prefix": inCluster(func(c *proxy.Config) {
			c.DetectLocal, c.PodInterfaces = proxy.DetectInterfaceNamePrefix, []string{"nothing", "pod"}
		}),
		"exact": inCluster(func(c *proxy.Config) {
			c.DetectLocal, c.PodInterfaces = proxy.DetectBridgeInterface, []string{"pod0", "pod1", "pod2"}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, cfg)
			w.put(service("web", func(s *model.Service) {
				s.Type = corev1.ServiceTypeLoadBalancer
				s.LoadBalancerIPs = []netip.Addr{lb4, lb6}
				s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			}), w.c)
			for _, six := range []bool{false, true} {
				for _, network := range []string{"tcp", "udp"} {
					w.check(w.a.Namespace, network, w.destination("vip", six), answers{"c", asA}, six)
					w.check(w.a.Namespace, network, w.destination("lb", six), answers{"c", asA}, six)
					w.check(w.node1.Namespace, network, w.destination("vip", six), answers{"c", asNode}, six)
					w.check(w.client.Namespace, network, w.destination("vip", six), answers{"c", asNode}, six)
					w.check(w.client.Namespace, network, w.destination("lb", six), answers{silence, nil}, six)
				}
			}
			w.reload()
		})
	}
}

// reload has nft load what it lists.
func (w *world) reload() {
	w.t.Helper()
	_ = w.nft("-j", "list", "ruleset")
	first := w.nft("list", "ruleset")
	file := w.t.TempDir() + "/ruleset"
	w.must(os.WriteFile(file, []byte("flush ruleset\n"+first), 0o600))
	w.nft("-f", file)
	if again := w.nft("list", "ruleset"); again != first {
		w.t.Errorf("loaded again, the listing\n%s\nis\n%s", first, again)
	}
}

// TestCount checks that connections are counted, and that the counts survive
// changes of the Service and a restart.
func TestCount(t *testing.T) {
	w := newWorld(t, inCluster(nil))
	web := service("web", func(s *model.Service) {
		s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
	})
	node := netip.AddrPortFrom(w.node1.IPv4(), 30080)
	want := map[proxy.FrontendKey]uint64{}
	key := func(addr netip.Addr, family proxy.Family, port uint16) proxy.FrontendKey {
		return proxy.FrontendKey{Addr: addr, Family: family, Protocol: proxy.TCP, Port: port}
	}
	check := func(after string) {
		t.Helper()
		got := map[proxy.FrontendKey]uint64{}
		w.must(w.engine.Count(t.Context(), func(k proxy.FrontendKey, traffic proxy.Traffic) { got[k] = traffic.Connections }))
		for k, n := range want {
			if got[k] != n {
				t.Errorf("after %s: %s had %d connections, want %d", after, k, got[k], n)
			}
		}
		if len(got) != len(want) {
			t.Errorf("after %s: counted %v, want %v", after, got, want)
		}
	}
	for _, step := range []struct {
		name string
		pods int
	}{{"the first endpoint", 1}, {"the second", 2}, {"the last has gone", 0}, {"they are back", 3}} {
		w.put(web, w.pods()[:step.pods]...)
		for range 3 {
			for _, to := range []netip.AddrPort{vip4Port, vip6Port, node} {
				_ = w.ask(w.client.Namespace, "tcp", to)
			}
		}
		want[key(vip4, proxy.IPv4, 80)] += 3
		want[key(vip6, proxy.IPv6, 80)] += 3
		want[key(netip.Addr{}, proxy.IPv4, 30080)] += 3
		check(step.name)
	}
	w.engine = w.newEngine()
	w.must(w.engine.Sync(t.Context(), w.plan))
	check("a restart")
}

// TestTraffic checks that whole connections are counted where that is asked for,
// and no more once it is not.
func TestTraffic(t *testing.T) {
	w := newWorld(t, inCluster(nil))
	counting := func(traffic bool) {
		e, err := New(Options{NetNS: w.node1.FD(), Traffic: traffic, Log: testLog(t)})
		w.must(err)
		t.Cleanup(func() { _ = e.Close() })
		w.engine = e
		w.must(e.Sync(t.Context(), w.plan))
	}
	counting(true)
	w.put(service("web", func(s *model.Service) {
		s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
	}), w.b, w.c)
	ask := func() map[proxy.FrontendKey]proxy.Traffic {
		t.Helper()
		for _, from := range []*lab.Namespace{w.a.Namespace, w.node1.Namespace} {
			for _, to := range []netip.AddrPort{vip4Port, vip6Port, netip.AddrPortFrom(w.node1.IPv4(), 30080)} {
				if got := w.ask(from, "tcp", to); !strings.HasPrefix(got, "b ") && !strings.HasPrefix(got, "c ") {
					t.Errorf("%s: %s", to, got)
				}
			}
		}
		all := map[proxy.FrontendKey]proxy.Traffic{}
		w.must(w.engine.Count(t.Context(), func(k proxy.FrontendKey, traffic proxy.Traffic) { all[k] = traffic }))
		return all
	}
	got := ask()
	for k, traffic := range got {
		// A connection has three packets to begin, four with data, and at least two to end.
		if traffic.Connections != 2 || traffic.Packets < 14 || traffic.Packets > 40 || traffic.Bytes < 14*40 {
			t.Errorf("%s: got %+v", k, traffic)
		}
	}
	if len(got) != 3 {
		t.Errorf("counted %v", got)
	}
	w.put(service("other", func(s *model.Service) { s.ClusterIPs, s.Families = s.ClusterIPs[:1], s.Families[:1] }), w.a)
	w.reload()
	counting(false)
	w.engine.rested = time.Time{}
	_, err := w.engine.Verify(t.Context())
	w.must(err)
	for k, traffic := range ask() {
		if traffic.Connections != 4 || traffic.Packets != 0 {
			t.Errorf("without counting, %s: got %+v", k, traffic)
		}
	}
	if rules := w.nft("list", "ruleset"); strings.Contains(rules, chainTraffic) {
		t.Errorf("chains that count are left:\n%s", rules)
	}
}

// TestOtherVersion takes over the table of an older version under load. No
// connection may fail.
func TestOtherVersion(t *testing.T) {
	w := newWorld(t, inCluster(func(c *proxy.Config) { c.ServiceCIDRs = nil }))
	nodePort := func(s *model.Service) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080 }
	w.put(service("web", nodePort), w.b, w.c)
	w.put(service("sticky", func(s *model.Service) {
		s.ClusterIPs = []netip.Addr{netip.MustParseAddr("10.96.0.11"), netip.MustParseAddr("fd00:10:96::11")}
		s.AffinityTimeout = time.Hour
	}), w.b, w.c)
	old, err := os.ReadFile("testdata/layout-1.nft")
	w.must(err)
	file := t.TempDir() + "/old"
	w.must(os.WriteFile(file, append([]byte("flush ruleset\n"), old...), 0o600))
	w.nft("-f", file)

	ctx, cancel := context.WithCancel(t.Context())
	var sent atomic.Int64
	done := make(chan struct{})
	targets := []netip.AddrPort{vip4Port, vip6Port, netip.MustParseAddrPort("10.96.0.11:80"), netip.AddrPortFrom(w.node1.IPv4(), 30080)}
	for _, to := range targets {
		go func() {
			for ctx.Err() == nil {
				if got := w.ask(w.client.Namespace, "tcp", to); !strings.HasPrefix(got, "b ") && !strings.HasPrefix(got, "c ") {
					t.Errorf("%s: %s", to, got)
				}
				sent.Add(1)
			}
			done <- struct{}{}
		}()
	}
	more := func() {
		for before := sent.Load(); sent.Load() < before+40; {
			time.Sleep(time.Millisecond)
		}
	}
	for range 3 {
		w.nft("-f", file)
		more()
		w.engine = w.newEngine()
		w.engine.budget = 1 << 10 // many transactions
		w.must(w.engine.Sync(t.Context(), w.plan))
		more()
		if tables := w.nft("list", "tables"); strings.Contains(tables, spareName) || strings.Count(tables, tableName) != 2 {
			t.Errorf("afterwards there are\n%s", tables)
		}
	}
	// A process that ends in the middle leaves the spare table; the next goes on.
	w.nft("-f", file)
	half := w.newEngine()
	half.budget = 1 << 10
	half.sock = &failing{kernel: half.sock, after: 5}
	if err := half.Sync(t.Context(), w.plan); err == nil {
		t.Error("a takeover that fails in the middle is said to have worked")
	}
	more()
	w.engine = w.newEngine()
	w.must(w.engine.Sync(t.Context(), w.plan))
	more()
	cancel()
	for range targets {
		<-done
	}
	found, err := w.engine.everything(t.Context())
	w.must(err)
	w.must(matches(found, w.engine, w.plan))
	if tables := w.nft("list", "tables"); strings.Contains(tables, spareName) {
		t.Errorf("in the end there are\n%s", tables)
	}
	t.Logf("%d connections", sent.Load())
}
