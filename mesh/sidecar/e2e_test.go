package sidecar_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/internal/echo"
	"github.com/sluicenet/sluice/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// ask sends a request and returns what the server says of it.
func ask(client *http.Client, url, host string) (echo.Answer, error) {
	var a echo.Answer
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return a, err
	}
	req.Host = host
	res, err := client.Do(req)
	if err != nil {
		return a, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return a, err
	}
	if res.StatusCode != http.StatusOK {
		return a, fmt.Errorf("%s: %s", res.Status, body)
	}
	return a, json.Unmarshal(body, &a)
}

// load asks all the time and counts what fails.
type load struct {
	stop   context.CancelFunc
	done   sync.WaitGroup
	asked  int
	failed []error
}

func startLoad(client *http.Client, url, host string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel}
	l.done.Go(func() {
		for ctx.Err() == nil {
			l.asked++
			if _, err := ask(client, url, host); err != nil {
				l.failed = append(l.failed, err)
			}
		}
	})
	return l
}

func (l *load) check(t *testing.T) {
	t.Helper()
	l.stop()
	l.done.Wait()
	if len(l.failed) > 0 || l.asked == 0 {
		t.Errorf("%d of %d requests failed, the first: %v", len(l.failed), l.asked, l.failed[:min(1, len(l.failed))])
	}
}

func (c *cluster) policy(mode string) {
	c.t.Helper()
	c.put(fmt.Sprintf(`{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: orders, namespace: shop}, spec: {selector: {matchLabels: {app: orders}}, mtls: {mode: %s}}}`, mode))
}

// eventually polls until a condition holds.
func eventually(t *testing.T, what string, is func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = is(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

func TestMesh(t *testing.T) {
	c := newCluster(t, 0)
	node2 := c.lab.MustNode("node2")
	frontend := c.pod(c.node, "frontend", "app: frontend", "frontend", true)
	v1 := c.pod(node2, "orders-v1", "app: orders, version: v1", "orders", true)
	v2 := c.pod(c.node, "orders-v2", "app: orders, version: v2", "orders", true)
	plain := c.pod(node2, "plain", "app: plain", "plain", false)
	c.service("orders", "10.96.0.10", v1, v2)
	c.service("first", "10.96.0.11", v1)
	c.put(`{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: orders, namespace: shop}, spec: {host: orders, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: orders, namespace: shop}
spec:
  hosts: [orders]
  http: [{route: [{destination: {host: orders, subset: v1}, weight: 90}, {destination: {host: orders, subset: v2}, weight: 10}]}]
  tcp: [{route: [{destination: {host: orders, subset: v1}, weight: 50}, {destination: {host: orders, subset: v2}, weight: 50}]}]
`)
	c.run()
	c.mesh(frontend, "frontend")
	c.mesh(v1, "orders")
	c.mesh(v2, "orders")
	c.settle(frontend, v1, v2)

	client := frontend.HTTPClient()
	const url, frontendID, ordersID = "http://10.96.0.10/", "spiffe://cluster.local/ns/shop/sa/frontend", "spiffe://cluster.local/ns/shop/sa/orders"
	t.Run("canary", func(t *testing.T) {
		count := map[string]int{}
		for range 1000 {
			a, err := ask(client, url, "orders")
			if err != nil {
				t.Fatal(err)
			}
			if a.PeerID != frontendID {
				t.Fatalf("the server saw %q", a.PeerID)
			}
			count[a.Name]++
		}
		t.Log(count)
		// 100 expected, with a standard deviation of 9.5.
		if n := count["orders-v2"]; n < 50 || n > 150 || n+count["orders-v1"] != 1000 {
			t.Errorf("%v, expected 900 and 100", count)
		}
	})
	t.Run("names", func(t *testing.T) {
		for _, host := range []string{"orders.shop", "orders.shop.svc", "ORDERS.shop.svc.cluster.local:80", "10.96.0.10"} {
			if a, err := ask(client, url, host); err != nil || a.PeerID != frontendID {
				t.Errorf("%s: %q %v", host, a.PeerID, err)
			}
		}
		if a, err := ask(client, "http://[fd00:96::10]/", "[fd00:96::10]"); err != nil || a.PeerID != frontendID {
			t.Errorf("IPv6: %q %v", a.PeerID, err)
		}
		if a, err := ask(client, "http://"+net.JoinHostPort(plain.IPv4().String(), "8080")+"/", "nobody.example"); err != nil || a.Name != "plain" || a.PeerID != "" {
			t.Errorf("outside the mesh: %+v %v", a, err)
		}
	})
	t.Run("tcp", func(t *testing.T) {
		count := map[string]int{}
		for range 100 {
			count[hello(t, frontend, "10.96.0.10:9000")]++
		}
		if count["orders-v1"] != 50 || count["orders-v2"] != 50 {
			t.Errorf("%v, expected 50 each", count)
		}
		if got := hello(t, frontend, "[fd00:96::11]:9000"); got != "orders-v1" {
			t.Errorf("IPv6: %q", got)
		}
	})
	t.Run("itself", func(t *testing.T) {
		a, err := ask(v1.HTTPClient(), "http://10.96.0.11/", "first")
		if err != nil || a.Name != "orders-v1" || a.PeerID != ordersID {
			t.Errorf("%+v %v", a, err)
		}
	})
	direct := "http://" + net.JoinHostPort(v1.IPv4().String(), "8080") + "/"
	fresh := func() *http.Client { // without a connection from before
		hc := plain.HTTPClient()
		hc.Timeout = 5 * time.Second
		return hc
	}
	t.Run("wire", func(t *testing.T) {
		wire := capture(t, v1)
		if _, err := ask(client, "http://10.96.0.11/secret-of-the-mesh", "first"); err != nil {
			t.Fatal(err)
		}
		if _, err := ask(fresh(), direct+"seen-by-all", ""); err != nil {
			t.Fatal("plaintext is taken by default:", err)
		}
		seen := wire("seen-by-all")
		if strings.Contains(seen, "secret-of-the-mesh") {
			t.Error("the request was in clear on the wire")
		}
	})
	t.Run("modes", func(t *testing.T) {
		l := startLoad(client, url, "orders")
		defer l.check(t)
		before := ""
		for _, mode := range []string{"STRICT", "DISABLE", "STRICT", "PERMISSIVE", "DISABLE", "PERMISSIVE", "STRICT"} {
			c.policy(mode)
			eventually(t, mode, func() error {
				hc := fresh()
				defer hc.CloseIdleConnections()
				a, err := ask(hc, direct, "")
				if (err != nil) != (mode == "STRICT") {
					return fmt.Errorf("plaintext: %v, %w", a.Name, cmp.Or(err, errors.New("no failure")))
				}
				m, err := ask(client, "http://10.96.0.11/", "first")
				if err != nil {
					return err
				}
				// A connection that was opened in clear may live on while
				// that is allowed.
				if (m.PeerID == "") != (mode == "DISABLE") && before+mode != "DISABLEPERMISSIVE" {
					return fmt.Errorf("the server saw %q", m.PeerID)
				}
				return nil
			})
			before = mode
		}
	})
	t.Run("canary shifts", func(t *testing.T) {
		l := startLoad(client, url, "orders")
		defer l.check(t)
		c.put(`{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: orders, namespace: shop}, spec: {hosts: [orders], http: [{route: [{destination: {host: orders, subset: v2}}]}]}}`)
		row := 0
		eventually(t, "all to v2", func() error {
			a, err := ask(client, url, "orders")
			if row++; err != nil || a.Name != "orders-v2" {
				row = 0
			}
			if row < 20 {
				return fmt.Errorf("%s, %w", a.Name, cmp.Or(err, errors.New("no failure")))
			}
			return nil
		})
	})
}

// TestCertificatesEnd lets certificates end while they are used: each was renewed
// before, and Envoy has taken the new ones without a restart.
func TestCertificatesEnd(t *testing.T) {
	const life = 8 * time.Second
	c := newCluster(t, life)
	a := c.pod(c.node, "a", "app: a", "frontend", true)
	b := c.pod(c.node, "b", "app: orders", "orders", true)
	c.service("orders", "10.96.0.10", b)
	c.policy("STRICT")
	c.run()
	c.mesh(a, "frontend")
	c.mesh(b, "orders")
	c.settle(a, b)
	if got := hello(t, a, "10.96.0.10:9000"); got != "b" {
		t.Fatalf("%q", got)
	}
	for end := time.Now().Add(life + life/4); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		// A connection each, so each proves who it is anew.
		if got := hello(t, a, "10.96.0.10:9000"); got != "b" {
			t.Fatalf("%q", got)
		}
	}
}

// hello connects and returns the name of who answers.
func hello(t *testing.T, from *lab.Pod, to string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := from.DialContext(ctx, "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte("x\n")); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	return name
}

// capture records what passes a Pod's interface. The function that it returns
// waits for a text and returns all that was seen.
func capture(t *testing.T, pod *lab.Pod) func(until string) string {
	t.Helper()
	fd := -1
	if err := pod.Do(func() (err error) {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		// ETH_P_ALL, in network order.
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.ETH_P_ALL<<8); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: unix.ETH_P_ALL << 8, Ifindex: eth0.Index})
	}); err != nil {
		t.Fatal(err)
	}
	packets := os.NewFile(uintptr(fd), "packets")
	t.Cleanup(func() { _ = packets.Close() })
	return func(until string) string {
		var all []byte
		packet := make([]byte, 1<<16)
		_ = packets.SetReadDeadline(time.Now().Add(20 * time.Second))
		for !bytes.Contains(all, []byte(until)) {
			n, err := packets.Read(packet)
			if err != nil {
				t.Fatalf("%q was not seen in %q: %v", until, all, err)
			}
			all = append(all, packet[:n]...)
		}
		return string(all)
	}
}
