package nftables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/conntrack"
)

func TestMain(m *testing.M) {
	// A fuzzing worker talks by descriptors that do not survive the lab's start.
	for _, arg := range os.Args {
		if strings.HasPrefix(arg, "-test.fuzz=") || arg == "-test.fuzzworker" {
			os.Exit(m.Run())
		}
	}
	os.Exit(lab.Main(m))
}

// world is a lab with two nodes, of which the first runs the engine.
type world struct {
	t            *testing.T
	lab          *lab.Lab
	node1, node2 *lab.Node
	a, b, c      *lab.Pod // a and b on node1, c on node2
	client       *lab.Client

	store   *model.Store
	watch   *model.Watcher
	planner *proxy.Planner
	engine  *Engine
	flows   *conntrack.Cleaner
	plan    *proxy.Plan
	traffic bool // new engines count packets
}

// Virtual addresses, which the router sends to node1.
var (
	vip4 = netip.MustParseAddr("10.96.0.10")
	vip6 = netip.MustParseAddr("fd00:10:96::10")
	lb4  = netip.MustParseAddr("10.97.0.10")
	lb6  = netip.MustParseAddr("fd00:10:97::10")
)

func newWorld(t *testing.T, cfg proxy.Config) *world {
	l := lab.ForTest(t, lab.Options{})
	w := &world{t: t, lab: l, node1: l.MustNode("node1"), node2: l.MustNode("node2"), client: l.MustClient("client")}
	w.a, w.b, w.c = w.node1.MustPod("a"), w.node1.MustPod("b"), w.node2.MustPod("c")
	for _, p := range []string{"10.96.0.0/15", "fd00:10:96::/64", "fd00:10:97::/64"} {
		prefix, via := netip.MustParsePrefix(p), w.node1.IPv4()
		if prefix.Addr().Is6() {
			via = w.node1.IPv6()
		}
		w.must(l.Router().Route(prefix, via))
	}
	// The kernel sends one ICMP error a second to a peer, a few at first.
	w.must(w.node1.Sysctl("net/ipv4/icmp_ratelimit", "0"))
	w.must(w.node1.Sysctl("net/ipv6/icmp/ratelimit", "0"))
	for name, pod := range map[string]*lab.Pod{"a": w.a, "b": w.b, "c": w.c} {
		w.serve(pod, name)
	}
	if cfg.Node == "" {
		cfg.Node = "node1"
		cfg.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}
	}
	w.store = model.NewStore()
	w.watch = w.store.Watch()
	w.planner = proxy.NewPlanner(cfg)
	w.engine = w.newEngine()
	w.flows = conntrack.NewAt(w.node1.FD())
	w.update(func(tx *model.Txn) {
		model.Nodes.Put(tx, &model.Node{Meta: model.Meta{Name: "node1"}, InternalIPs: w.node1.Addrs(), PodCIDRs: w.node1.PodCIDRs()})
	})
	return w
}

func (w *world) pods() []*lab.Pod { return []*lab.Pod{w.a, w.b, w.c} }

func (w *world) newEngine() *Engine {
	w.t.Helper()
	e, err := New(Options{NetNS: w.node1.FD(), Traffic: w.traffic, Log: testLog(w.t)})
	w.must(err)
	w.t.Cleanup(func() { _ = e.Close() })
	return e
}

func testLog(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(testWriter{t}, nil)) }

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// serve answers on port 8080 of a pod, TCP and UDP, with the pod's name and the
// address that it sees.
func (w *world) serve(pod *lab.Pod, name string) {
	ln, err := pod.Listen("tcp", "[::]:8080")
	w.must(err)
	w.t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				buf := make([]byte, 64)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, err := fmt.Fprintf(c, "%s %s\n", name, source(c.RemoteAddr())); err != nil {
						return
					}
				}
			}()
		}
	}()
	pc, err := pod.ListenPacket("udp", "[::]:8080")
	w.must(err)
	w.t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte(fmt.Sprintf("%s %s\n", name, source(from))), from)
		}
	}()
}

func source(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return ap.Addr().Unmap().String()
}

// update changes the model and has the engine follow.
func (w *world) update(f func(*model.Txn)) {
	w.t.Helper()
	first := w.plan == nil
	w.store.Update(f)
	up, err := w.watch.Next(context.Background())
	w.must(err)
	changes := w.planner.Update(up)
	w.plan = changes.New
	if first {
		w.must(w.engine.Sync(context.Background(), w.plan))
	} else {
		w.must(w.engine.Apply(context.Background(), changes))
	}
	_, err = w.flows.Reconcile(context.Background(), proxy.Reconciliation{Plan: changes.New, Changes: changes.Services})
	w.must(err)
}

// service returns a Service with one port in both protocols and families.
func service(name string, edit func(*model.Service)) *model.Service {
	s := &model.Service{
		Meta: model.Meta{Namespace: "default", Name: name}, Type: corev1.ServiceTypeClusterIP,
		ClusterIPs: []netip.Addr{vip4, vip6},
		Families:   []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
		Ports:      []model.ServicePort{{Name: "t", Protocol: "TCP", Port: 80}, {Name: "u", Protocol: "UDP", Port: 80}},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

// slicesOf returns the EndpointSlices of a Service, one a family.
func (w *world) slicesOf(service string, weight int32, pods ...*lab.Pod) []*model.EndpointSlice {
	var out []*model.EndpointSlice
	for _, v6 := range []bool{false, true} {
		s := &model.EndpointSlice{
			Meta: model.Meta{Namespace: "default", Name: fmt.Sprintf("%s-%v", service, v6)}, Service: service, IPv6: v6, Weight: weight,
			Ports: []model.EndpointPort{{Name: "t", Protocol: "TCP", Port: 8080}, {Name: "u", Protocol: "UDP", Port: 8080}},
		}
		for _, p := range pods {
			addr := p.IPv4()
			if v6 {
				addr = p.IPv6()
			}
			s.Endpoints = append(s.Endpoints, model.Endpoint{Addr: addr, Node: p.Node().Name(), Pod: p.Name(), Ready: true, Serving: true})
		}
		out = append(out, s)
	}
	return out
}

func putSlices(tx *model.Txn, slices []*model.EndpointSlice) {
	for _, s := range slices {
		model.EndpointSlices.Put(tx, s)
	}
}

// put makes a Service with the pods as its endpoints.
func (w *world) put(s *model.Service, pods ...*lab.Pod) {
	w.t.Helper()
	w.update(func(tx *model.Txn) {
		model.Services.Put(tx, s)
		putSlices(tx, w.slicesOf(s.Name, 1, pods...))
	})
}

// The outcomes of a connection that is not answered.
const (
	refused = "refused"
	silence = "silence"
)

// ask connects and returns who answered and whom it saw, or refused or silence.
func (w *world) ask(from *lab.Namespace, network string, to netip.AddrPort) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := from.DialContext(ctx, network, to.String())
	if err != nil {
		return outcome(err)
	}
	defer func() { _ = conn.Close() }()
	return exchange(conn, 5*time.Second)
}

// attempt is ask for what is expected to be dropped.
func (w *world) attempt(from *lab.Namespace, network string, to netip.AddrPort) string {
	ctx, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
	defer cancel()
	conn, err := from.DialContext(ctx, network, to.String())
	if err != nil {
		return outcome(err)
	}
	defer func() { _ = conn.Close() }()
	return exchange(conn, 400*time.Millisecond)
}

func exchange(conn net.Conn, timeout time.Duration) string {
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if _, err := conn.Write([]byte("?")); err != nil {
		return outcome(err)
	}
	buf := make([]byte, 128)
	n, err := conn.Read(buf)
	if err != nil {
		return outcome(err)
	}
	return strings.TrimSpace(string(buf[:n]))
}

func outcome(err error) string {
	var timeout net.Error
	switch {
	// A UDP packet that the node itself sends is refused in its face.
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EPERM):
		return refused
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return silence
	}
	return err.Error()
}

// nft runs nft on the node.
func (w *world) nft(args ...string) string {
	w.t.Helper()
	out, err := w.node1.Command(context.Background(), "nft", args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return string(out)
}
