package translate_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"testing"

	"github.com/sluicenet/sluice/route"
)

// tlsClient connects to addr whatever it asks for, and asks for a server name.
func tlsClient(addr, sni string, ca *authority, h2 bool) *http.Client {
	tr := &http.Transport{ForceAttemptHTTP2: h2, DisableKeepAlives: true}
	dialer := &net.Dialer{}
	config := &tls.Config{RootCAs: ca.pool(), ServerName: sni}
	if h2 {
		config.NextProtos = []string{"h2"}
	}
	tr.DialTLSContext = (&redirected{addr: addr, d: &tls.Dialer{NetDialer: dialer, Config: config}}).dial
	return &http.Client{Transport: tr}
}

// TestHTTPS checks which chain takes a connection, and that a request for a
// host of another one is told so.
func TestHTTPS(t *testing.T) {
	c := newControl(t)
	ca := newAuthority(t)
	port := freePort(t)
	secret := func(name string, hosts ...string) route.Change {
		cert, key := ca.leaf(hosts...)
		return route.Set(gateways, &route.Secret{Name: name, Cert: cert, Key: key})
	}
	changes := []route.Change{
		secret("a", "a.example.com"), secret("wild", "*.example.com"), secret("any", "any.example.org", "*.example.org"),
		route.Set(gateways, &route.Listener{Name: "tls", Gateway: &route.GatewayListener{
			Addresses: loopback, Port: port, Protocol: route.HTTPS,
			Chains: []route.TLSChain{
				{Name: "a", ServerNames: []string{"A.example.com"}, Secrets: []string{"a"}, Space: "tls:a"},
				{Name: "wild", ServerNames: []string{"*.example.com"}, Secrets: []string{"wild"}, Space: "tls:wild"},
				{Name: "any", Secrets: []string{"any"}, Space: "tls:any"},
			},
		}}),
		route.Set(gateways, &route.Host{Space: "tls:a", Name: "a.example.com", Rules: []route.Rule{to("all", "a")}}),
		route.Set(gateways, &route.Host{Space: "tls:wild", Name: "b.example.com", Rules: []route.Rule{to("all", "b")}}),
		route.Set(gateways, &route.Host{Space: "tls:wild", Name: "*.sub.example.com", Rules: []route.Rule{to("all", "sub")}}),
		// A host without a name on a listener that has one means that name.
		route.Set(gateways, &route.Host{Space: "tls:any", Name: "*", Rules: []route.Rule{to("all", "any")}}),
	}
	for _, name := range []string{"a", "b", "sub", "any"} {
		changes = append(changes, c.backend(gateways, name)...)
	}
	c.publish(changes...)
	c.gateway()
	c.acked(gateways)
	addr := fmt.Sprintf("127.0.0.1:%d", port)

	for _, tc := range []struct {
		sni, host, backend string
		code               int
	}{
		{sni: "a.example.com", host: "a.example.com", backend: "a"},
		{sni: "a.example.com", host: "a.example.com:8443", backend: "a"},
		{sni: "a.example.com", host: "A.example.com", backend: "a"},
		{sni: "a.example.com", host: "b.example.com", code: 421},
		{sni: "a.example.com", host: "any.example.org", code: 421},
		{sni: "b.example.com", host: "b.example.com", backend: "b"},
		{sni: "b.example.com", host: "x.sub.example.com", backend: "sub"}, // one listener, one certificate
		{sni: "b.example.com", host: "c.example.com", code: 404},
		{sni: "b.example.com", host: "a.example.com", code: 421},
		{sni: "b.example.com", host: "any.example.org", code: 421},
		{sni: "any.example.org", host: "any.example.org", backend: "any"},
		{sni: "any.example.org", host: "other.example.org", backend: "any"},
		{sni: "any.example.org", host: "a.example.com", code: 421},
		{sni: "any.example.org", host: "b.example.com", code: 421},
	} {
		for _, h2 := range []bool{false, true} {
			got := mustAsk(t, tlsClient(addr, tc.sni, ca, h2), request{url: "https://" + addr + "/", host: tc.host})
			want := max(tc.code, 200)
			if got.code != want || got.heard.Backend != tc.backend {
				t.Errorf("SNI %s, host %s, HTTP/2 %v: %d by %q, want %d by %q", tc.sni, tc.host, h2, got.code, got.heard.Backend, want, tc.backend)
			}
			if got.heard.Backend != "" && got.heard.Header.Get("X-Forwarded-Proto") != "https" {
				t.Errorf("the backend does not get to know of HTTPS: %v", got.heard.Header)
			}
		}
	}

	if _, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.pool(), ServerName: "a.example.com", MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("TLS 1.1 is accepted")
	}

	// Another certificate is taken up with no listener touched.
	before := serial(t, addr, "a.example.com", ca)
	c.publish(secret("a", "a.example.com"))
	eventually(t, func() error {
		if serial(t, addr, "a.example.com", ca) == before {
			return fmt.Errorf("the old certificate is still shown")
		}
		return nil
	})
}

// serial returns the number of the certificate that a server shows.
func serial(t *testing.T, addr, sni string, ca *authority) string {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: ca.pool(), ServerName: sni})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// TestTCP sends a connection through a listener of TCP, with weights by
// localities.
func TestTCP(t *testing.T) {
	c := newControl(t)
	port := freePort(t)
	one, two := speaker(t, "one"), speaker(t, "two")
	split := func(weightOne, weightTwo uint32) route.Change {
		return route.Set(gateways, &route.Endpoints{Cluster: "db", Localities: []route.Locality{
			{Name: "one", Weight: weightOne, Endpoints: []route.Endpoint{{Addr: one}}},
			{Name: "two", Weight: weightTwo, Endpoints: []route.Endpoint{{Addr: two}}},
		}})
	}
	c.publish(
		route.Set(gateways, &route.Listener{Name: "db", Gateway: &route.GatewayListener{
			Addresses: loopback, Port: port, Protocol: route.TCP, Cluster: "db",
		}}),
		route.Set(gateways, &route.Cluster{Name: "db", Protocol: route.TCP, Localities: true}),
		split(9, 1),
	)
	c.gateway()
	c.acked(gateways)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	count := func(n int) map[string]int {
		counts := map[string]int{}
		for range n {
			counts[listen(t, net.Dial, addr)]++
		}
		return counts
	}
	if got := count(1000); got["one"] < 850 || got["two"] < 50 {
		t.Errorf("90:10 splits %v", got)
	}
	c.publish(split(0, 1))
	eventually(t, func() error {
		if got := count(20); got["two"] != 20 {
			return fmt.Errorf("0:1 splits %v", got)
		}
		return nil
	})
}
