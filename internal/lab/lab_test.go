package lab_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/echo"
	"github.com/sluicenet/sluice/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// cluster is two nodes with two pods on the first and one on the second, which
// serve, and a client.
type cluster struct {
	*lab.Lab
	node1, node2 *lab.Node
	a, b, c      *lab.Pod
	client       *lab.Client
}

func newCluster(t *testing.T) cluster {
	t.Helper()
	l := lab.ForTest(t, lab.Options{})
	out := cluster{Lab: l, node1: l.MustNode("node1"), node2: l.MustNode("node2"), client: l.MustClient("client")}
	out.a, out.b, out.c = out.node1.MustPod("a"), out.node1.MustPod("b"), out.node2.MustPod("c")
	for _, n := range []*lab.Namespace{out.a.Namespace, out.b.Namespace, out.c.Namespace, out.node1.Namespace} {
		serve(t, n)
	}
	return out
}

func serve(t *testing.T, n *lab.Namespace) {
	t.Helper()
	server, err := echo.Start(echo.Config{Name: n.Name(), HTTP: ":80", TCP: ":9000", UDP: ":9000"}, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
}

// ask connects and returns the server's line: its name and whom it saw.
func ask(from *lab.Namespace, network string, to netip.Addr) (server, seen string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := from.DialContext(ctx, network, netip.AddrPortFrom(to, 9000).String())
	if err != nil {
		return "", "", err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte("x")); err != nil {
		return "", "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	server, seen, _ = strings.Cut(strings.TrimSpace(line), " ")
	if ap, e := netip.ParseAddrPort(seen); e == nil {
		seen = ap.Addr().String()
	}
	return server, seen, err
}

func TestReach(t *testing.T) {
	c := newCluster(t)
	type machine struct {
		ns     *lab.Namespace
		v4, v6 netip.Addr
	}
	pod := func(p *lab.Pod) machine { return machine{p.Namespace, p.IPv4(), p.IPv6()} }
	a, b, far := pod(c.a), pod(c.b), pod(c.c)
	node1 := machine{c.node1.Namespace, c.node1.IPv4(), c.node1.IPv6()}
	node2 := machine{c.node2.Namespace, c.node2.IPv4(), c.node2.IPv6()}
	client := machine{c.client.Namespace, c.client.IPv4(), c.client.IPv6()}
	for _, pair := range []struct{ from, to machine }{
		{a, b}, {a, far}, {far, a}, {a, a}, {node1, a}, {node2, a}, {a, node1}, {far, node1}, {client, node1},
	} {
		for _, network := range []string{"tcp", "udp"} {
			for _, ip := range [][2]netip.Addr{{pair.from.v4, pair.to.v4}, {pair.from.v6, pair.to.v6}} {
				server, seen, err := ask(pair.from.ns, network, ip[1])
				if err != nil || server != pair.to.ns.Name() || seen != ip[0].String() {
					t.Errorf("%s from %s to %s %v: answered by %q, seen as %q (want %v), %v",
						network, pair.from.ns.Name(), pair.to.ns.Name(), ip[1], server, seen, ip[0], err)
				}
			}
		}
	}
	if server, _, err := ask(client.ns, "tcp", far.v4); err == nil {
		t.Errorf("the client outside reached a pod: %s", server)
	}
}

func TestAddresses(t *testing.T) {
	c := newCluster(t)
	got := fmt.Sprint(c.node1.Addrs(), c.node2.Addrs(), c.a.Addrs(), c.b.Addrs(), c.c.Addrs(), c.client.IPv4(), c.client.IPv6())
	want := "[10.240.0.11 fd00:10:240::11] [10.240.0.12 fd00:10:240::12] " +
		"[10.244.1.10 fd00:10:244:1::a] [10.244.1.11 fd00:10:244:1::b] [10.244.2.10 fd00:10:244:2::a] 10.250.0.11 fd00:10:250::11"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// A pod with addresses of its own choice is reached from the other node.
	odd, err := c.node1.Pod("odd", netip.MustParseAddr("172.30.0.7"), netip.MustParseAddr("fd00:30::7"))
	if err != nil {
		t.Fatal(err)
	}
	serve(t, odd.Namespace)
	for _, ip := range odd.Addrs() {
		if server, _, err := ask(c.c.Namespace, "tcp", ip); err != nil || server != "odd" {
			t.Errorf("%v: %q, %v", ip, server, err)
		}
	}
	if c.Namespace("node1/odd") != odd.Namespace || c.Namespace("nobody") != nil {
		t.Error("Namespace does not find by name")
	}
	if _, err := c.node1.Pod("odd"); err == nil {
		t.Error("two pods of one name")
	}
}

// TestHairpin has a pod reach itself by an address that its node rewrites, as a
// Service with one endpoint does.
func TestHairpin(t *testing.T) {
	c := newCluster(t)
	rules := `table inet test {
	chain pre { type nat hook prerouting priority -100
		ip daddr 10.96.0.7 dnat ip to 10.244.1.10
		ip6 daddr fd00:10:96::7 dnat ip6 to fd00:10:244:1::a
	}
	chain post { type nat hook postrouting priority 100
		ct status dnat masquerade
	}
}`
	cmd := c.node1.Command(t.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	for service, node := range map[string]netip.Addr{"10.96.0.7": c.node1.IPv4(), "fd00:10:96::7": c.node1.IPv6()} {
		for _, from := range []*lab.Pod{c.a, c.b} {
			server, seen, err := ask(from.Namespace, "tcp", netip.MustParseAddr(service))
			if err != nil || server != "a" || seen != node.String() {
				t.Errorf("%s from %s: answered by %q, seen as %q, %v", service, from.Name(), server, seen, err)
			}
		}
	}
}

func TestHTTPClient(t *testing.T) {
	c := newCluster(t)
	client := c.c.HTTPClient()
	request, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+net.JoinHostPort(c.a.IPv6().String(), "80")+"/x", nil)
	request.Host = "web.example.com"
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var answer echo.Answer
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if answer.Name != "a" || answer.Host != "web.example.com" || !strings.HasPrefix(answer.Client, "["+c.c.IPv6().String()+"]") {
		t.Errorf("%+v", answer)
	}
	if _, err := c.a.DialContext(t.Context(), "tcp", "localhost:80"); err == nil {
		t.Error("a name was dialled, which would be resolved outside")
	}
}

func TestResolvConf(t *testing.T) {
	c := newCluster(t)
	before, _ := os.ReadFile("/etc/resolv.conf")
	for _, p := range []*lab.Pod{c.a, c.b} {
		want := "nameserver " + p.IPv4().String() + "\n"
		if err := p.SetResolvConf(want); err != nil {
			t.Fatal(err)
		}
		if out, err := p.Command(t.Context(), "cat", "/etc/resolv.conf").Output(); err != nil || string(out) != want {
			t.Errorf("%s: %q, %v", p.Name(), out, err)
		}
	}
	if after, _ := os.ReadFile("/etc/resolv.conf"); string(after) != string(before) {
		t.Errorf("the test's own resolv.conf is now %q", after)
	}
}

func TestDoComesHome(t *testing.T) {
	c := newCluster(t)
	here := netOf(t)
	inside := ""
	err := c.a.Do(func() error {
		inside = netOf(t)
		nested := ""
		if err := c.b.Do(func() error { nested = netOf(t); return nil }); err != nil {
			return err
		}
		if nested == inside || netOf(t) != inside {
			t.Error("a nested Do is in the wrong namespace")
		}
		return fmt.Errorf("kept: %w", os.ErrExist)
	})
	if err == nil || err.Error() != "kept: file already exists" {
		t.Errorf("Do returned %v", err)
	}
	if inside == here || netOf(t) != here {
		t.Error("Do was not inside, or did not come home")
	}
}

func netOf(t *testing.T) string {
	t.Helper()
	s, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return s
}
