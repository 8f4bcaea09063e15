package localhost

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/proxy"
)

// The loopback of these tests is that of a network namespace of its own.
func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

type world struct {
	t       *testing.T
	store   *model.Store
	watch   *model.Watcher
	planner *proxy.Planner
	board   *status.Board
	relay   *Relay
	first   bool
}

func newWorld(t *testing.T, o Options, localhost bool) *world {
	w := &world{t: t, store: model.NewStore(), board: status.NewBoard(), first: true}
	w.watch = w.store.Watch()
	w.planner = proxy.NewPlanner(proxy.Config{Node: "node1", NodePorts: proxy.NodePortAddresses{All: true, Localhost: localhost}})
	o.Status, o.Retry = w.board, 50*time.Millisecond
	w.relay = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.relay.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

func (w *world) update(f func(tx *model.Txn)) {
	w.t.Helper()
	w.store.Update(f)
	up, err := w.watch.Next(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	changes := w.planner.Update(up)
	if w.first {
		changes.Services, w.first = nil, false
	} else if changes.Services == nil {
		changes.Services = []proxy.Change{}
	}
	w.relay.Applied(changes.New, changes.Services)
}

// put writes a Service of both protocols with a NodePort and endpoints.
func (w *world) put(name string, nodePort uint16, affinity time.Duration, endpoints ...netip.AddrPort) {
	w.t.Helper()
	w.update(func(tx *model.Txn) {
		svc := &model.Service{
			Meta: model.Meta{Namespace: "default", Name: name}, Type: corev1.ServiceTypeNodePort, AffinityTimeout: affinity,
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, name[0], 1}), netip.MustParseAddr(fmt.Sprintf("fd00::%x", name[0]))},
			Families:   []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
		}
		for port, protocol := range map[string]corev1.Protocol{"tcp": corev1.ProtocolTCP, "udp": corev1.ProtocolUDP} {
			svc.Ports = append(svc.Ports, model.ServicePort{Name: port, Port: 80, Protocol: protocol, NodePort: nodePort})
		}
		model.Services.Put(tx, svc)
		for i := range 8 {
			slice := fmt.Sprintf("%s-%d", name, i)
			if i >= len(endpoints) {
				tx.Delete(model.Key{Kind: model.KindEndpointSlice, Namespace: "default", Name: slice})
				continue
			}
			e := endpoints[i]
			model.EndpointSlices.Put(tx, &model.EndpointSlice{
				Meta: model.Meta{Namespace: "default", Name: slice}, Service: name, IPv6: e.Addr().Is6(), Weight: 1,
				Ports: []model.EndpointPort{
					{Name: "tcp", Port: e.Port(), Protocol: corev1.ProtocolTCP}, {Name: "udp", Port: e.Port(), Protocol: corev1.ProtocolUDP},
				},
				Endpoints: []model.Endpoint{{Addr: e.Addr(), Ready: true, Serving: true}},
			})
		}
	})
}

// backend answers each line, or datagram, with its name before it; over TCP, also
// with "end" when the client has closed its half.
func (w *world) backend(name string, at string) netip.AddrPort {
	w.t.Helper()
	ln, err := net.Listen("tcp", at)
	if err != nil {
		w.t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(ln.Addr().String())
	pc, err := net.ListenPacket("udp", addr.String())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _, _ = ln.Close(), pc.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				_, _ = io.WriteString(c, name+" ")
				_, _ = io.Copy(c, c)
				_, _ = io.WriteString(c, " end")
			}()
		}
	}()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte(name+" "+string(buf[:n])), from)
		}
	}()
	return addr
}

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// ask sends something over TCP, closes that half, and returns the answer.
func ask(address, text string) (string, error) {
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func (w *world) expect(address, want string) {
	w.t.Helper()
	eventually(w.t, address, func() error {
		got, err := ask(address, "hello")
		if err == nil && got != want {
			err = fmt.Errorf("got %q, want %q", got, want)
		}
		return err
	})
}

func (w *world) refused(address string) {
	w.t.Helper()
	eventually(w.t, address, func() error {
		if got, err := ask(address, "hello"); !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("got %q and %w, not a refusal", got, err)
		}
		return nil
	})
}

// exchange sends a datagram and returns the answer.
func exchange(c net.Conn, text string) (string, error) {
	if _, err := io.WriteString(c, text); err != nil {
		return "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	buf := make([]byte, 1<<16)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

func (w *world) dialUDP(address string) net.Conn {
	w.t.Helper()
	c, err := net.Dial("udp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *world) expectUDP(c net.Conn, want string) {
	w.t.Helper()
	eventually(w.t, "UDP", func() error {
		got, err := exchange(c, "hello")
		if err == nil && got != want+" hello" {
			err = fmt.Errorf("got %q, want %q", got, want)
		}
		return err
	})
}

// TestTCP follows connections through changes of the plan.
func TestTCP(t *testing.T) {
	w := newWorld(t, Options{}, true)
	a, b, a6 := w.backend("a", "127.0.1.1:0"), w.backend("b", "127.0.1.2:0"), w.backend("a6", "[::1]:0")
	w.put("web", 30080, 0, a, a6)
	w.expect("127.0.0.1:30080", "a hello end")
	w.expect("[::1]:30080", "a6 hello end")

	// A connection goes on when its backend is no longer chosen, and when the
	// Service is gone, as in the kernel.
	c, err := net.Dial("tcp", "127.0.0.1:30080")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	buf := make([]byte, 64)
	if _, err := io.ReadFull(c, buf[:2]); err != nil || string(buf[:2]) != "a " {
		t.Fatalf("got %q, %v", buf[:2], err)
	}
	w.put("web", 30080, 0, b)
	w.expect("127.0.0.1:30080", "b hello end")
	w.refused("[::1]:30080") // no endpoint of this family
	w.put("web", 30080, 0)
	w.refused("127.0.0.1:30080")
	w.put("web", 30080, 0, b)
	w.expect("127.0.0.1:30080", "b hello end")
	w.update(func(tx *model.Txn) { tx.Delete(model.Key{Kind: model.KindService, Namespace: "default", Name: "web"}) })
	w.refused("127.0.0.1:30080")
	if _, err := io.WriteString(c, "still"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, buf[:5]); err != nil || string(buf[:5]) != "still" {
		t.Errorf("the connection from before says %q, %v", buf[:5], err)
	}
	// A backend that refuses: the client is reset and does not hang.
	w.put("dead", 30081, 0, netip.MustParseAddrPort("127.0.1.9:9"))
	eventually(t, "a dead backend", func() error {
		if _, err := ask("127.0.0.1:30081", "hello"); !errors.Is(err, unix.ECONNRESET) {
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
	if problems, err := testutil.CollectAndLint(w.relay); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	if n := testutil.ToFloat64(w.relay.metrics.listeners.WithLabelValues("IPv4")); n != 2 { // TCP and UDP of dead
		t.Errorf("%v listeners are counted", n)
	}
}

// TestMuch sends megabytes both ways.
func TestMuch(t *testing.T) {
	w := newWorld(t, Options{}, true)
	w.put("web", 30082, 0, w.backend("a", "127.0.1.3:0"))
	w.expect("127.0.0.1:30082", "a hello end")
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	c, err := net.Dial("tcp", "127.0.0.1:30082")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	go func() {
		_, _ = c.Write(data)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, []byte("a "+string(data)+" end")) {
		t.Errorf("got %d bytes and %v", len(got), err)
	}
}

// TestUDP follows flows through changes of the plan.
func TestUDP(t *testing.T) {
	w := newWorld(t, Options{}, true)
	a, b, a6 := w.backend("a", "127.0.1.4:0"), w.backend("b", "127.0.1.5:0"), w.backend("a6", "[::1]:0")
	w.put("dns", 30053, 0, a, a6)
	c, c6 := w.dialUDP("127.0.0.1:30053"), w.dialUDP("[::1]:30053")
	w.expectUDP(c, "a")
	w.expectUDP(c6, "a6")
	if got, err := exchange(c, strings.Repeat("x", 60000)); err != nil || len(got) != 60002 {
		t.Errorf("of a large datagram %d bytes come back, %v", len(got), err)
	}
	// A flow stays where it is, and moves when its endpoint is gone.
	w.put("dns", 30053, 0, a, b, a6)
	for range 20 {
		w.expectUDP(c, "a")
	}
	w.put("dns", 30053, 0, b, a6)
	w.expectUDP(c, "b")
	w.expectUDP(c6, "a6")
	w.put("dns", 30053, 0)
	eventually(t, "without endpoints", func() error {
		if got, err := exchange(c, "hello"); !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("got %q and %w, not a refusal", got, err)
		}
		return nil
	})
	w.put("dns", 30053, 0, b)
	w.expectUDP(c, "b")
}

// TestSessions checks that flows are bounded, and end when they are idle.
func TestSessions(t *testing.T) {
	w := newWorld(t, Options{Sessions: 1, Idle: 100 * time.Millisecond}, true)
	w.put("dns", 30054, 0, w.backend("a", "127.0.1.6:0"))
	c := w.dialUDP("127.0.0.1:30054")
	w.expectUDP(c, "a")
	other := w.dialUDP("127.0.0.1:30054")
	w.expectUDP(other, "a") // as soon as the first is idle
	if n := testutil.ToFloat64(w.relay.metrics.accepted.WithLabelValues("udp")); n < 2 {
		t.Errorf("%v flows are counted", n)
	}
}

// TestAffinity checks that all clients have one backend, and another when it is
// gone.
func TestAffinity(t *testing.T) {
	w := newWorld(t, Options{}, true)
	a, b := w.backend("a", "127.0.1.7:0"), w.backend("b", "127.0.1.8:0")
	w.put("web", 30083, time.Hour, a, b)
	var first string
	eventually(t, "the port", func() (err error) {
		first, err = ask("127.0.0.1:30083", "x")
		return err
	})
	for range 30 {
		if got, err := ask("127.0.0.1:30083", "x"); err != nil || got != first {
			t.Fatalf("got %q, %v, and %q before", got, err, first)
		}
	}
	other, name := b, "b"
	if strings.HasPrefix(first, "b") {
		other, name = a, "a"
	}
	w.put("web", 30083, time.Hour, other)
	w.expect("127.0.0.1:30083", name+" hello end")
}

// TestTaken checks that a port which somebody else has is said to be, and opened
// once it is free.
func TestTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:30084")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, Options{}, true)
	a := w.backend("a", "127.0.1.9:0")
	w.put("web", 30084, 0, a)
	message := func() string {
		r, ok := w.board.Get(model.Key{Kind: model.KindService, Namespace: "default", Name: "web"})[part]
		if !ok {
			return ""
		}
		return r.Conditions[0].Message
	}
	eventually(t, "the condition", func() error {
		if got := message(); !strings.Contains(got, "node node1 cannot serve the NodePort on loopback") || !strings.Contains(got, "address already in use") {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	w.expectUDP(w.dialUDP("127.0.0.1:30084"), "a")
	_ = taken.Close()
	w.expect("127.0.0.1:30084", "a hello end")
	eventually(t, "the condition", func() error {
		if got := message(); got != "" {
			return fmt.Errorf("it still says %q", got)
		}
		return nil
	})
}

// TestOff checks that nothing listens where the plan does not want it.
func TestOff(t *testing.T) {
	w := newWorld(t, Options{}, false)
	a := w.backend("a", "127.0.1.10:0")
	w.put("web", 30085, 0, a)
	w.put("web", 30085, 0, a, w.backend("b", "127.0.1.11:0"))
	w.refused("127.0.0.1:30085")
	if len(w.relay.wanted) != 0 {
		t.Errorf("wanted: %v", w.relay.wanted)
	}
}

// TestWeights checks the shares of backends. The bounds are six standard
// deviations away.
func TestWeights(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.0.2:80")
	var p picker
	p.set(&target{backends: []proxy.Backend{{AddrPort: a, Weight: 3}, {AddrPort: b, Weight: 1}}})
	seen := map[netip.AddrPort]int{}
	for range 4000 {
		seen[p.pick(time.Now())]++
	}
	if seen[b] < 836 || seen[b] > 1164 || seen[a]+seen[b] != 4000 {
		t.Errorf("of 4000 connections at 3:1: %v", seen)
	}
}
