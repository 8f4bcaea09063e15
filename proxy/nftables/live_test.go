package nftables

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

var (
	vip4Port = netip.AddrPortFrom(vip4, 80)
	vip6Port = netip.AddrPortFrom(vip6, 80)
)

// count returns how many of n connections each pod answers.
func (w *world) count(n int, to netip.AddrPort) map[string]int {
	seen := map[string]int{}
	for range n {
		name, _, _ := strings.Cut(w.ask(w.a.Namespace, "tcp", to), " ")
		seen[name]++
	}
	return seen
}

// TestWeights checks a canary of a split, and weights of slices. The bounds are
// six standard deviations away.
func TestWeights(t *testing.T) {
	w := newWorld(t, proxy.Config{})
	w.put(service("web", nil), w.b)
	w.put(service("canary", func(s *model.Service) { s.ClusterIPs = nil }), w.c)
	web, canary := model.Name{Namespace: "default", Name: "web"}, model.Name{Namespace: "default", Name: "canary"}
	w.update(func(tx *model.Txn) {
		model.Splits.Put(tx, &model.Split{
			Meta: model.Meta{Namespace: "default", Name: "web:80"}, Service: web, Port: 80, Protocol: corev1.ProtocolTCP,
			Backends: []model.SplitBackend{{Service: web, Port: 80, Weight: 90}, {Service: canary, Port: 80, Weight: 10}},
		})
	})
	for _, to := range []netip.AddrPort{vip4Port, vip6Port} {
		if seen := w.count(400, to); seen["c"] < 4 || seen["c"] > 76 || seen["b"]+seen["c"] != 400 {
			t.Errorf("of 400 connections at 90/10: %v", seen)
		}
	}
	w.update(func(tx *model.Txn) {
		tx.Delete(model.Key{Kind: model.KindSplit, Namespace: "default", Name: "web:80"})
		putSlices(tx, w.slicesOf("web", 3, w.b))
		for _, s := range w.slicesOf("web", 1, w.c) {
			s.Name += "-more"
			model.EndpointSlices.Put(tx, s)
		}
	})
	if seen := w.count(400, vip4Port); seen["c"] < 48 || seen["c"] > 152 || seen["b"]+seen["c"] != 400 {
		t.Errorf("of 400 connections at 3:1: %v", seen)
	}
	w.update(func(tx *model.Txn) { putSlices(tx, w.slicesOf("web", 0, w.b)) })
	if seen := w.count(40, vip4Port); seen["c"] != 40 {
		t.Errorf("of 40 connections with the other drained: %v", seen)
	}
}

// TestAffinity checks that a client stays, moves when its backend goes, and
// stays there.
func TestAffinity(t *testing.T) {
	w := newWorld(t, proxy.Config{})
	sticky := func(s *model.Service) {
		s.AffinityTimeout = time.Second
		s.Type = corev1.ServiceTypeNodePort
		s.Ports[0].NodePort, s.Ports[1].NodePort = 30080, 30080
	}
	for _, name := range []string{"vip", "node"} {
		for _, six := range []bool{false, true} {
			to := w.destination(name, six)
			long := service("web", sticky)
			long.AffinityTimeout = time.Hour
			w.put(long, w.b, w.c)
			first := w.count(20, to)
			if len(first) != 1 {
				t.Fatalf("%s: a client with affinity went to %v", to, first)
			}
			stays := w.b
			if first["b"] > 0 {
				stays = w.c
			}
			w.put(long, stays)
			if moved := w.count(10, to); moved[stays.Name()] != 10 {
				t.Errorf("%s: after its backend went, the client went to %v", to, moved)
			}
			w.put(long, w.b, w.c)
			if after := w.count(20, to); after[stays.Name()] != 20 {
				t.Errorf("%s: after another backend came, the client went to %v", to, after)
			}
			// Make the kernel forget.
			tx := service("web", nil)
			w.put(tx)
			w.nft("flush", "set", "ip", "sluice", "affinity")
			w.nft("flush", "set", "ip6", "sluice", "affinity")
		}
	}
	// One connection every 1.1 seconds is free to move each time.
	w.put(service("web", sticky), w.b, w.c)
	seen := map[string]bool{}
	for start := time.Now(); len(seen) < 2; time.Sleep(1100 * time.Millisecond) {
		name, _, _ := strings.Cut(w.ask(w.a.Namespace, "tcp", vip4Port), " ")
		seen[name] = true
		if time.Since(start) > 30*time.Second {
			t.Fatalf("after the affinity's timeout, the client still goes to %v only", seen)
		}
	}
}

// TestFlows checks that UDP clients leave an endpoint that is gone and nothing
// else, and that TCP connections go on.
func TestFlows(t *testing.T) {
	w := newWorld(t, proxy.Config{})
	w.put(service("web", nil), w.b, w.c)
	tcp, err := w.a.DialContext(t.Context(), "tcp", vip4Port.String())
	w.must(err)
	defer func() { _ = tcp.Close() }()
	at, _, _ := strings.Cut(exchange(tcp, 5*time.Second), " ")
	gone, stays := w.b, w.c
	if at == "c" {
		gone, stays = w.c, w.b
	}
	// A UDP flow to each.
	flows := map[string]net.Conn{}
	for range 100 {
		for _, to := range []netip.AddrPort{vip4Port, vip6Port} {
			conn, err := w.a.DialContext(t.Context(), "udp", to.String())
			w.must(err)
			name, _, _ := strings.Cut(exchange(conn, 5*time.Second), " ")
			key := name + to.Addr().String()
			if flows[key] != nil {
				_ = conn.Close()
				continue
			}
			flows[key] = conn
			defer func() { _ = conn.Close() }()
		}
		if len(flows) == 4 {
			break
		}
	}
	w.put(service("web", nil), stays)
	for key, conn := range flows {
		if got, _, _ := strings.Cut(exchange(conn, 5*time.Second), " "); got != stays.Name() {
			t.Errorf("the UDP flow of %s goes to %q, want %s", key, got, stays.Name())
		}
	}
	if got, _, _ := strings.Cut(exchange(tcp, 5*time.Second), " "); got != gone.Name() {
		t.Errorf("the TCP connection goes to %q, want %s", got, gone.Name())
	}
	before := w.entries(stays)
	w.put(service("web", nil)) // to nothing
	if left := w.entries(stays); left != 0 || before == 0 {
		t.Errorf("without endpoints, %d of %d UDP flows are left", left, before)
	}
	for key, conn := range flows {
		_ = exchange(conn, 50*time.Millisecond) // the ICMP error of the packet before may come first
		if got := exchange(conn, 200*time.Millisecond); got != refused && got != silence {
			t.Errorf("the UDP flow of %s goes to %q, without endpoints", key, got)
		}
	}
	w.put(service("web", nil), gone)
	for key, conn := range flows {
		got := refused
		for range 10 {
			if got = exchange(conn, 5*time.Second); got != refused {
				break
			}
		}
		if got, _, _ := strings.Cut(got, " "); got != gone.Name() {
			t.Errorf("the UDP flow of %s goes to %q, want %s", key, got, gone.Name())
		}
	}
}

// entries counts the UDP flows that a pod answers.
func (w *world) entries(pod interface{ IPv4() netip.Addr }) int {
	out, err := w.node1.Command(context.Background(), "cat", "/proc/net/nf_conntrack").CombinedOutput()
	if err != nil {
		w.t.Fatalf("list flows: %v\n%s", err, out)
	}
	n := 0
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "udp") && strings.Contains(line, "src="+pod.IPv4().String()+" ") {
			n++
		}
	}
	return n
}

// TestRestart restarts the engine many times under load and changes endpoints
// meanwhile: no connection may fail.
func TestRestart(t *testing.T) {
	w := newWorld(t, proxy.Config{})
	w.put(service("web", nil), w.b, w.c)
	ctx, cancel := context.WithCancel(t.Context())
	var sent, failed atomic.Int64
	done := make(chan struct{})
	for _, to := range []netip.AddrPort{vip4Port, vip6Port} {
		go func() {
			for ctx.Err() == nil {
				got := w.ask(w.a.Namespace, "tcp", to)
				if sent.Add(1); !strings.HasPrefix(got, "b ") && !strings.HasPrefix(got, "c ") {
					failed.Add(1)
					t.Errorf("%s: %s", to, got)
				}
			}
			done <- struct{}{}
		}()
	}
	for i := range 30 {
		switch i % 3 {
		case 0:
			w.put(service("web", nil), w.b)
		case 1:
			w.put(service("web", nil), w.b, w.c)
		case 2:
			// The process is killed; another one starts.
			_ = w.engine.Close()
			w.engine = w.newEngine()
			w.must(w.engine.Sync(t.Context(), w.plan))
		}
		if i%5 == 0 {
			w.engine.rested = time.Time{}
			_, err := w.engine.Verify(t.Context())
			w.must(err)
		}
		for before := sent.Load(); sent.Load() < before+10; {
			time.Sleep(time.Millisecond)
		}
	}
	cancel()
	<-done
	<-done
	t.Logf("%d connections, %d failed", sent.Load(), failed.Load())
}

// TestDrift changes the tables behind the engine's back.
func TestDrift(t *testing.T) {
	w := newWorld(t, proxy.Config{})
	w.put(service("web", func(s *model.Service) { s.AffinityTimeout = time.Hour }), w.b)
	w.put(service("other", func(s *model.Service) {
		s.ClusterIPs = []netip.Addr{netip.MustParseAddr("10.96.0.11")}
		s.Families = s.Families[:1]
	}), w.c)
	verify := func(want bool, after string) {
		t.Helper()
		w.engine.drift.looked = time.Time{}
		repaired, err := w.engine.Verify(t.Context())
		w.must(err)
		if repaired != want {
			t.Errorf("after %s: repaired is %v", after, repaired)
		}
		if got := w.ask(w.a.Namespace, "tcp", netip.MustParseAddrPort("10.96.0.11:80")); !strings.HasPrefix(got, "c ") {
			t.Errorf("after %s: %s", after, got)
		}
	}
	verify(false, "nothing")
	w.nft("add", "table", "ip", "foreign")
	verify(false, "a table of somebody else")
	for _, damage := range []string{
		"delete element ip sluice services { 10.96.0.11 . tcp . 80 }",
		"flush map ip sluice slots",
		"flush chain ip sluice services",
		"flush set ip sluice pods",
		"delete table ip sluice",
		"flush ruleset",
	} {
		w.nft(strings.Fields(damage)...)
		verify(true, damage)
		verify(false, "repair of "+damage)
	}
	// An update just after damage fails, and the Sync that follows repairs.
	w.nft("flush", "map", "ip", "sluice", "services")
	w.store.Update(func(tx *model.Txn) {
		tx.Delete(model.Key{Kind: model.KindService, Namespace: "default", Name: "web"})
	})
	up, err := w.watch.Next(t.Context())
	w.must(err)
	changes := w.planner.Update(up)
	if w.engine.Apply(t.Context(), changes) == nil {
		t.Error("deleting what is not there is said to have worked")
	}
	w.must(w.engine.Sync(t.Context(), changes.New))
	verify(false, "a failure")
}

// TestListing has nft print the tables, load what it printed, and print the same.
func TestListing(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skipf("no nft to load the listing with: %v", err)
	}
	w := newWorld(t, proxy.Config{Node: "node1", ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		NodePorts: proxy.NodePortAddresses{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.240.0.0/24"), netip.MustParsePrefix("fd00:10:240::/64")}}})
	w.traffic = true
	w.engine = w.newEngine()
	w.must(w.engine.Sync(t.Context(), w.plan))
	w.put(service("web", func(s *model.Service) {
		s.Type = corev1.ServiceTypeLoadBalancer
		s.LoadBalancerIPs = []netip.Addr{lb4, lb6}
		s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.250.0.0/24"), netip.MustParsePrefix("fd00:10:250::/64")}
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Ports[0].NodePort = 30080
		s.AffinityTimeout = time.Hour
	}), w.b, w.c)
	w.put(service("more", func(s *model.Service) {
		s.ClusterIPs = []netip.Addr{netip.MustParseAddr("10.96.0.11"), netip.MustParseAddr("fd00:10:96::11")}
		s.Type = corev1.ServiceTypeNodePort
		s.Ports[1].NodePort = 30053
	}), w.a, w.b, w.c)
	_ = w.ask(w.a.Namespace, "tcp", vip4Port) // one client that is remembered
	_ = w.ask(w.a.Namespace, "tcp", vip6Port)
	first := w.nft("list", "ruleset")
	if !strings.Contains(first, "elements") || !strings.Contains(w.nft("-j", "list", "ruleset"), `"numgen"`) {
		t.Errorf("nft prints\n%s", first)
	}
	w.reloadJSON()
	file := t.TempDir() + "/ruleset"
	w.must(os.WriteFile(file, []byte("flush ruleset\n"+first), 0o600))
	w.nft("-f", file)
	// What is loaded again must work, and be taken over as it is.
	if got := w.ask(w.client.Namespace, "tcp", netip.AddrPortFrom(w.node1.IPv6(), 30080)); !strings.HasPrefix(got, "b ") {
		t.Errorf("after loading the listing: %s", got)
	}
	w.engine = w.newEngine()
	w.must(w.engine.Sync(t.Context(), w.plan))
	found, err := w.engine.everything(t.Context())
	w.must(err)
	w.must(matches(found, w.engine, w.plan))
}

// TestNodePortAddresses checks that other local addresses do not answer.
func TestNodePortAddresses(t *testing.T) {
	w := newWorld(t, proxy.Config{Node: "node1", NodePorts: proxy.NodePortAddresses{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.240.0.11/32")}}})
	w.must(w.node1.AddAddress(netip.MustParsePrefix("10.240.0.111/24")))
	w.put(service("web", func(s *model.Service) {
		s.Type = corev1.ServiceTypeNodePort
		s.Ports[0].NodePort = 30080
	}), w.b)
	for to, want := range map[string]string{"10.240.0.11:30080": "b", "10.240.0.111:30080": refused, "[fd00:10:240::11]:30080": "b"} {
		if got, _, _ := strings.Cut(w.ask(w.client.Namespace, "tcp", netip.MustParseAddrPort(to)), " "); got != want {
			t.Errorf("%s: got %s, want %s", to, got, want)
		}
	}
	if got := w.ask(w.node1.Namespace, "tcp", netip.MustParseAddrPort("127.0.0.1:30080")); got != refused {
		t.Errorf("loopback: got %s, want %s", got, refused)
	}
}

// TestCleanup checks that an engine that knows nothing removes everything.
func TestCleanup(t *testing.T) {
	w := newWorld(t, proxy.Config{})
	w.put(service("web", nil), w.b)
	for range 2 {
		w.must(w.newEngine().Cleanup(t.Context()))
		if left := w.nft("list", "ruleset"); left != "" {
			t.Errorf("left behind:\n%s", left)
		}
	}
}

// TestOtherLayout takes over from a version whose tables are not ours.
func TestOtherLayout(t *testing.T) {
	w := newWorld(t, proxy.Config{})
	w.nft("flush", "ruleset")
	w.nft("add table ip sluice; add map ip sluice services { type ipv4_addr : verdict; }; add chain ip sluice old")
	w.engine = w.newEngine()
	w.must(w.engine.Sync(t.Context(), w.plan))
	w.put(service("web", nil), w.b)
	if got := w.ask(w.a.Namespace, "tcp", vip4Port); !strings.HasPrefix(got, "b ") {
		t.Error(got)
	}
}

// TestProbe checks that probing changes nothing.
func TestProbe(t *testing.T) {
	w := newWorld(t, proxy.Config{})
	w.put(service("web", nil), w.b)
	before := w.nft("list", "ruleset")
	w.must(probe(Options{NetNS: w.node1.FD()}))
	if after := w.nft("list", "ruleset"); after != before {
		t.Errorf("probing changed the rules:\n%s", after)
	}
}

// TestRun drives the engine from a model, as a node does: an edit is in force
// when it is reported as applied.
func TestRun(t *testing.T) {
	w := newWorld(t, proxy.Config{})
	store := model.NewStore()
	store.Update(func(tx *model.Txn) {
		model.Services.Put(tx, service("web", nil))
		putSlices(tx, w.slicesOf("web", 1, w.b))
		tx.MarkSynced(model.KindService)
		tx.MarkSynced(model.KindEndpointSlice)
	})
	ctx, cancel := context.WithCancel(t.Context())
	applied, done := make(chan uint64, 16), make(chan error)
	go func() {
		done <- proxy.Run(ctx, proxy.Options{
			Updates: store.Watch(), Planner: proxy.NewPlanner(proxy.Config{Node: "node1"}), Engine: w.engine, Flows: w.flows,
			Log: testLog(t), Applied: func(p *proxy.Plan, _ []proxy.Change) { applied <- p.Revision },
		})
	}()
	<-applied
	for _, pod := range []*lab.Pod{w.c, w.b, w.c} {
		store.Update(func(tx *model.Txn) { putSlices(tx, w.slicesOf("web", 1, pod)) })
		for revision := range applied {
			if revision == store.Snapshot().Revision() {
				break
			}
		}
		for _, network := range []string{"tcp", "udp"} {
			if got, _, _ := strings.Cut(w.ask(w.a.Namespace, network, vip6Port), " "); got != pod.Name() {
				t.Errorf("%s: got %s, want %s", network, got, pod.Name())
			}
		}
	}
	cancel()
	<-done
}
