package hostile

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sluicenet/sluice/internal/echo"
)

// What is in use while hostile inputs come and go.
const (
	baseVIP  = "10.96.0.100"
	baseHost = "base.example.com"
	basePort = "30100"
	baseName = "base.default.svc.cluster.local."
)

// base returns the manifests in use.
func (w *world) base(t *testing.T) map[string]string {
	return map[string]string{
		"base.yaml": object("Service", "base", `{type: NodePort, clusterIP: `+baseVIP+`, ports: [{name: tcp, port: 9000, nodePort: `+basePort+`}, {name: http, port: 80, targetPort: 8080}]}`) +
			w.slice("base", "tcp", 9000) + w.sliceNamed("base-http", "base", "http", 8080),
		"gateway.yaml": object("GatewayClass", "sluice", `{controllerName: sluice.io/gateway-controller}`) +
			object("Gateway", "base", `{gatewayClassName: sluice, listeners: [
  {name: http, port: 80, protocol: HTTP},
  {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: base}]}}]}`) +
			secret("base", certificate(t, baseHost)),
		"route.yaml": object("HTTPRoute", "base", `{parentRefs: [{name: base}], hostnames: [`+baseHost+`], rules: [{backendRefs: [{name: base, port: 80}]}]}`),
	}
}

// slice is an EndpointSlice of a Service with the pods.
func (w *world) slice(service, portName string, port int) string {
	return w.sliceNamed(service, service, portName, port)
}

func (w *world) sliceNamed(name, service, portName string, port int) string {
	return endpointSlice(name, service, fmt.Sprintf("addressType: IPv4\nports: [{name: %s, port: %d}]\nendpoints: [{addresses: [%s]}, {addresses: [%s]}]\n",
		portName, port, w.pods[0].IPv4(), w.pods[1].IPv4()))
}

// dial opens a connection to an address from a pod and reads who answers.
func (w *world) dial(ctx context.Context, address string) error {
	c, err := w.pods[1].DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	b := make([]byte, 256)
	n, err := c.Read(b)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(b[:n]), "pod") {
		return fmt.Errorf("%q answered", b[:n])
	}
	return nil
}

// lookup asks for the addresses of a name.
func (w *world) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	conn, err := w.pods[0].DialContext(ctx, "udp", w.dns().String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), dns.TypeA)
	c := &dns.Conn{Conn: conn}
	if err := c.WriteMsg(q); err != nil {
		return nil, err
	}
	m, err := c.ReadMsg()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			ip, _ := netip.AddrFromSlice(a.A.To4())
			out = append(out, ip)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: %s with %d records", name, dns.RcodeToString[m.Rcode], len(m.Answer))
	}
	return out, nil
}

// get asks a Gateway for a host and expects an answer of a pod.
func get(ctx context.Context, c *http.Client, scheme, address, host, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+address+path, nil)
	if err != nil {
		return err
	}
	req.Host = host
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %.200s", resp.StatusCode, body)
	}
	var answer echo.Answer
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%w: %.200s", err, body)
	}
	return nil
}

// way is one path of requests; one makes one.
type way struct {
	name string
	one  func(context.Context) error
}

// ways are the paths of the base load.
func (w *world) ways() []way {
	kept := &http.Client{Transport: w.client.Transport()}
	fresh := w.client.HTTPClient()
	fresh.Timeout = patience
	secure := w.client.Transport()
	secure.TLSClientConfig = &tls.Config{ServerName: baseHost, InsecureSkipVerify: true} //nolint:gosec // the certificate is self-signed
	secure.DisableKeepAlives = true
	tlsClient := &http.Client{Transport: secure}
	node := w.node.IPv4().String()
	return []way{
		{"ClusterIP", func(ctx context.Context) error { return w.dial(ctx, net.JoinHostPort(baseVIP, "9000")) }},
		{"NodePort", func(ctx context.Context) error { return w.dial(ctx, net.JoinHostPort(node, basePort)) }},
		{"DNS", func(ctx context.Context) error {
			ips, err := w.lookup(ctx, baseName)
			if err == nil && (len(ips) != 1 || ips[0].String() != baseVIP) {
				err = fmt.Errorf("answer %v", ips)
			}
			return err
		}},
		{"Gateway", func(ctx context.Context) error { return get(ctx, kept, "http", node, baseHost, "/") }},
		{"Gateway, new connections", func(ctx context.Context) error { return get(ctx, fresh, "http", node, baseHost, "/") }},
		{"Gateway with TLS", func(ctx context.Context) error { return get(ctx, tlsClient, "https", node, baseHost, "/") }},
	}
}

// load asks at a steady rate on every way.
type load struct {
	mu       sync.Mutex // guards the rest
	sent     int
	failures []string
}

// rate is how many requests are begun in a second.
const rate = 120

// run asks until the context ends, and waits for the last answers.
func (l *load) run(ctx context.Context, ways []way) {
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	var open sync.WaitGroup
	defer open.Wait()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		way := ways[i%len(ways)]
		open.Go(func() {
			// The end of the load does not cut off what was asked before.
			limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience/2)
			defer cancel()
			err := way.one(limit)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.sent++
			if err != nil {
				l.failures = append(l.failures, way.name+": "+err.Error())
			}
		})
	}
}

// counted returns how many requests were answered or have failed, and takes
// the failures.
func (l *load) counted() (sent int, failures []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	failures, l.failures = l.failures, nil
	return l.sent, failures
}
