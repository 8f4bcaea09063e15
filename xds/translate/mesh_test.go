package translate_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/sluicenet/sluice/internal/envoy"
	"github.com/sluicenet/sluice/internal/envoy/envoytest"
	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/mesh/redirect"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/bootstrap"
)

func TestMain(m *testing.M) {
	// A fuzzing process talks to its workers over descriptors that would be
	// lost on the way into a lab.
	if slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, "-test.fuzz") }) {
		os.Exit(m.Run())
	}
	os.Exit(lab.Main(m))
}

// proxyUID is the user whose connections are not redirected.
const proxyUID = 1337

// secrets serves a workload's certificate as the sidecar does beside Envoy.
type secrets struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	byName map[string]*tlsv3.Secret
}

func (s *secrets) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	answered := map[string]bool{}
	for {
		req, err := stream.Recv()
		if err != nil {
			return nil // the client is gone
		}
		resp := &discovery.DiscoveryResponse{TypeUrl: req.TypeUrl, VersionInfo: "1", Nonce: "n"}
		for _, name := range req.ResourceNames {
			if answered[name] {
				continue
			}
			answered[name] = true
			body, err := anypb.New(s.byName[name])
			if err != nil {
				return err
			}
			resp.Resources = append(resp.Resources, body)
		}
		if len(resp.Resources) > 0 {
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
	}
}

func identity(service string) string { return "spiffe://test/ns/default/sa/" + service }

// sidecar starts a sidecar in a Pod and redirects the Pod's connections to it.
func (c *control) sidecar(pod *lab.Pod, ca *authority) *envoy.Process {
	c.t.Helper()
	cert, key := ca.leaf(identity(pod.Name()))
	bytes := func(b []byte) *core.DataSource {
		return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: b}}
	}
	socket := filepath.Join(c.dir, pod.Name())
	l, err := net.Listen("unix", socket)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, path := range []string{filepath.Dir(c.dir), c.dir, c.socket, socket} {
		if err := os.Chmod(path, 0o777); err != nil {
			c.t.Fatal(err)
		}
	}
	s := grpc.NewServer()
	secretv3.RegisterSecretDiscoveryServiceServer(s, &secrets{byName: map[string]*tlsv3.Secret{
		bootstrap.WorkloadSecret: {Name: bootstrap.WorkloadSecret, Type: &tlsv3.Secret_TlsCertificate{
			TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: bytes(cert), PrivateKey: bytes(key)},
		}},
		bootstrap.RootsSecret: {Name: bootstrap.RootsSecret, Type: &tlsv3.Secret_ValidationContext{
			ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: bytes(ca.pem)},
		}},
	}})
	go func() { _ = s.Serve(l) }()
	c.t.Cleanup(s.Stop)
	if err := redirect.Apply(redirect.Config{ProxyUID: proxyUID}, pod.FD()); err != nil {
		c.t.Fatal(err)
	}
	return c.envoy(envoy.Options{Within: pod.Do, Credential: &syscall.Credential{Uid: proxyUID, Gid: proxyUID}},
		bootstrap.Options{Node: bootstrap.SidecarNode("default", pod.Name()), SDS: socket})
}

// mesh is two Pods with sidecars and one without, all with servers.
type mesh struct {
	*control
	ca                    *authority
	client, server, plain *lab.Pod
}

// serverPorts are the ports of the server's application.
var serverPorts = []route.InboundPort{
	{Port: 8080, Protocol: route.HTTP, Mode: route.Permissive},
	{Port: 8081, Protocol: route.HTTP, Mode: route.Strict},
	{Port: 8082, Protocol: route.HTTP, Mode: route.Disable},
	{Port: 5432, Protocol: route.TCP, Mode: route.Strict},
	{Port: 5433, Protocol: route.TCP, Mode: route.Permissive},
	{Port: 5434, Protocol: route.TCP, Mode: route.Disable},
}

const otherPort = 9999 // that nobody has said anything about

func startMesh(t *testing.T) *mesh {
	t.Helper()
	envoytest.Path(t)
	if os.Getuid() != 0 || !canSetUID() {
		if os.Getenv("CI") != "" {
			t.Fatal("only root can run a sidecar as another user")
		}
		t.Skip("only root can run a sidecar as another user")
	}
	l := lab.ForTest(t, lab.Options{})
	node := l.MustNode("node")
	m := &mesh{control: newControl(t), ca: newAuthority(t),
		client: node.MustPod("client"), server: node.MustPod("server"), plain: node.MustPod("plain")}

	for _, pod := range []*lab.Pod{m.server, m.plain} {
		for _, port := range []uint16{80, 8080, 8081, 8082} {
			serveHTTP(t, pod, port)
		}
		for _, port := range []uint16{5432, 5433, 5434, otherPort} {
			ln, err := pod.Listen("tcp", fmt.Sprintf("[::]:%d", port))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = ln.Close() })
			go speak(ln, pod.Name())
		}
	}
	m.publish(m.plan()...)
	m.sidecar(m.client, m.ca)
	m.sidecar(m.server, m.ca)
	m.acked(route.MeshGroup, route.NamespaceGroup("default"), route.WorkloadGroup("default", "client"), route.WorkloadGroup("default", "server"))
	return m
}

// canSetUID reports whether this user namespace knows other users.
func canSetUID() bool {
	raw, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !strings.HasSuffix(strings.TrimSpace(string(raw)), " 1")
}

func serveHTTP(t *testing.T, pod *lab.Pod, port uint16) {
	t.Helper()
	ln, err := pod.Listen("tcp", fmt.Sprintf("[::]:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: echo(pod.Name()), Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = s.Close() })
}

// Addresses of Services.
var (
	services = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}
	webVIP   = netip.MustParseAddr("10.96.0.10")
	webVIP6  = netip.MustParseAddr("fd00:96::10")
	dbVIP    = netip.MustParseAddr("10.96.0.20")
	dbVIP6   = netip.MustParseAddr("fd00:96::20")
)

// plan is what package mesh would plan for a Service "web" of HTTP, with
// versions that have a sidecar and that have none, and a Service "db" of TCP.
func (m *mesh) plan() []route.Change {
	mtls := &route.ClientMTLS{PeerIDs: []string{identity("server")}, ALPN: route.ALPNMesh}
	var out []route.Change
	cluster := func(name string, protocol route.Protocol, mtls *route.ClientMTLS, endpoints ...route.Endpoint) {
		out = append(out,
			route.Set(route.MeshGroup, &route.Cluster{Name: name, Protocol: protocol, MTLS: mtls}),
			route.Set(route.MeshGroup, &route.Endpoints{Cluster: name, Localities: []route.Locality{{Endpoints: endpoints}}}))
	}
	at := func(pod *lab.Pod, port uint16, mesh bool) route.Endpoint {
		return route.Endpoint{Addr: netip.AddrPortFrom(pod.IPv4(), port), Mesh: mesh}
	}
	cluster("web", route.HTTP, mtls, at(m.server, 8080, true))
	cluster("web-strict", route.HTTP, mtls, at(m.server, 8081, true))
	cluster("web-h2", route.HTTP2, mtls, at(m.server, 8081, true))
	cluster("web-h2plain", route.HTTP2, mtls, at(m.plain, 8080, false))
	cluster("web-plain", route.HTTP, mtls, at(m.plain, 8080, false))
	cluster("web-impostor", route.HTTP, &route.ClientMTLS{PeerIDs: []string{identity("other")}, ALPN: route.ALPNMesh}, at(m.server, 8081, true))
	rules := []route.Rule{to("all", "web")}
	for _, name := range []string{"strict", "h2", "h2plain", "plain", "impostor"} {
		r := to(name, "web-"+name)
		r.Match.Path = route.PathMatch{Kind: route.PathPrefix, Value: "/" + name}
		rules = append([]route.Rule{r}, rules...)
	}
	out = append(out, route.Set(route.MeshGroup, &route.Host{
		Space: route.OutboundSpace("mesh", 80), Name: "web.default.svc.cluster.local", Rules: rules,
	}), route.Set(route.NamespaceGroup("default"), &route.Host{
		Space: route.OutboundSpace("mesh", 80), Name: "web", Rules: rules,
	}))
	for _, vip := range []netip.Addr{dbVIP, dbVIP6} {
		cluster(route.TCPClusterName(netip.AddrPortFrom(vip, 5432)), route.TCP, mtls, at(m.server, 5432, true))
	}
	// A Service of TCP on a port that is HTTP elsewhere.
	cluster(route.TCPClusterName(netip.AddrPortFrom(dbVIP, 80)), route.TCP, mtls, at(m.server, 5433, true))
	return append(out,
		route.Set(route.MeshGroup, &route.Listener{Name: "outbound", Outbound: &route.Outbound{
			Port: 15001, HTTPPorts: []uint16{80, 8080, 8443}, Space: "mesh", ServiceRanges: services,
			TCPServices: []netip.AddrPort{netip.AddrPortFrom(dbVIP, 80)},
		}}),
		route.Set(route.WorkloadGroup("default", "server"), &route.Listener{Name: "inbound", Inbound: &route.Inbound{
			Port: 15006, Ports: serverPorts, Default: route.Permissive,
		}}),
		route.Set(route.WorkloadGroup("default", "client"), &route.Listener{Name: "inbound", Inbound: &route.Inbound{
			Port: 15006, Default: route.Strict,
		}}),
	)
}

func TestMesh(t *testing.T) {
	m := startMesh(t)
	t.Run("http", m.testHTTP)
	t.Run("http2", m.testHTTP2)
	t.Run("tcp", m.testTCP)
	t.Run("inbound", m.testInbound)
	t.Run("loops", m.testLoops)
}

func httpURL(addr netip.Addr, port uint16, path string) string {
	return "http://" + netip.AddrPortFrom(addr, port).String() + path
}

// testHTTP sends requests from an application behind a sidecar.
func (m *mesh) testHTTP(t *testing.T) {
	forged := http.Header{"X-Forwarded-Client-Cert": {"URI=" + identity("admin")}}
	xfcc := "URI=" + identity("client")
	for _, tc := range []struct {
		name    string
		from    *lab.Pod
		url     string
		host    string
		header  http.Header
		code    int
		backend string
		xfcc    string // that the backend has to see; empty: none at all
		proto   string // likewise; empty: HTTP/1.1
	}{
		{name: "by name", from: m.client, url: httpURL(webVIP, 80, "/"), host: "web.default.svc.cluster.local", backend: "server", xfcc: xfcc},
		{name: "by name and port", from: m.client, url: httpURL(webVIP, 80, "/"), host: "web.default.svc.cluster.local:80", backend: "server", xfcc: xfcc},
		{name: "by short name", from: m.client, url: httpURL(webVIP, 80, "/"), host: "web", backend: "server", xfcc: xfcc},
		{name: "over IPv6", from: m.client, url: httpURL(webVIP6, 80, "/"), host: "Web", backend: "server", xfcc: xfcc},
		{name: "forged identity", from: m.client, url: httpURL(webVIP, 80, "/"), host: "web", header: forged, backend: "server", xfcc: xfcc},
		{name: "strict", from: m.client, url: httpURL(webVIP, 80, "/strict"), host: "web", backend: "server", xfcc: xfcc},
		{name: "HTTP/2", from: m.client, url: httpURL(webVIP, 80, "/h2"), host: "web", backend: "server", xfcc: xfcc, proto: "HTTP/2.0"},
		{name: "HTTP/2 without sidecar", from: m.client, url: httpURL(webVIP, 80, "/h2plain"), host: "web", backend: "plain", proto: "HTTP/2.0"},
		{name: "without sidecar", from: m.client, url: httpURL(webVIP, 80, "/plain"), host: "web", backend: "plain"},
		{name: "server of another identity", from: m.client, url: httpURL(webVIP, 80, "/impostor"), host: "web", code: 503},
		{name: "unknown host passes", from: m.client, url: httpURL(m.plain.IPv4(), 80, "/"), host: "unknown.example.com", backend: "plain"},
		{name: "unknown host passes over IPv6", from: m.client, url: httpURL(m.plain.IPv6(), 8080, "/"), host: "unknown.example.com", backend: "plain"},
		{name: "known host at another address", from: m.client, url: httpURL(m.plain.IPv4(), 80, "/"), host: "web", backend: "server", xfcc: xfcc},
		{name: "known host on another port", from: m.client, url: httpURL(m.plain.IPv4(), 8080, "/"), host: "web", backend: "plain"},
		{name: "to itself", from: m.server, url: httpURL(webVIP, 80, "/"), host: "web", backend: "server", xfcc: "URI=" + identity("server")},
	} {
		a, err := ask(tc.from.HTTPClient(), request{url: tc.url, host: tc.host, header: tc.header})
		got := a.heard.Header.Get("X-Forwarded-Client-Cert")
		if err != nil || a.code != max(tc.code, 200) || a.heard.Backend != tc.backend ||
			(tc.xfcc == "") != (got == "") || !strings.Contains(got, tc.xfcc) || strings.Contains(got, "admin") {
			t.Errorf("%s: %d by %q, identity %q, %v; want %d by %q, identity %q", tc.name, a.code, a.heard.Backend, got, err, max(tc.code, 200), tc.backend, tc.xfcc)
		}
		if tc.proto == "" {
			tc.proto = "HTTP/1.1"
		}
		if tc.backend != "" && a.heard.Proto != tc.proto {
			t.Errorf("%s: the backend is spoken to in %s, want %s", tc.name, a.heard.Proto, tc.proto)
		}
		if tc.backend != "" && a.heard.Host != tc.host {
			t.Errorf("%s: the backend sees the host %q, want %q", tc.name, a.heard.Host, tc.host)
		}
	}
}

// testHTTP2 speaks HTTP/2 without TLS to a sidecar.
func (m *mesh) testHTTP2(t *testing.T) {
	tr := &http.Transport{DialContext: m.client.DialContext, Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	for url, want := range map[string]heard{
		httpURL(webVIP, 80, "/h2"):         {Backend: "server", Proto: "HTTP/2.0"},
		httpURL(webVIP, 80, "/"):           {Backend: "server", Proto: "HTTP/1.1"},
		httpURL(m.plain.IPv4(), 8080, "/"): {Backend: "plain", Proto: "HTTP/2.0"}, // passes as it is
	} {
		a, err := ask(client, request{url: url, host: "web"})
		if err != nil || a.heard.Backend != want.Backend || a.heard.Proto != want.Proto {
			t.Errorf("%s: %d by %q in %s, %v; want %q in %s", url, a.code, a.heard.Backend, a.heard.Proto, err, want.Backend, want.Proto)
		}
	}
}

func dialer(pod *lab.Pod) func(network, addr string) (net.Conn, error) {
	return func(network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		return pod.DialContext(ctx, network, addr)
	}
}

// testTCP opens connections on which the server speaks first.
func (m *mesh) testTCP(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		addr       netip.AddrPort
	}{
		{"by address", "server", netip.AddrPortFrom(dbVIP, 5432)},
		{"by address of IPv6", "server", netip.AddrPortFrom(dbVIP6, 5432)},
		{"on a port of HTTP", "server", netip.AddrPortFrom(dbVIP, 80)},
		{"unknown Service", "", netip.AddrPortFrom(dbVIP, 5555)},
		{"elsewhere passes", "plain", netip.AddrPortFrom(m.plain.IPv4(), 5432)},
		{"elsewhere passes over IPv6", "plain", netip.AddrPortFrom(m.plain.IPv6(), 5432)},
	} {
		if got := listen(t, dialer(m.client), tc.addr.String()); got != tc.want {
			t.Errorf("%s: %q answers, want %q", tc.name, got, tc.want)
		}
	}
	m.ownTLS(t, m.plain, m.client)
}

// testInbound connects to the server from outside of the mesh.
func (m *mesh) testInbound(t *testing.T) {
	from := dialer(m.plain)
	to := func(port uint16) string { return netip.AddrPortFrom(m.server.IPv4(), port).String() }

	forged := http.Header{"X-Forwarded-Client-Cert": {"URI=" + identity("admin")}}
	for port, ok := range map[uint16]bool{8080: true, 8081: false, 8082: true} {
		a, err := ask(m.plain.HTTPClient(), request{url: "http://" + to(port), header: forged})
		if (err == nil && a.code == 200) != ok {
			t.Errorf("clear text to port %d: %d, %v; want it taken: %v", port, a.code, err, ok)
		}
		if xfcc := a.heard.Header.Get("X-Forwarded-Client-Cert"); xfcc != "" {
			t.Errorf("port %d: a client without a certificate is taken for %q", port, xfcc)
		}
	}
	// STRICT refuses clear text as soon as it sees some.
	if got := listen(t, func(network, addr string) (net.Conn, error) {
		conn, err := from(network, addr)
		if err == nil {
			_, err = io.WriteString(conn, "hello, is anybody there?\n")
		}
		return conn, err
	}, to(5432)); strings.Contains(got, "server") {
		t.Errorf("clear text to a port that is STRICT: %q answers", got)
	}
	for port, want := range map[uint16]string{5433: "server", 5434: "server", otherPort: "server"} {
		if got := listen(t, from, to(port)); got != want {
			t.Errorf("clear text to port %d: %q answers, want %q", port, got, want)
		}
	}

	// Mutual TLS, by clients of all sorts.
	stranger := newAuthority(t)
	for _, tc := range []struct {
		name   string
		config *tls.Config
		ok     bool
	}{
		{"member of the mesh", m.ca.client(identity("friend")), true},
		{"no identity", m.ca.client("friend.example.com"), false},
		{"signed by others", stranger.client(identity("friend")), false},
		{"no certificate", &tls.Config{}, false},
	} {
		tc.config.InsecureSkipVerify = true // the server has no DNS name
		tc.config.NextProtos = []string{route.ALPNMesh}
		for _, port := range []uint16{5432, 5433, otherPort} {
			got := listen(t, func(network, addr string) (net.Conn, error) {
				raw, err := from(network, addr)
				if err != nil {
					return nil, err
				}
				return tls.Client(raw, tc.config), nil
			}, to(port))
			if (got == "server") != tc.ok {
				t.Errorf("%s, port %d: %q answers, want that it is let in: %v", tc.name, port, got, tc.ok)
			}
		}
	}

	// The application's own TLS passes as it is.
	m.ownTLS(t, m.server, m.plain)
}

// ownTLS speaks TLS of an application from one Pod to another, on a port that
// is HTTP elsewhere, and offers HTTP in it.
func (m *mesh) ownTLS(t *testing.T, server, client *lab.Pod) {
	t.Helper()
	ca := newAuthority(t)
	cert, key := ca.leaf("app.example.com")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := server.Listen("tcp", "[::]:8443")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	protocols := []string{"h2", "http/1.1"}
	go speak(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: protocols}), "own TLS")
	got := listen(t, func(network, addr string) (net.Conn, error) {
		raw, err := dialer(client)(network, addr)
		if err != nil {
			return nil, err
		}
		return tls.Client(raw, &tls.Config{RootCAs: ca.pool(), ServerName: "app.example.com", NextProtos: protocols}), nil
	}, netip.AddrPortFrom(server.IPv4(), 8443).String())
	if got != "own TLS" {
		t.Errorf("the application's own TLS from %s to %s: %q comes back", client.Name(), server.Name(), got)
	}
}

// testLoops connects to the sidecar's own ports.
func (m *mesh) testLoops(t *testing.T) {
	for _, port := range []uint16{15001, 15006} {
		if got := listen(t, dialer(m.plain), netip.AddrPortFrom(m.server.IPv4(), port).String()); got != "" {
			t.Errorf("port %d says %q", port, got)
		}
	}
}
