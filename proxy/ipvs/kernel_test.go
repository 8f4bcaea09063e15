package ipvs

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/vm"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// TestKernel runs in a guest where this machine's kernel has no IPVS.
func TestKernel(t *testing.T) {
	if !vm.Here(t, Probe) {
		return
	}
	for name, test := range map[string]func(*testing.T){
		"Schedulers": testSchedulers, "Drain": testDrain, "Restart": testRestart, "Repair": testRepair,
		"Cleanup": testCleanup, "Source": testSource, "Count": testCount, "Trace": testTrace, "Addresses": testAddresses, "Listing": testListing,
	} {
		t.Run(name, test)
	}
}

const (
	vip4 = "10.96.0.10:80"
	vip6 = "[fd00:10:96::10]:80"
)

// tcp is a Service with a TCP port and a NodePort.
func tcp(edit func(*model.Service)) *model.Service {
	return web(func(s *model.Service) {
		s.Type = corev1.ServiceTypeNodePort
		s.Ports = s.Ports[:1]
		s.Ports[0].NodePort = 30080
		if edit != nil {
			edit(s)
		}
	})
}

func testSchedulers(t *testing.T) {
	w := newWorld(t, Options{})
	for _, name := range Schedulers() {
		w.put(tcp(func(s *model.Service) { s.Scheduler = name }), w.b, w.c)
		want, said := name, ""
		if !w.engine.available(name) { // Debian's kernels have no twos
			want, said = "rr", "SchedulerUnavailable"
		}
		list, err := w.engine.kernel.servers()
		w.must(err)
		for id, s := range list {
			if s.scheduler != want {
				t.Errorf("%s has %s, want %s", id, s.scheduler, want)
			}
		}
		reason := ""
		for _, p := range w.engine.Problems(model.Name{Namespace: "default", Name: "web"}) {
			reason = p.Reason
		}
		if reason != said {
			t.Errorf("%s: the problem is %q, want %q", name, reason, said)
		}
		if len(list) != 4 {
			t.Errorf("%d virtual servers, want 4", len(list))
		}
		for _, to := range []string{vip4, vip6, w.node.IPv4().String() + ":30080"} {
			w.answers(w.client.Namespace, to, "b", "c")
		}
		w.put(tcp(func(s *model.Service) { s.Scheduler = name }), w.c)
		w.answers(w.client.Namespace, vip4, "c")
	}
}

// testDrain keeps connections whose endpoint is gone, and those of a Service that
// is, until their time has come.
func testDrain(t *testing.T) {
	w := newWorld(t, Options{})
	w.put(tcp(nil), w.b)
	conn, err := w.open(w.a.Namespace, vip4)
	w.must(err)
	_, err = say(conn)
	w.must(err)
	w.put(tcp(nil), w.c)
	for range 5 {
		w.answers(w.a.Namespace, vip4, "c")
	}
	w.update(func(tx *model.Txn) { tx.Delete(model.Key{Kind: model.KindService, Namespace: "default", Name: "web"}) })
	if answer, err := say(conn); err != nil || !strings.HasPrefix(answer, "b ") {
		t.Errorf("the old connection: %q, %v", answer, err)
	}
	if _, err := w.engine.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if answer, err := say(conn); err != nil || !strings.HasPrefix(answer, "b ") {
		t.Errorf("the old connection after a look: %q, %v", answer, err)
	}
	w.must(w.engine.finishDrains(t.Context(), time.Now().Add(time.Hour)))
	list, err := w.engine.kernel.servers()
	w.must(err)
	if bound, _ := w.engine.kernel.addresses(); len(list) > 0 || len(bound.ours) > 0 {
		t.Errorf("after their time there are servers %v and addresses %v", list, bound.ours)
	}
}

// testRestart starts the engine again and again under load and changes endpoints:
// no connection may fail, and an old one goes on.
func testRestart(t *testing.T) {
	w := newWorld(t, Options{})
	w.put(tcp(nil), w.b, w.c)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	old, err := w.open(w.client.Namespace, vip6)
	w.must(err)
	first, err := say(old)
	w.must(err)
	var done [3]chan struct{}
	var sent atomic.Int64
	targets := []string{vip4, vip6, w.node.IPv4().String() + ":30080"}
	for i, to := range targets {
		done[i] = make(chan struct{})
		go func() {
			defer close(done[i])
			for ctx.Err() == nil {
				sent.Add(1)
				if answer := w.ask(w.client.Namespace, to); !strings.HasPrefix(answer, "b ") && !strings.HasPrefix(answer, "c ") && ctx.Err() == nil {
					t.Errorf("%s: %s", to, answer)
				}
			}
		}()
	}
	for i := range 9 {
		// What a killed process leaves is what it had made: it removes nothing.
		w.start(Options{})
		switch i % 3 {
		case 0:
			w.put(tcp(nil), w.b)
		case 1:
			w.put(tcp(nil), w.c, w.b)
		case 2:
			w.put(tcp(nil), w.c)
		}
		if _, err := w.engine.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		// Every change is met by connections.
		for before := sent.Load(); sent.Load() < before+6 && !t.Failed(); {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if answer, err := say(old); err != nil || answer != first {
		t.Errorf("the old connection: %q, %v, want %q", answer, err, first)
	}
	cancel()
	for _, d := range done {
		<-d
	}
	t.Logf("%d connections", sent.Load())
}

func testRepair(t *testing.T) {
	w := newWorld(t, Options{})
	w.put(tcp(nil), w.b, w.c)
	if repaired, err := w.engine.Verify(t.Context()); err != nil || repaired {
		t.Fatalf("verify: repaired %v, %v", repaired, err)
	}
	for name, damage := range map[string]func() error{
		"virtual servers": w.engine.kernel.(*system).ipvs.Flush,
		"interface":       w.engine.kernel.deleteLink,
		"tables":          func() error { w.run("nft", "flush", "ruleset"); return nil },
		"map":             func() error { w.run("nft", "flush", "map", "ip", tableName, "services"); return nil },
		"a rule": func() error {
			w.run("nft", "insert", "rule", "ip", tableName, "services", "ip", "daddr", "10.96.0.10", "drop")
			return nil
		},
		"a destination": func() error {
			return w.engine.kernel.deleteDestination(serverID{family: proxy.IPv4, protocol: proxy.TCP, addr: netip.MustParseAddrPort(vip4)},
				netip.AddrPortFrom(w.b.IPv4(), 8080))
		},
	} {
		w.must(damage())
		w.engine.drift.took = 0
		if repaired, err := w.engine.Verify(t.Context()); err != nil || !repaired {
			t.Errorf("%s: verify: repaired %v, %v", name, repaired, err)
		}
		for _, to := range []string{vip4, vip6, w.node.IPv4().String() + ":30080"} {
			w.answers(w.client.Namespace, to, "b", "c")
		}
		if repaired, err := w.engine.Verify(t.Context()); err != nil || repaired {
			t.Errorf("%s: verify after the repair: repaired %v, %v", name, repaired, err)
		}
	}
}

// testCleanup removes everything of ours, by an engine that knows nothing, and
// nothing of others.
func testCleanup(t *testing.T) {
	w := newWorld(t, Options{})
	other := serverID{family: proxy.IPv4, protocol: proxy.TCP, addr: netip.MustParseAddrPort("172.16.0.1:80")}
	marked := serverID{family: proxy.IPv4, mark: 0x77770000}
	for _, id := range []serverID{other, marked} {
		w.must(w.engine.kernel.addServer(id, settings{scheduler: "rr"}))
	}
	w.run("nft", "add", "table", "ip", "other")
	w.put(tcp(external), w.b, w.c)
	w.plan = nil
	w.start(Options{})
	w.must(w.engine.Cleanup(t.Context()))
	list, err := w.engine.kernel.servers()
	w.must(err)
	if _, ok := list[other]; !ok || len(list) != 2 {
		t.Errorf("virtual servers after a cleanup: %v", list)
	}
	if out := w.run("nft", "list", "tables"); strings.TrimSpace(out) != "table ip other" {
		t.Errorf("tables after a cleanup: %s", out)
	}
	if bound, err := w.engine.kernel.addresses(); err != nil || len(bound.ours) > 0 {
		t.Errorf("addresses after a cleanup: %v, %v", bound.ours, err)
	}
	w.must(w.engine.Cleanup(t.Context())) // again
}

// testSource has the node itself connect: its end of the connection has an address
// that stays when a Service's goes.
func testSource(t *testing.T) {
	w := newWorld(t, Options{})
	w.put(tcp(nil), w.b, w.c)
	for to, want := range map[string]netip.Addr{vip4: w.node.IPv4(), vip6: w.node.IPv6()} {
		conn, err := w.open(w.node.Namespace, to)
		w.must(err)
		if got := netip.MustParseAddrPort(conn.LocalAddr().String()).Addr(); got != want {
			t.Errorf("the node connects to %s from %s, want %s", to, got, want)
		}
		if answer, err := say(conn); err != nil {
			t.Errorf("%s: %q, %v", to, answer, err)
		}
	}
}

func testCount(t *testing.T) {
	w := newWorld(t, Options{})
	w.put(tcp(nil), w.b, w.c)
	for range 5 {
		w.answers(w.client.Namespace, vip4, "b", "c")
	}
	for range 3 {
		w.answers(w.client.Namespace, w.node.IPv4().String()+":30080", "b", "c")
	}
	vip := proxy.FrontendKey{Addr: netip.MustParseAddr("10.96.0.10"), Family: proxy.IPv4, Protocol: proxy.TCP, Port: 80}
	nodePort := proxy.FrontendKey{Family: proxy.IPv4, Protocol: proxy.TCP, Port: 30080}
	counts := map[proxy.FrontendKey]proxy.Traffic{}
	// The kernel adds up what its processors counted every two seconds.
	for start := time.Now(); time.Since(start) < patience; time.Sleep(100 * time.Millisecond) {
		w.must(w.engine.Count(t.Context(), func(k proxy.FrontendKey, c proxy.Traffic) { counts[k] = c }))
		if c := counts[vip]; c.Connections == 5 && c.Packets >= 40 && c.Bytes >= 1600 && len(counts) == 2 && counts[nodePort].Connections == 3 {
			return
		}
	}
	t.Errorf("counts are %v", counts)
}

// testTrace compares what the kernel says with the plan.
func testTrace(t *testing.T) {
	w := newWorld(t, Options{})
	w.put(tcp(func(s *model.Service) {
		external(s)
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.250.0.0/24"), netip.MustParsePrefix("10.244.0.0/16")}
	}), w.b, w.c)
	for _, to := range []string{vip4, vip6, "10.96.0.10:81", "10.97.0.10:80", "10.98.0.1:80", "10.98.0.1:81", w.node.IPv4().String() + ":30080", "192.0.2.1:80"} {
		for _, from := range []netip.Addr{w.a.IPv4(), w.b.IPv4(), w.client.IPv4(), netip.MustParseAddr("192.0.2.7"), {}} {
			destination := netip.MustParseAddrPort(to)
			if from.IsValid() && from.Is4() != destination.Addr().Is4() {
				continue
			}
			if to == "10.98.0.1:81" {
				continue // an address that is bound refuses its other ports, the plan leaves them alone
			}
			d := proxy.Trace(w.plan, from, destination, proxy.TCP)
			o, err := w.engine.Trace(t.Context(), d)
			w.must(err)
			if said := d.Compare(o); len(said) > 0 {
				t.Errorf("%s -> %s: %s\n%s", from, to, strings.Join(said, "; "), strings.Join(o.Rules, "\n"))
			}
		}
	}
	o, err := w.engine.Trace(t.Context(), proxy.Trace(w.plan, w.a.IPv4(), netip.MustParseAddrPort(vip4), proxy.TCP))
	w.must(err)
	if got := strings.Join(o.Rules, "\n"); !strings.HasPrefix(got, "ip sluice-ipvs map services { 10.96.0.10 . tcp . 80 : goto service-cluster }\nTCP  10.96.0.10:80 rr\n  -> ") {
		t.Errorf("the rules are\n%s", got)
	}
}

// testAddresses gives the machine addresses of its own.
func testAddresses(t *testing.T) {
	w := newWorld(t, Options{})
	for _, affinity := range []time.Duration{0, time.Hour} {
		w.put(tcp(func(s *model.Service) {
			s.AffinityTimeout = affinity
			s.ExternalIPs = []netip.Addr{netip.MustParseAddr("10.97.0.77")}
		}), w.b, w.c)
		addr := netip.AddrFrom4([4]byte{10, 97, 0, byte(7 + affinity.Hours())})
		w.must(w.node.AddAddress(netip.PrefixFrom(addr, 32)))
		if _, err := w.engine.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.answers(w.client.Namespace, addr.String()+":30080", "b", "c")
		w.answers(w.a.Namespace, addr.String()+":30080", "b", "c")
	}
	// The machine gets the external address itself: its own ports answer again.
	ln, err := w.node.Listen("tcp", "0.0.0.0:81")
	w.must(err)
	defer func() { _ = ln.Close() }()
	if conn, err := w.open(w.client.Namespace, "10.97.0.77:81"); err == nil {
		t.Errorf("a program of the machine answers on an external address: %v", conn.RemoteAddr())
	}
	w.must(w.node.AddAddress(netip.MustParsePrefix("10.97.0.77/32")))
	if _, err := w.engine.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.open(w.client.Namespace, "10.97.0.77:81"); err != nil {
		t.Errorf("a program of the machine does not answer on the machine's own address: %v", err)
	}
	w.answers(w.client.Namespace, "10.97.0.77:80", "b", "c")
}

// testListing loads what nft prints of the tables, as text and as JSON.
func testListing(t *testing.T) {
	w := newWorld(t, Options{})
	w.put(tcp(func(s *model.Service) {
		external(s)
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.250.0.0/24")}
	}), w.b, w.c)
	before := w.run("nft", "list", "ruleset")
	if !strings.Contains(w.run("nft", "-j", "list", "ruleset"), tableName) {
		t.Error("JSON does not have the table")
	}
	w.run("sh", "-c", "nft list ruleset >/tmp/ruleset && nft flush ruleset && nft -f /tmp/ruleset")
	if after := w.run("nft", "list", "ruleset"); after != before {
		t.Errorf("loaded again:\n%s\nwas:\n%s", after, before)
	}
}
