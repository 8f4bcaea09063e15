package ipvs

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// world is a lab with two nodes, of which the first runs the engine.
type world struct {
	t       *testing.T
	node    *lab.Node
	a, b, c *lab.Pod // a and b on the node, c on the other
	client  *lab.Client
	store   *model.Store
	watch   *model.Watcher
	planner *proxy.Planner
	engine  *Engine
	plan    *proxy.Plan
}

func newWorld(t *testing.T, o Options) *world {
	l := lab.ForTest(t, lab.Options{})
	w := &world{t: t, node: l.MustNode("node1"), client: l.MustClient("client")}
	w.a, w.b, w.c = w.node.MustPod("a"), w.node.MustPod("b"), l.MustNode("node2").MustPod("c")
	for _, prefix := range []string{"10.96.0.0/15", "fd00:10:96::/64"} {
		p, via := netip.MustParsePrefix(prefix), w.node.IPv4()
		if p.Addr().Is6() {
			via = w.node.IPv6()
		}
		w.must(l.Router().Route(p, via))
	}
	for name, pod := range map[string]*lab.Pod{"a": w.a, "b": w.b, "c": w.c} {
		w.serve(pod, name)
	}
	w.store = model.NewStore()
	w.watch = w.store.Watch()
	w.planner = proxy.NewPlanner(proxy.Config{Node: "node1", ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}})
	w.start(o)
	w.update(func(tx *model.Txn) {
		model.Nodes.Put(tx, &model.Node{Meta: model.Meta{Name: "node1"}, InternalIPs: w.node.Addrs(), PodCIDRs: w.node.PodCIDRs()})
	})
	return w
}

// start makes a new engine, as a new process does.
func (w *world) start(o Options) {
	w.t.Helper()
	o.NetNS, o.Log = w.node.FD(), slog.New(slog.NewTextHandler(w.t.Output(), nil))
	e, err := New(o)
	w.must(err)
	w.engine = e
	w.t.Cleanup(func() { _ = e.Close() })
	if w.plan != nil {
		w.must(e.Sync(w.t.Context(), w.plan))
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// serve answers each line on port 8080 with the pod's name and whom it sees.
func (w *world) serve(pod *lab.Pod, name string) {
	ln, err := pod.Listen("tcp", "[::]:8080")
	w.must(err)
	w.t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				from, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					_, _ = fmt.Fprintf(conn, "%s %s\n", name, from.Addr().Unmap())
				}
			}()
		}
	}()
}

// update changes the model and has the engine follow.
func (w *world) update(f func(*model.Txn)) {
	w.t.Helper()
	first := w.plan == nil
	w.store.Update(f)
	up, err := w.watch.Next(w.t.Context())
	w.must(err)
	changes := w.planner.Update(up)
	if w.plan = changes.New; first {
		w.must(w.engine.Sync(w.t.Context(), w.plan))
	} else {
		w.must(w.engine.Apply(w.t.Context(), changes))
	}
}

// put makes a Service with the pods as its endpoints.
func (w *world) put(s *model.Service, pods ...*lab.Pod) {
	w.t.Helper()
	w.update(func(tx *model.Txn) {
		model.Services.Put(tx, s)
		for _, six := range []bool{false, true} {
			slice := &model.EndpointSlice{Meta: model.Meta{Namespace: "default", Name: fmt.Sprint("web-", six)}, Service: s.Name, IPv6: six, Weight: 1,
				Ports: []model.EndpointPort{{Name: "t", Protocol: "TCP", Port: 8080}}}
			for _, p := range pods {
				addr := p.IPv4()
				if six {
					addr = p.IPv6()
				}
				slice.Endpoints = append(slice.Endpoints, model.Endpoint{Addr: addr, Node: p.Node().Name(), Pod: p.Name(), Ready: true, Serving: true})
			}
			model.EndpointSlices.Put(tx, slice)
		}
	})
}

// patience is how long an answer may take: a guest may be very slow.
const patience = 20 * time.Second

// open connects.
func (w *world) open(from *lab.Namespace, to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	conn, err := from.DialContext(ctx, "tcp", to)
	if err == nil {
		w.t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, err
}

// say returns the answer on a connection: who answers, and whom it sees.
func say(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("?\n")); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

// ask connects and returns the answer, or the error.
func (w *world) ask(from *lab.Namespace, to string) string {
	conn, err := w.open(from, to)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = conn.Close() }()
	answer, err := say(conn)
	if err != nil {
		return err.Error()
	}
	return answer
}

// answers fails the test unless one of the pods answers.
func (w *world) answers(from *lab.Namespace, to string, pods ...string) {
	w.t.Helper()
	answer := w.ask(from, to)
	name, _, _ := strings.Cut(answer, " ")
	if slices.Contains(pods, name) {
		return
	}
	w.t.Errorf("%s -> %s: %q, want one of %v", from.Name(), to, answer, pods)
}

// run runs a program on the node.
func (w *world) run(name string, args ...string) string {
	w.t.Helper()
	out, err := w.node.Command(w.t.Context(), name, args...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
