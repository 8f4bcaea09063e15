package healthcheck

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/proxy"
)

// The ports of these tests are those of a network namespace of its own.
func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// world is a model with the server of its plans.
type world struct {
	t       *testing.T
	store   *model.Store
	watch   *model.Watcher
	planner *proxy.Planner
	board   *status.Board
	server  *Server
	first   bool
}

func newWorld(t *testing.T, ports proxy.NodePortAddresses, healthy func() bool) *world {
	w := &world{t: t, store: model.NewStore(), board: status.NewBoard(), first: true}
	w.watch = w.store.Watch()
	w.planner = proxy.NewPlanner(proxy.Config{Node: "node1", NodePorts: ports})
	w.server = w.run(healthy)
	return w
}

func (w *world) run(healthy func() bool) *Server {
	s := New(Options{Healthy: healthy, Status: w.board, Retry: 50 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
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
	w.server.Applied(changes.New, changes.Services)
}

// put writes a Service with that many endpoints on this node.
func put(tx *model.Txn, name string, port uint16, endpoints int) {
	model.Services.Put(tx, &model.Service{
		Meta: model.Meta{Namespace: "default", Name: name}, Type: corev1.ServiceTypeLoadBalancer,
		ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, name[0], name[1]})}, Families: []corev1.IPFamily{corev1.IPv4Protocol},
		ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: port,
		Ports: []model.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
	})
	slice := &model.EndpointSlice{
		Meta: model.Meta{Namespace: "default", Name: name}, Service: name, Weight: 1,
		Ports: []model.EndpointPort{{Port: 80, Protocol: corev1.ProtocolTCP}},
	}
	for i := range endpoints {
		slice.Endpoints = append(slice.Endpoints, model.Endpoint{
			Addr: netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 1)}), Node: "node1", Ready: true, Serving: true,
		})
	}
	model.EndpointSlices.Put(tx, slice)
}

func remove(tx *model.Txn, name string) {
	tx.Delete(model.Key{Kind: model.KindService, Namespace: "default", Name: name})
}

// get asks on a connection of its own.
func get(address string) (int, http.Header, string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	r, err := client.Get("http://" + address + "/healthz")
	if err != nil {
		return 0, nil, "", err
	}
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	return r.StatusCode, r.Header, string(body), err
}

// eventually waits until a condition holds.
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

func (w *world) expect(address string, code int, say string) {
	w.t.Helper()
	eventually(w.t, address, func() error {
		got, _, body, err := get(address)
		switch {
		case err != nil:
			return err
		case got != code || !strings.Contains(body, say):
			return fmt.Errorf("answered %d %s, want %d with %s", got, body, code, say)
		}
		return nil
	})
}

func (w *world) refused(address string) {
	w.t.Helper()
	eventually(w.t, address, func() error {
		c, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			return nil
		}
		_ = c.Close()
		return fmt.Errorf("somebody listens")
	})
}

func (w *world) message(name string) string {
	r, ok := w.board.Get(model.Key{Kind: model.KindService, Namespace: "default", Name: name})[part]
	if !ok {
		return ""
	}
	return r.Conditions[0].Message
}

func yes() bool { return true }

func TestServer(t *testing.T) {
	var healthy atomic.Bool
	healthy.Store(true)
	w := newWorld(t, proxy.NodePortAddresses{}, healthy.Load)
	w.update(func(tx *model.Txn) { put(tx, "web", 31001, 2) })
	w.expect("127.0.0.1:31001", 200, "web")
	for _, address := range []string{"127.0.0.1:31001", "[::1]:31001"} {
		code, header, body, err := get(address)
		if err != nil || code != 200 {
			t.Fatalf("%s: %d %v", address, code, err)
		}
		want := "{\n\t\"service\": {\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}"
		if body != want {
			t.Errorf("%s answers\n%s\nwant\n%s", address, body, want)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "X-Load-Balancing-Endpoint-Weight": "2",
		} {
			if got := header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	}
	// The number of endpoints is told at once, without Run.
	w.update(func(tx *model.Txn) { put(tx, "web", 31001, 0) })
	if code, header, body, err := get("127.0.0.1:31001"); err != nil || code != 503 || header.Get("X-Load-Balancing-Endpoint-Weight") != "0" || !strings.Contains(body, `"localEndpoints": 0`) {
		t.Errorf("without endpoints: %d %v %s %v", code, header, body, err)
	}
	w.update(func(tx *model.Txn) { put(tx, "web", 31001, 1) })
	w.expect("127.0.0.1:31001", 200, `"localEndpoints": 1`)
	healthy.Store(false)
	w.expect("127.0.0.1:31001", 503, `"serviceProxyHealthy": false`)
	healthy.Store(true)

	// Another number, and none.
	w.update(func(tx *model.Txn) { put(tx, "web", 31002, 1) })
	w.expect("127.0.0.1:31002", 200, "web")
	w.refused("127.0.0.1:31001")
	w.update(func(tx *model.Txn) { remove(tx, "web") })
	w.refused("127.0.0.1:31002")
}

// TestMove checks that a port which passes to another Service is open all the
// time: a connection from before goes on.
func TestMove(t *testing.T) {
	w := newWorld(t, proxy.NodePortAddresses{}, yes)
	w.update(func(tx *model.Txn) { put(tx, "old", 31003, 1) })
	w.expect("127.0.0.1:31003", 200, "old")
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport}
	ask := func(want string) {
		t.Helper()
		r, err := client.Get("http://127.0.0.1:31003/")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Body.Close() }()
		if b, _ := io.ReadAll(r.Body); !strings.Contains(string(b), want) {
			t.Errorf("got %s, want %s", b, want)
		}
	}
	ask("old")
	w.update(func(tx *model.Txn) {
		remove(tx, "old")
		put(tx, "new", 31003, 1)
	})
	ask("new")

	// Of two, the one that has it keeps it, and the other is told.
	w.update(func(tx *model.Txn) { put(tx, "also", 31003, 1) })
	eventually(t, "the second's condition", func() error {
		if got := w.message("also"); got != "healthCheckNodePort 31003 belongs to Service default/new" {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	ask("new")
	w.update(func(tx *model.Txn) { remove(tx, "new") })
	ask("also")
	eventually(t, "the second's condition", func() error {
		if got := w.message("also"); got != "" {
			return fmt.Errorf("it still says %q", got)
		}
		return nil
	})
}

// TestTaken checks that a port which somebody else has is said to be, and opened
// once it is free.
func TestTaken(t *testing.T) {
	taken, err := net.Listen("tcp", ":31004")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, proxy.NodePortAddresses{}, yes)
	w.update(func(tx *model.Txn) {
		put(tx, "web", 31004, 1)
		put(tx, "other", 31005, 1)
	})
	w.expect("127.0.0.1:31005", 200, "other")
	eventually(t, "the condition", func() error {
		if got := w.message("web"); !strings.Contains(got, "node node1 cannot listen on healthCheckNodePort 31004") || !strings.Contains(got, "address already in use") {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	_ = taken.Close()
	w.expect("127.0.0.1:31004", 200, "web")
	eventually(t, "the condition", func() error {
		if got := w.message("web"); got != "" {
			return fmt.Errorf("it still says %q", got)
		}
		return nil
	})
}

// TestAddresses checks that only the addresses of NodePorts answer.
func TestAddresses(t *testing.T) {
	w := newWorld(t, proxy.NodePortAddresses{CIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}, yes)
	w.update(func(tx *model.Txn) { put(tx, "web", 31006, 1) })
	w.expect("127.0.0.1:31006", 200, "web")
	w.expect("[::1]:31006", 200, "web") // the families are restricted independently
	w.refused("127.0.0.2:31006")
	addrs := func() ([]netip.Addr, error) {
		var out []netip.Addr
		for _, a := range []string{"127.0.0.1", "10.0.0.1", "10.0.0.2", "::1", "fd00::1"} {
			out = append(out, netip.MustParseAddr(a))
		}
		return out, nil
	}
	for _, test := range []struct{ restrict, want string }{
		{"", ""},
		{"10.0.0.0/31", ":: 10.0.0.1"},
		{"10.0.0.0/24,fd00::/64", "10.0.0.1 10.0.0.2 fd00::1"},
		{"10.9.0.0/24,fd00::/64", "fd00::1"},
		{"0.0.0.0/32,::/128,localhost", "127.0.0.1 ::1"},
	} {
		var restrict []netip.Prefix
		localhost := false
		for text := range strings.SplitSeq(test.restrict, ",") {
			if p, err := netip.ParsePrefix(text); err == nil {
				restrict = append(restrict, p)
			}
			localhost = localhost || text == "localhost"
		}
		got, err := listenOn(restrict, localhost, addrs)
		if err != nil || strings.Join(got, " ") != test.want {
			t.Errorf("for %q: %q, %v, want %q", test.restrict, got, err, test.want)
		}
	}
}

// TestTakeover checks that the next process listens before the last one ends.
func TestTakeover(t *testing.T) {
	w := newWorld(t, proxy.NodePortAddresses{}, yes)
	w.update(func(tx *model.Txn) { put(tx, "web", 31007, 1) })
	w.expect("127.0.0.1:31007", 200, "web")
	ctx, cancel := context.WithCancel(t.Context())
	next := New(Options{Healthy: yes, Retry: 50 * time.Millisecond})
	done := make(chan error, 1)
	go func() { done <- next.Run(ctx) }()
	next.Applied(w.planner.Plan(), nil)
	w.update(func(tx *model.Txn) { remove(tx, "web") }) // the first one ends
	// What was sent to the first one's socket before it closed may be lost.
	eventually(t, "the next one", func() error {
		_, _, _, err := get("127.0.0.1:31007")
		return err
	})
	w.expect("127.0.0.1:31007", 200, "web")
	cancel()
	<-done
	w.refused("127.0.0.1:31007")
}
