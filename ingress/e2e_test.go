package ingress_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/vishvananda/netlink"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/ingress"
	"github.com/sluicenet/sluice/internal/echo"
	"github.com/sluicenet/sluice/internal/envoy"
	"github.com/sluicenet/sluice/internal/envoy/envoytest"
	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/source/files"
	"github.com/sluicenet/sluice/xds"
	"github.com/sluicenet/sluice/xds/bootstrap"
)

func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }

// ownAddress returns an address of this process' own network namespace, where
// all ports are free. One of loopback could be no endpoint's.
func ownAddress(t *testing.T) netip.Addr {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(links, func(l net.Interface) bool { return l.Flags&(net.FlagUp|net.FlagLoopback) == net.FlagUp }) {
		const why = "needs a network namespace of its own"
		if os.Getenv("CI") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr("10.83.0.1")
	if err := netlink.AddrReplace(lo, &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(32, 32)}}); err != nil {
		t.Fatal(err)
	}
	return addr
}

// world is the whole way, from a directory of manifests to a real Envoy.
type world struct {
	t         *testing.T
	manifests string
	run       string // for sockets, whose paths have to be short
	board     *status.Board
	server    *xds.Server
	listen    netip.Addr // where the proxies listen
}

func newWorld(t *testing.T) *world {
	t.Helper()
	run, err := os.MkdirTemp("", "sl") //nolint:usetesting // its sockets' paths have to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	w := &world{t: t, manifests: t.TempDir(), run: run, board: status.NewBoard(), listen: ownAddress(t)}
	w.server, err = xds.New(xds.Options{Authorize: func(_ context.Context, node *core.Node) ([]route.Group, error) {
		return bootstrap.Groups(node.GetId())
	}})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// start runs all of it.
func (w *world) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running []<-chan struct{}
	background := func(name string, f func() error) {
		done := make(chan struct{})
		running = append(running, done)
		go func() {
			defer close(done)
			if err := f(); err != nil && ctx.Err() == nil {
				w.t.Errorf("%s: %v", name, err)
			}
		}()
	}
	w.t.Cleanup(func() {
		cancel()
		for _, done := range running {
			<-done
		}
	})
	store, planned := model.NewStore(), make(chan struct{})
	background("source", func() error {
		return files.New(files.Options{Dir: w.manifests, Store: store, Board: w.board}).Run(ctx)
	})
	watch := w.server.Watch(func(g route.Group) bool { return strings.HasPrefix(string(g), "gateway/") })
	background("ingress", func() error {
		defer watch.Close()
		return ingress.Run(ctx, ingress.Options{
			PlannerOptions: ingress.PlannerOptions{
				Standalone: true,
				Place: func(*model.Snapshot, route.Group, *gatewayv1.Gateway) ingress.Placement {
					return ingress.Placement{Listen: []netip.Addr{w.listen}}
				},
			},
			Store: store, Publisher: w.server, Board: w.board, Progress: w.server,
			Moved: func(ctx context.Context) ([]route.Group, error) {
				progress, err := watch.Next(ctx)
				var groups []route.Group
				for _, p := range progress {
					groups = append(groups, p.Group)
				}
				return groups, err
			},
			Planned: func() { close(planned) },
		})
	})
	select {
	case <-planned:
	case <-time.After(30 * time.Second):
		w.t.Fatal("not planned in 30 s")
	}
	ln, err := xds.Listen(filepath.Join(w.run, "xds"))
	if err != nil {
		w.t.Fatal(err)
	}
	background("xds", func() error { return w.server.Serve(ctx, ln, nil) })
}

// proxy starts an Envoy for a Gateway or, without a namespace, a class.
func (w *world) proxy(namespace, name string) {
	w.t.Helper()
	admin := filepath.Join(w.run, "admin-"+name)
	raw, err := bootstrap.JSON(bootstrap.Options{Node: bootstrap.GatewayNode(namespace, name, "test"), Admin: admin, ADS: filepath.Join(w.run, "xds")})
	if err != nil {
		w.t.Fatal(err)
	}
	envoytest.Live(w.t, envoytest.Start(w.t, envoy.Options{Admin: admin, Bootstrap: raw, Concurrency: 1}))
}

// write puts manifests into a file of the directory, in place of what it held.
func (w *world) write(file, text string) {
	w.t.Helper()
	tmp := filepath.Join(w.run, "tmp")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(w.manifests, file)); err != nil {
		w.t.Fatal(err)
	}
}

// backend starts a server and writes a Service for it.
func (w *world) backend(name string) {
	w.t.Helper()
	s := httptest.NewUnstartedServer(echo.Handler(name))
	_ = s.Listener.Close()
	var err error
	if s.Listener, err = net.Listen("tcp", netip.AddrPortFrom(w.listen, 0).String()); err != nil {
		w.t.Fatal(err)
	}
	s.Start()
	w.t.Cleanup(s.Close)
	addr := netip.MustParseAddrPort(s.Listener.Addr().String())
	w.write("svc-"+name+".yaml", fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {namespace: default, name: %[1]s}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: %[1]s-1, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{name: http, port: %[2]d}]
endpoints: [{addresses: [%[3]s]}]
`, name, addr.Port(), addr.Addr()))
}

// in returns the world as a subtest sees it.
func (w *world) in(t *testing.T) *world {
	sub := *w
	sub.t = t
	return &sub
}

// eventually calls f until it returns nil.
func (w *world) eventually(f func() error) {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// condition waits until an object has a condition of that kind and status, and
// returns its message.
func (w *world) condition(key model.Key, kind, want string) (message string) {
	w.t.Helper()
	w.eventually(func() error {
		r := w.board.Get(key)[ingress.Part]
		cs := r.Conditions
		if v, ok := r.Value.(gatewayv1.HTTPRouteStatus); ok && len(v.Parents) > 0 {
			cs = v.Parents[0].Conditions
		}
		for _, c := range cs {
			if c.Type == kind && string(c.Status) == want {
				message = c.Message
				return nil
			}
		}
		return fmt.Errorf("%s: %s is not %s: %+v", key, kind, want, cs)
	})
	return message
}

// answer is what came back to a request.
type answer struct {
	code     int
	location string
	header   http.Header
	echo     echo.Answer
	cert     *x509.Certificate
}

// ask sends one request on a connection of its own. sni empty means plain HTTP.
func (w *world) ask(port int, sni, method, host, path string, header http.Header) (answer, error) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(w.listen, uint16(port)).String())
		},
		TLSClientConfig: &tls.Config{ServerName: sni, InsecureSkipVerify: true}, //nolint:gosec // the test looks at the certificate itself
	}
	scheme := "http"
	if sni != "" {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, fmt.Sprintf("%s://%s:%d%s", scheme, host, port, path), nil)
	if err != nil {
		return answer{}, err
	}
	if header != nil {
		req.Header = header.Clone()
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	a := answer{code: resp.StatusCode, location: resp.Header.Get("Location"), header: resp.Header}
	if resp.TLS != nil {
		a.cert = resp.TLS.PeerCertificates[0]
	}
	if resp.Header.Get("Content-Type") == "application/json" {
		if err := json.NewDecoder(resp.Body).Decode(&a.echo); err != nil {
			return a, err
		}
	}
	return a, nil
}

// certificate returns a Secret with a new certificate for a name.
func certificate(t *testing.T, secret, name string, serial int64) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {namespace: default, name: %s}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: %s\n  tls.key: %s\n",
		secret, encode("CERTIFICATE", der), encode("PRIVATE KEY", keyDER))
}
