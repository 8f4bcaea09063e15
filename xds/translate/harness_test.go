package translate_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"

	"github.com/sluicenet/sluice/internal/envoy"
	"github.com/sluicenet/sluice/internal/envoy/envoytest"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/bootstrap"
	"github.com/sluicenet/sluice/xds/delta"
	"github.com/sluicenet/sluice/xds/translate"
)

// control is a control plane that publishes what it is given.
type control struct {
	t          *testing.T
	dir        string // of sockets
	socket     string
	server     *delta.Server
	translator *translate.Translator
	mu         sync.Mutex
}

func newControl(t *testing.T) *control {
	t.Helper()
	dir := t.TempDir()
	c := &control{t: t, dir: dir, socket: filepath.Join(dir, "xds"), translator: translate.New()}
	c.server = delta.NewServer(delta.Options{
		Authorize: func(_ context.Context, node *core.Node) ([]string, error) {
			groups, err := bootstrap.Groups(node.GetId())
			names := make([]string, len(groups))
			for i, g := range groups {
				names[i] = string(g)
			}
			return names, err
		},
	})
	l, err := net.Listen("unix", c.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	c.server.Register(s)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return c
}

// publish translates and applies, and fails the test if anything does not
// translate.
func (c *control) publish(changes ...route.Change) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	made, failures := c.translator.Apply(changes)
	for _, f := range failures {
		c.t.Errorf("%s: %v", f.Ref, f.Err)
	}
	all := make([]delta.Change, len(made))
	for i := range made {
		all[i] = made[i].Change
	}
	c.server.Apply(all)
}

// acked waits until the clients of a group, at least one, have acknowledged
// all that was published.
func (c *control) acked(groups ...route.Group) {
	c.t.Helper()
	for _, g := range groups {
		var p delta.Progress
		eventually(c.t, func() error {
			p = c.server.Progress(string(g))
			if len(p.Problems) > 0 {
				c.t.Fatalf("%s: %+v", g, p.Problems)
			}
			if p.Clients == 0 || p.Current < p.Clients {
				return fmt.Errorf("%s: %d of %d are current", g, p.Current, p.Clients)
			}
			return nil
		})
	}
}

// gateway starts an Envoy in the group of the Gateway default/gw.
func (c *control) gateway() *envoy.Process {
	c.t.Helper()
	return c.envoy(envoy.Options{}, bootstrap.Options{Node: bootstrap.GatewayNode("default", "gw", "test")})
}

func (c *control) envoy(how envoy.Options, o bootstrap.Options) *envoy.Process {
	c.t.Helper()
	o.Admin = filepath.Join(c.dir, strings.ReplaceAll(o.Node, "/", "-"))
	o.ADS = c.socket
	raw, err := bootstrap.JSON(o)
	if err != nil {
		c.t.Fatal(err)
	}
	how.Admin, how.Bootstrap = o.Admin, raw
	p := envoytest.Start(c.t, how)
	envoytest.Live(c.t, p)
	return p
}

var gateways = route.GatewayGroup("default", "gw")

// eventually calls f until it returns nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// heard is what a backend says that it got.
type heard struct {
	Backend string
	Host    string
	Proto   string
	Path    string
	Header  http.Header
}

// echo is a handler that says what it got.
func echo(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Backend", name)
		_ = json.NewEncoder(w).Encode(heard{Backend: name, Host: r.Host, Proto: r.Proto, Path: r.URL.RequestURI(), Header: r.Header})
	})
}

// backend starts a backend and returns the changes that make a cluster of it.
func (c *control) backend(group route.Group, name string) []route.Change {
	c.t.Helper()
	s := httptest.NewServer(echo(name))
	c.t.Cleanup(s.Close)
	return clusterOf(group, name, route.HTTP, netip.MustParseAddrPort(s.Listener.Addr().String()))
}

func clusterOf(group route.Group, name string, protocol route.Protocol, addrs ...netip.AddrPort) []route.Change {
	l := route.Locality{}
	for _, a := range addrs {
		l.Endpoints = append(l.Endpoints, route.Endpoint{Addr: a})
	}
	return []route.Change{
		route.Set(group, &route.Cluster{Name: name, Protocol: protocol}),
		route.Set(group, &route.Endpoints{Cluster: name, Localities: []route.Locality{l}}),
	}
}

// freePort returns a port of loopback that is free just now.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// request is what a test asks for.
type request struct {
	method string
	url    string // as it is connected to
	host   string // the Host header; empty: the URL's
	header http.Header
}

// answer is what came back.
type answer struct {
	code     int
	header   http.Header
	heard    heard // if a backend answered
	location string
}

// ask sends a request and does not follow redirects.
func ask(client *http.Client, r request) (answer, error) {
	if r.method == "" {
		r.method = http.MethodGet
	}
	req, err := http.NewRequest(r.method, r.url, nil)
	if err != nil {
		return answer{}, err
	}
	if r.host != "" {
		req.Host = r.host
	}
	maps.Copy(req.Header, r.header)
	once := *client
	once.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := once.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{code: resp.StatusCode, header: resp.Header, location: resp.Header.Get("Location")}
	if resp.Header.Get("X-Backend") != "" {
		if err := json.Unmarshal(body, &a.heard); err != nil {
			return a, fmt.Errorf("%q: %w", body, err)
		}
	}
	return a, nil
}

// mustAsk fails the test if there is no answer.
func mustAsk(t *testing.T, client *http.Client, r request) answer {
	t.Helper()
	a, err := ask(client, r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.method, r.url, err)
	}
	return a
}

// to returns a rule that sends all to clusters with equal weights.
func to(name string, clusters ...string) route.Rule {
	r := route.Rule{Name: name}
	for _, c := range clusters {
		r.Backends = append(r.Backends, route.Backend{Cluster: c, Weight: 1})
	}
	return r
}

// replaceHost puts a host in the place of HOST.
func replaceHost(s, host string) string { return strings.ReplaceAll(s, "HOST", host) }

// replaceComma is how a list of values prints when it came in one line.
func replaceComma(s string) string { return strings.ReplaceAll(s, " ", ",") }

// redirected dials one address, whatever it is asked for.
type redirected struct {
	addr string
	d    interface {
		DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	}
}

func (r *redirected) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return r.d.DialContext(ctx, network, r.addr)
}

// speaker starts a server that says its name to each connection and closes it.
func speaker(t *testing.T, name string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go speak(l, name)
	return netip.MustParseAddrPort(l.Addr().String())
}

func speak(l net.Listener, name string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, name)
		_ = conn.Close()
	}
}

// listen connects and returns what the server says; empty if the connection
// comes to nothing.
func listen(t *testing.T, dial func(network, addr string) (net.Conn, error), addr string) string {
	t.Helper()
	conn, err := dial("tcp", addr)
	if err != nil {
		return ""
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	said, _ := io.ReadAll(conn)
	return string(said)
}
