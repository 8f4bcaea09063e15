package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
)

// addresses are those of a Service.
type addresses struct{ v4, v6 netip.Addr }

// Shares that the table expects.
var (
	evenly = map[string]float64{"web-1": 1. / 3, "web-2": 1. / 3, "web-3": 1. / 3}
	quotes = map[string]float64{"quotes-v1-1": .9, "quotes-v2-1": .1}
	orders = map[string]float64{"orders-v1-1": .9, "orders-v2-1": .1}
)

// nodePort is that of the Service web.
const nodePort = 30080

// sharing is a line that asks n times and compares the shares.
func sharing(what, expected string, n int, want map[string]float64, ask asking) check {
	return check{what, expected, func(ctx context.Context) (string, error) {
		t := count(ctx, n, ask)
		return t.String(), t.shares(want)
	}}
}

func (d *demo) runAll(ctx context.Context, checks ...check) error {
	for _, c := range checks {
		if err := d.table.run(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) services(ctx context.Context) error {
	d.table.section("Services, by the kernel's own rules: ClusterIPs from a Pod, NodePorts from outside")
	toolbox, client := d.pods["toolbox"], d.client
	web, node1, node2 := d.ips["web"], d.nodes["node1"], d.nodes["node2"]
	httpTo := func(from *lab.Namespace, ip netip.Addr, port uint16) asking {
		return plain(from, netip.AddrPortFrom(ip, port), "web").ask
	}
	return d.runAll(ctx,
		sharing(fmt.Sprintf("web, ClusterIP %v", web.v4), "300 connections, evenly over 3 Pods", 300, evenly,
			httpTo(toolbox.Namespace, web.v4, 80)),
		sharing(fmt.Sprintf("web, ClusterIP %v", web.v6), "300 connections, evenly over 3 Pods", 300, evenly,
			httpTo(toolbox.Namespace, web.v6, 80)),
		sharing(fmt.Sprintf("web, NodePort %v:%d", node1.IPv4(), nodePort), "300 connections, evenly over 3 Pods", 300, evenly,
			httpTo(client.Namespace, node1.IPv4(), nodePort)),
		sharing(fmt.Sprintf("web, NodePort [%v]:%d", node2.IPv6(), nodePort), "300 connections, evenly over 3 Pods", 300, evenly,
			httpTo(client.Namespace, node2.IPv6(), nodePort)),
		sharing("quotes, UDP port 9000", "200 datagrams, evenly over 2 Pods", 200,
			map[string]float64{"quotes-v1-1": .5, "quotes-v2-1": .5},
			line(toolbox.Namespace, "udp", netip.AddrPortFrom(d.ips["quotes"].v4, 9000))),
		sharing("quotes, TCP port 9000: a kernel canary", "1000 connections, 90 % v1, 10 % v2", 1000, quotes,
			line(toolbox.Namespace, "tcp", netip.AddrPortFrom(d.ips["quotes"].v4, 9000))),
	)
}

func (d *demo) names(ctx context.Context) error {
	d.table.section("Names, by the node's own server (resolv.conf of a Pod: nameserver %v)", d.dns.server.Addr())
	ask := func(name, kind string, want ...string) check {
		return check{d.dns.tool() + " " + name + " " + kind, strings.Join(want, " "), func(ctx context.Context) (string, error) {
			got, err := d.dns.lookup(ctx, name, kind)
			if err == nil && !slices.Equal(got, want) {
				err = errors.New("another answer was expected")
			}
			return strings.Join(got, " "), err
		}}
	}
	return d.runAll(ctx,
		ask("web", "A", d.ips["web"].v4.String()),
		ask("web.default.svc.cluster.local.", "AAAA", d.ips["web"].v6.String()),
		ask("quotes-main", "CNAME", "quotes-v1.default.svc.cluster.local."),
		ask("nobody.default.svc.cluster.local.", "A", "NXDOMAIN"),
	)
}

func (d *demo) gateway(ctx context.Context) error {
	node1 := d.nodes["node1"]
	d.table.section("A Gateway at %v, from outside", node1.Addrs())
	port := func(ip netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(ip, p) }
	from := d.client.Namespace
	return d.runAll(ctx,
		sharing("http://www.example.com, IPv4", "300 requests, evenly over 3 Pods", 300, evenly,
			plain(from, port(node1.IPv4(), 80), "www.example.com").ask),
		sharing("https://www.example.com, IPv6", "90 requests, evenly over 3 Pods", 90, evenly,
			secure(from, port(node1.IPv6(), 443), "www.example.com", d.trust).ask),
		sharing("https://quotes.example.com: a canary", "500 requests, 90 % v1, 10 % v2", 500, quotes,
			secure(from, port(node1.IPv4(), 443), "quotes.example.com", d.trust).keepAlive().ask),
		check{"http://unknown.example.com", "status 404", func(ctx context.Context) (string, error) {
			_, err := plain(from, port(node1.IPv4(), 80), "unknown.example.com").get(ctx)
			var status *statusError
			if errors.As(err, &status) && status.code == 404 {
				return "status 404", nil
			}
			return "", fmt.Errorf("not 404: %w", orEnd(err))
		}},
	)
}

// ordersFrom asks for the Service orders by its name.
func (d *demo) ordersFrom(pod string) *web {
	return plain(d.pods[pod].Namespace, netip.AddrPortFrom(d.ips["orders"].v4, 80), "orders")
}

func (d *demo) mesh(ctx context.Context) error {
	d.table.section("The mesh: frontend and orders have an Envoy beside them; orders is STRICT")
	if d.noMesh != "" {
		d.table.note("not shown: %s", d.noMesh)
		d.table.missing = "the mesh"
		return nil
	}
	const identity = "spiffe://cluster.local/ns/default/sa/frontend"
	orders4 := d.ordersFrom("frontend-1")
	seen := map[string]int{}
	var mu sync.Mutex // guards seen
	return d.runAll(ctx,
		sharing("http://orders from frontend: a canary", "500 requests, 90 % v1, 10 % v2", 500, orders,
			func(ctx context.Context) (string, error) {
				answer, err := orders4.get(ctx)
				if err != nil {
					return "", err
				}
				mu.Lock()
				seen[answer.PeerID]++
				mu.Unlock()
				return answer.Name, nil
			}),
		check{"the peer that orders saw", "frontend's SPIFFE ID", func(context.Context) (string, error) {
			counted := tally{counts: seen}
			return counted.String(), counted.shares(map[string]float64{identity: 1})
		}},
		check{"sluice get proxies", fmt.Sprintf("%d Envoys, all Current", d.proxies()), func(ctx context.Context) (string, error) {
			states, err := d.proxyStates(ctx)
			counted := tally{counts: states}.String()
			if err == nil && states["Current"] != d.proxies() {
				err = errors.New("some are not")
			}
			return counted, err
		}},
		check{"plaintext to orders, without a sidecar", "20 connections, none answered", func(ctx context.Context) (string, error) {
			refused := count(ctx, 20, d.ordersFrom("toolbox").ask)
			counted := fmt.Sprintf("%d answered, %d closed by the server", 20-len(refused.errs), len(refused.errs))
			if len(refused.errs) != 20 {
				return counted, errors.New("plaintext got through")
			}
			for _, err := range refused.errs {
				if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
					return counted, err
				}
			}
			return counted, nil
		}},
	)
}

// probes ask on all ways that an edit of canary.yaml changes.
func (d *demo) probes(oldVersion string) []*probe {
	of := func(name string) func(string) bool {
		return func(who string) bool { return strings.HasPrefix(who, name+"-"+oldVersion) }
	}
	from := d.client.Namespace
	quotesGate := plain(from, netip.AddrPortFrom(d.nodes["node1"].IPv4(), 80), "quotes.example.com").keepAlive()
	probes := []*probe{
		{what: "kernel: connections to quotes:9000", old: of("quotes"),
			ask: line(d.pods["toolbox"].Namespace, "tcp", netip.AddrPortFrom(d.ips["quotes"].v4, 9000))},
		{what: "DNS: what quotes-main stands for", old: of("quotes"), ask: d.dns.alias("quotes-main.default.svc.cluster.local.")},
		{what: "Gateway: requests for quotes.example.com", old: of("quotes"), ask: quotesGate.ask},
	}
	if d.noMesh == "" {
		probes = append(probes, &probe{what: "sidecar: requests of frontend to orders", old: of("orders"),
			ask: d.ordersFrom("frontend-1").keepAlive().ask})
	}
	return probes
}

// followed makes an edit and writes a line for each probe.
func (d *demo) followed(ctx context.Context, oldVersion, expected string, change func(string) string) error {
	probes := d.probes(oldVersion)
	edited, err := follow(ctx, probes, func() (time.Time, error) { return d.edit("canary.yaml", change) })
	if err != nil {
		return err
	}
	for _, p := range probes {
		counted, err := p.result(edited)
		d.table.line(check{what: p.what, expected: expected}, counted, err)
	}
	return nil
}

func (d *demo) edits(ctx context.Context) error {
	d.table.section("An edit of canary.yaml: everything to version 2, and the time until all answers are new")
	return d.followed(ctx, "v1", "version 2, within milliseconds", promote)
}

func (d *demo) restart(ctx context.Context) error {
	d.table.section("sluice is killed with SIGKILL on both nodes, and started again, at %d requests/s on each way", rate)
	from := d.client.Namespace
	secured := secure(from, netip.AddrPortFrom(d.nodes["node1"].IPv4(), 443), "www.example.com", d.trust)
	loads := []*load{
		{what: "kernel: new connections to web", ask: plain(d.pods["toolbox"].Namespace, netip.AddrPortFrom(d.ips["web"].v4, 80), "web").ask},
		{what: "Gateway: requests for www.example.com", ask: secured.keepAlive().ask},
	}
	if d.noMesh == "" {
		loads = append(loads, &load{what: "sidecars: requests of frontend to orders", ask: d.ordersFrom("frontend-1").keepAlive().ask})
	}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	for _, l := range loads {
		running.Go(func() { l.run(asking) })
	}
	// What happens under the load, with the context's end as the only error.
	err := func() error {
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		if err := errors.Join(d.up.kill(), d.node.kill()); err != nil {
			return err
		}
		d.table.note("killed; the load goes on")
		if err := sleep(ctx, 2*time.Second); err != nil {
			return err
		}
		began := time.Now()
		if err := errors.Join(d.again(d.up), d.again(d.node)); err != nil {
			return err
		}
		if err := d.ready(ctx); err != nil {
			return err
		}
		d.table.note("started again, and ready after %.1f s", time.Since(began).Seconds())
		return sleep(ctx, 2*time.Second)
	}()
	if err != nil {
		return err
	}
	stop()
	running.Wait()
	for _, l := range loads {
		counted, err := l.result()
		d.table.line(check{what: l.what, expected: "0 failed"}, counted, err)
	}
	d.table.section("The new processes are in charge: canary.yaml, everything to version 1")
	return d.followed(ctx, "v2", "version 1, within milliseconds", rollBack)
}
