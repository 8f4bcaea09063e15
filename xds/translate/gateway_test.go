package translate_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/sluicenet/sluice/route"
)

var loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1")}

// TestHosts sends requests for hosts of all sorts through the real Envoy.
func TestHosts(t *testing.T) {
	c := newControl(t)
	port, other := freePort(t), freePort(t)
	var changes []route.Change
	for _, name := range []string{"exact", "one", "two", "all", "elsewhere"} {
		changes = append(changes, c.backend(gateways, name)...)
	}
	host := func(space, name string, rules ...route.Rule) route.Change {
		return route.Set(gateways, &route.Host{Space: space, Name: name, Rules: rules})
	}
	onlyUnder := to("under", "exact")
	onlyUnder.Match.Path = route.PathMatch{Kind: route.PathPrefix, Value: "/here"}
	changes = append(changes,
		route.Set(gateways, &route.Listener{Name: "web", Gateway: &route.GatewayListener{
			Addresses: loopback, Port: port, Protocol: route.HTTP, Space: "gw/default/gw:web",
		}}),
		route.Set(gateways, &route.Listener{Name: "other", Gateway: &route.GatewayListener{
			Addresses: loopback, Port: other, Protocol: route.HTTP, Space: "gw/default/gw:other",
		}}),
		host("gw/default/gw:web", "a.example.com", to("all", "exact")),
		host("gw/default/gw:web", "partly.example.com", onlyUnder),
		host("gw/default/gw:web", "[::1]", to("all", "exact")),
		host("gw/default/gw:web", "*.example.com", to("all", "one")),
		host("gw/default/gw:web", "*.deep.example.com", to("all", "two")),
		host("gw/default/gw:web", "*", to("all", "all")),
		host("gw/default/gw:other", "a.example.com", to("all", "elsewhere")),
		host("gw/default/gw:other", "secret.example.com", to("all", "elsewhere")),
	)
	c.publish(changes...)
	c.gateway()
	c.acked(gateways)

	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	forged := http.Header{"X-Sluice-Scope": {"gw/default/gw:other|secret.example.com"}}
	for _, tc := range []struct {
		host, path string
		header     http.Header
		backend    string
		code       int
	}{
		{host: "a.example.com", backend: "exact"},
		{host: "a.example.com:8080", backend: "exact"},
		{host: "a.example.com.", backend: "exact"},
		{host: "A.Example.COM", backend: "exact"},
		{host: "A.Example.COM:8080", backend: "exact"},
		{host: "[::1]", backend: "exact"},
		{host: "[::1]:8080", backend: "exact"},
		{host: "b.example.com", backend: "one"},
		{host: "B.EXAMPLE.com:81", backend: "one"},
		{host: "b.c.example.com", backend: "one"},
		{host: "x.deep.example.com", backend: "two"},
		{host: "x.y.deep.example.com:1", backend: "two"},
		{host: "deep.example.com", backend: "one"},
		{host: "example.com", backend: "all"},
		{host: "127.0.0.1", backend: "all"},
		{host: "_fallback", backend: "all"},
		{host: "secret.example.com", backend: "one"},
		{host: "a.example.com", header: forged, backend: "exact"},
		{host: "b.example.com", header: forged, backend: "one"},
		{host: "partly.example.com", path: "/here/it/is", backend: "exact"},
		{host: "partly.example.com", path: "/elsewhere", code: 404},
		{host: "Partly.example.com", path: "/elsewhere", code: 404},
	} {
		got := mustAsk(t, http.DefaultClient, request{url: url + tc.path, host: tc.host, header: tc.header})
		if tc.code == 0 {
			tc.code = 200
		}
		if got.code != tc.code || got.heard.Backend != tc.backend {
			t.Errorf("host %q, path %q, header %v: %d by %q, want %d by %q", tc.host, tc.path, tc.header, got.code, got.heard.Backend, tc.code, tc.backend)
		}
		if v, there := got.heard.Header["X-Sluice-Scope"]; there {
			t.Errorf("host %q: the backend sees the scope %q", tc.host, v)
		}
		if tc.backend != "" && got.heard.Host != tc.host {
			t.Errorf("the backend sees the host %q, want it as it was sent: %q", got.heard.Host, tc.host)
		}
	}

	// The other listener has a space of its own and no wildcards.
	for host, backend := range map[string]string{"a.example.com": "elsewhere", "b.example.com": ""} {
		got := mustAsk(t, http.DefaultClient, request{url: fmt.Sprintf("http://127.0.0.1:%d", other), host: host})
		if got.heard.Backend != backend {
			t.Errorf("other listener, host %q: %d by %q, want %q", host, got.code, got.heard.Backend, backend)
		}
	}
}

// TestUpgrade opens a WebSocket, as far as its handshake and an echo.
func TestUpgrade(t *testing.T) {
	c := newControl(t)
	port := freePort(t)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	}))
	t.Cleanup(backend.Close)
	c.publish(append(clusterOf(gateways, "ws", route.HTTP, netip.MustParseAddrPort(backend.Listener.Addr().String())),
		route.Set(gateways, &route.Listener{Name: "web", Gateway: &route.GatewayListener{
			Addresses: loopback, Port: port, Protocol: route.HTTP, Space: "web",
		}}),
		route.Set(gateways, &route.Host{Space: "web", Name: "ws.example.com", Rules: []route.Rule{to("all", "ws")}}),
	)...)
	c.gateway()
	c.acked(gateways)

	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: ws.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil) //nolint:bodyclose // it is the websocket, which ends with conn
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	_, _ = io.WriteString(conn, "hello\n")
	if line, err := r.ReadString('\n'); line != "hello\n" {
		t.Errorf("%q comes back, %v", line, err)
	}
}
