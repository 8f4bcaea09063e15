package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// editFigure is the time from the edit of one manifest until it is seen, over
// many edits, in milliseconds.
type editFigure struct {
	Size int     `json:"size"` // Services, and as many hosts with a route
	What string  `json:"what"`
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
	Max  float64 `json:"max_ms"`
}

// The objects that are edited, besides n others of each kind.
const (
	editService = `apiVersion: v1
kind: Service
metadata: {name: edit}
spec:
  clusterIP: 10.96.0.100
  ports: [{name: tcp-echo, port: 9000}]
---
apiVersion: v1
kind: Service
metadata: {name: edit-headless}
spec:
  clusterIP: None
  ports: [{name: tcp-echo, port: 9000}]
`
	gateway = `apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sluice}
spec: {controllerName: sluice.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec:
  gatewayClassName: sluice
  listeners: [{name: http, port: 80, protocol: HTTP}]
`
	webService = `apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.101
  ports: [{name: http, port: 80, targetPort: 8080}]
`
)

// slice is an EndpointSlice of a Service with the given addresses.
func slice(service, portName string, port int, addrs ...netip.Addr) string {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-1, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{name: %[2]s, port: %[3]d}]
endpoints:
`, service, portName, port)
	for _, a := range addrs {
		fmt.Fprintf(&b, "- {addresses: [%s]}\n", a)
	}
	return b.String()
}

// httpRoute routes a host to the Service web, with a header on the answer that
// tells which version of the route it was.
func httpRoute(name, host, version string) string {
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s}
spec:
  parentRefs: [{name: web}]
  hostnames: [%s]
  rules:
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-version, value: "%s"}]}
    backendRefs: [{name: web, port: 80}]
`, name, host, version)
}

// endpoint is an address of a Pod that nobody asks for: each Pod has its own, as
// in a cluster.
func endpoint(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(32 + i>>16), byte(i >> 8), byte(i)})
}

// fill writes n Services with two endpoints each and n routes, 200 a file.
func fill(w *world, n int) error {
	for file := 0; file*200 < n; file++ {
		var docs []string
		for i := file * 200; i < min(n, (file+1)*200); i++ {
			name := fmt.Sprintf("bulk-%d", i)
			docs = append(docs,
				fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec:\n  ports: [{name: http, port: 80, targetPort: 8080}]\n", name),
				slice(name, "http", 8080, endpoint(2*i), endpoint(2*i+1)),
				httpRoute(name, name+".example.com", "1"))
		}
		if _, err := w.write(fmt.Sprintf("bulk-%d.yaml", file), strings.Join(docs, "---\n")); err != nil {
			return err
		}
	}
	return nil
}

// measureEdits runs sluice on n Services and n hosts and edits one object
// after another.
func measureEdits(ctx context.Context, opt options, n, repeat int) ([]editFigure, error) {
	w, err := newWorld(opt, 2)
	if err != nil {
		return nil, err
	}
	defer w.close()
	a, b := w.pods[0], w.pods[1]
	if err := fill(w, n); err != nil {
		return nil, err
	}
	for name, text := range map[string]string{
		"edit.yaml": editService, "gateway.yaml": gateway, "web.yaml": webService,
		"edit-slice.yaml":     slice("edit", "tcp-echo", 9000, a.IPv4()),
		"headless-slice.yaml": slice("edit-headless", "tcp-echo", 9000, a.IPv4()),
		"web-slice.yaml":      slice("web", "http", 8080, a.IPv4()),
		"edit-route.yaml":     httpRoute("edit", "edit.example.com", "0"),
	} {
		if _, err := w.write(name, text); err != nil {
			return nil, err
		}
	}
	start := time.Now()
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	probes := w.probes()
	defer probes.close()
	kinds := []struct {
		what, file string
		text       func(round int) string
		seen       func(round int) (bool, error)
	}{
		{
			"endpoint → packets through the ClusterIP", "edit-slice.yaml",
			func(i int) string { return slice("edit", "tcp-echo", 9000, []netip.Addr{a.IPv4(), b.IPv4()}[i%2]) },
			func(i int) (bool, error) { return probes.kernel(ctx, []string{a.Name(), b.Name()}[i%2]) },
		},
		{
			"endpoint → DNS answer", "headless-slice.yaml",
			func(i int) string {
				return slice("edit-headless", "tcp-echo", 9000, []netip.Addr{a.IPv4(), b.IPv4()}[i%2])
			},
			func(i int) (bool, error) { return probes.dns([]netip.Addr{a.IPv4(), b.IPv4()}[i%2]) },
		},
		{
			"route → request through Envoy", "edit-route.yaml",
			func(i int) string { return httpRoute("edit", "edit.example.com", fmt.Sprint(i)) },
			func(i int) (bool, error) { return probes.envoy(ctx, fmt.Sprint(i)) },
		},
	}
	var out []editFigure
	for _, k := range kinds {
		if err := until(ctx, 120*time.Second, func() (bool, error) {
			time.Sleep(5 * time.Millisecond) // leaves the processor to what starts
			return k.seen(0)
		}); err != nil {
			return nil, fmt.Errorf("start: %s: %w\n%s", k.what, err, w.log)
		}
		fmt.Printf("%6d %-42s in force %.1f s after the start\n", n, k.what, time.Since(start).Seconds())
	}
	for _, k := range kinds {
		var took []time.Duration
		for round := 1; round <= repeat; round++ {
			edited, err := w.write(k.file, k.text(round))
			if err != nil {
				return nil, err
			}
			if err := until(ctx, 20*time.Second, func() (bool, error) { return k.seen(round) }); err != nil {
				return nil, fmt.Errorf("%s: %w\n%s", k.what, err, w.log)
			}
			took = append(took, time.Since(edited))
			time.Sleep(20 * time.Millisecond) // edits that come one by one
		}
		f := figure(n, k.what, took)
		fmt.Printf("%6d %-42s p50 %6.2f ms   p99 %6.2f ms   max %6.2f ms\n", f.Size, f.What, f.P50, f.P99, f.Max)
		out = append(out, f)
	}
	return out, nil
}

func figure(n int, what string, took []time.Duration) editFigure {
	slices.Sort(took)
	at := func(q float64) float64 {
		return float64(took[min(len(took)-1, int(q*float64(len(took))))].Microseconds()) / 1000
	}
	return editFigure{Size: n, What: what, P50: at(0.5), P99: at(0.99), Max: at(1)}
}

// probes look at what is in force, the way that users of it would.
type probes struct {
	w    *world
	http *http.Client
	conn *dns.Conn
	q    *dns.Msg
}

func (w *world) probes() *probes {
	q := new(dns.Msg)
	q.SetQuestion("edit-headless.default.svc.cluster.local.", dns.TypeA)
	return &probes{w: w, http: &http.Client{Transport: w.client.Transport(), Timeout: 2 * time.Second}, q: q}
}

func (p *probes) close() {
	p.http.CloseIdleConnections()
	if p.conn != nil {
		_ = p.conn.Close()
	}
}

// kernel connects to the ClusterIP from a pod and sees who answers.
func (p *probes) kernel(ctx context.Context, want string) (bool, error) {
	name, err := hostname(ctx, p.w.pods[1].Namespace, "10.96.0.100:9000")
	got, _, _ := strings.Cut(name, " ")
	return got == want, err
}

func (p *probes) dns(want netip.Addr) (bool, error) {
	if p.conn == nil {
		var c net.Conn
		err := p.w.node.Do(func() (err error) {
			c, err = net.Dial("udp", p.w.dns())
			return err
		})
		if err != nil {
			return false, err
		}
		p.conn = &dns.Conn{Conn: c}
	}
	p.q.Id = dns.Id()
	_ = p.conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
	if err := p.conn.WriteMsg(p.q); err != nil {
		return false, err
	}
	m, err := p.conn.ReadMsg()
	if err != nil {
		return false, err
	}
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok && a.A.String() == want.String() {
			return true, nil
		}
	}
	return false, fmt.Errorf("answered %s with %d records", dns.RcodeToString[m.Rcode], len(m.Answer))
}

func (p *probes) envoy(ctx context.Context, version string) (bool, error) {
	a, err := ask(ctx, p.http, netip.AddrPortFrom(p.w.node.IPv4(), 80).String(), "edit.example.com")
	if err != nil {
		return false, err
	}
	if got := a.header.Get("x-version"); got != version {
		return false, fmt.Errorf("status %d, version %q", a.status, got)
	}
	return true, nil
}
