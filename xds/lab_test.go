package xds_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluicenet/sluice/internal/envoy"
	"github.com/sluicenet/sluice/internal/envoy/envoytest"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds"
	"github.com/sluicenet/sluice/xds/bootstrap"
)

var gw = route.GatewayGroup("default", "gw")

// control is a server on a Unix socket, which can be ended and begun again.
type control struct {
	*xds.Server
	t       *testing.T
	dir     string
	metrics *prometheus.Registry
	stop    func()
}

func newControl(t *testing.T) *control {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl") //nolint:usetesting // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return (&control{t: t, dir: dir}).renew()
}

// renew makes a server that knows nothing. It serves once start is called.
func (c *control) renew() *control {
	c.t.Helper()
	c.metrics = prometheus.NewRegistry()
	var err error
	c.Server, err = xds.New(xds.Options{
		Authorize: func(_ context.Context, node *core.Node) ([]route.Group, error) {
			return bootstrap.Groups(node.GetId())
		},
		Metrics: c.metrics,
		Grace:   500 * time.Millisecond,
		Log:     slog.New(slog.NewTextHandler(c.t.Output(), nil)),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return c
}

func (c *control) socket() string { return filepath.Join(c.dir, "xds") }

func (c *control) start() {
	c.t.Helper()
	ln, err := xds.Listen(c.socket())
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx, ln, nil) }()
	stopped := false
	c.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	}
	c.t.Cleanup(c.stop)
}

func (c *control) envoy() *envoy.Process {
	c.t.Helper()
	admin := filepath.Join(c.dir, "admin")
	raw, err := bootstrap.JSON(bootstrap.Options{
		Node: bootstrap.GatewayNode("default", "gw", "test"), Admin: admin, ADS: c.socket(),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	// With all of Envoy's counters, to see what it waited for.
	var all map[string]any
	if err := json.Unmarshal(raw, &all); err != nil {
		c.t.Fatal(err)
	}
	delete(all, "statsConfig")
	if raw, err = json.Marshal(all); err != nil {
		c.t.Fatal(err)
	}
	p := envoytest.Start(c.t, envoy.Options{Admin: admin, Bootstrap: raw})
	envoytest.Live(c.t, p)
	return p
}

// current waits until the gateway has all.
func (c *control) current() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	if err := c.WaitCurrent(ctx, gw, 1); err != nil {
		c.t.Fatalf("%v; %+v; %+v", err, c.Progress(gw), c.Proxies())
	}
}

// sum adds up the values of a counter.
func (c *control) sum(name string) float64 {
	c.t.Helper()
	families, err := c.metrics.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	total := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			total += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return total
}

// stat returns one of Envoy's counters. There must be one.
func stat(t *testing.T, p *envoy.Process, name string) int {
	t.Helper()
	body, err := p.Admin().Get(t.Context(), "/stats?filter="+regexp.QuoteMeta(name))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if key, v, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && key == name {
			n, err := strconv.Atoi(v)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("Envoy has no counter %s: %s", name, body)
	return 0
}

// backend starts a server that answers with its name.
func backend(t *testing.T, name string) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) })}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(func() { _ = s.Close() })
	return netip.MustParseAddrPort(ln.Addr().String())
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return netip.MustParseAddrPort(ln.Addr().String()).Port()
}

func listener(name string, port uint16) route.Change {
	return route.Set(gw, &route.Listener{Name: name, Gateway: &route.GatewayListener{
		Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Port: port, Protocol: route.HTTP, Space: "web",
	}})
}

func cluster(name string, timeout time.Duration) route.Change {
	return route.Set(gw, &route.Cluster{Name: name, Protocol: route.HTTP, ConnectTimeout: timeout})
}

func endpoints(name string, addrs ...netip.AddrPort) route.Change {
	l := route.Locality{}
	for _, a := range addrs {
		l.Endpoints = append(l.Endpoints, route.Endpoint{Addr: a})
	}
	return route.Set(gw, &route.Endpoints{Cluster: name, Localities: []route.Locality{l}})
}

func host(name string, clusters ...string) route.Change {
	r := route.Rule{Name: "all"}
	for _, c := range clusters {
		r.Backends = append(r.Backends, route.Backend{Cluster: c, Weight: 1})
	}
	return route.Set(gw, &route.Host{Space: "web", Name: name, Rules: []route.Rule{r}})
}

func remove(kind route.Kind, id string) route.Change { return route.Remove(gw, kind, id) }

// get asks a host of the gateway and returns the status and the body.
func get(client *http.Client, port uint16, name string) (int, string, error) {
	req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
	if err != nil {
		return 0, "", err
	}
	req.Host = name
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// serves polls until a host is answered by a backend.
func serves(t *testing.T, port uint16, name, want string) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	deadline := time.Now().Add(30 * time.Second)
	for {
		code, body, err := get(client, port, name)
		if err == nil && code == 200 && body == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d %q %v, want %q", name, code, body, err, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
