package showcase

import (
	"cmp"
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
)

// Shares that the table expects.
var (
	evenly = map[string]float64{"web-1": 1. / 3, "web-2": 1. / 3, "web-3": 1. / 3}
	quotes = map[string]float64{"quotes-v1-1": .9, "quotes-v2-1": .1}
	orders = map[string]float64{"orders-v1-1": .9, "orders-v2-1": .1}
)

// sharing is a line that asks n times and compares the shares.
func (p *Place) sharing(what, expected string, n int, want map[string]float64, ask Ask) Check {
	return Check{what, expected, func(ctx context.Context) (string, error) {
		t := count(ctx, n, func(ctx context.Context) (string, error) {
			pod, err := ask(ctx)
			return p.who(pod), err
		})
		return t.String(), t.shares(want)
	}}
}

func (p *Place) who(pod string) string {
	if p.Who == nil {
		return pod
	}
	return p.Who(pod)
}

func shown(ip netip.Addr) string {
	if !ip.IsValid() {
		return "IPv6"
	}
	return ip.String()
}

// addressed is a line of what has an address of one family, where it has one.
func addressed(ip netip.Addr, line Check) Check {
	if !ip.IsValid() {
		return Check{What: line.What}
	}
	return line
}

func (p *Place) runAll(ctx context.Context, checks ...Check) error {
	for _, c := range checks {
		if c.Count == nil {
			p.Table.skip(c.What, "there are no addresses of this family here")
			continue
		}
		if err := p.Table.Run(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (p *Place) services(ctx context.Context) error {
	p.Table.Section("Services, by the kernel's own rules: ClusterIPs from a Pod, NodePorts from outside")
	toolbox, client := p.Toolbox, p.Client
	web, first, last := p.Services["web"], p.Nodes[0], p.Nodes[len(p.Nodes)-1]
	httpTo := func(from Dialer, ip netip.Addr, port uint16) Ask {
		return HTTP(from, netip.AddrPortFrom(ip, port), "web").Ask
	}
	return p.runAll(ctx,
		p.sharing(fmt.Sprintf("web, ClusterIP %v", web.V4), "300 connections, evenly over 3 Pods", 300, evenly,
			httpTo(toolbox, web.V4, 80)),
		addressed(web.V6, p.sharing("web, ClusterIP "+shown(web.V6), "300 connections, evenly over 3 Pods", 300, evenly,
			httpTo(toolbox, web.V6, 80))),
		p.sharing(fmt.Sprintf("web, NodePort %v:%d", first.V4, NodePort), "300 connections, evenly over 3 Pods", 300, evenly,
			httpTo(client, first.V4, NodePort)),
		addressed(last.V6, p.sharing(fmt.Sprintf("web, NodePort [%s]:%d", shown(last.V6), NodePort), "300 connections, evenly over 3 Pods", 300, evenly,
			httpTo(client, last.V6, NodePort))),
		p.sharing("quotes, UDP port 9000", "200 datagrams, evenly over 2 Pods", 200,
			map[string]float64{"quotes-v1-1": .5, "quotes-v2-1": .5},
			Line(toolbox, "udp", netip.AddrPortFrom(p.Services["quotes"].V4, 9000))),
		p.sharing("quotes, TCP port 9000: a kernel canary", "1000 connections, 90 % v1, 10 % v2", 1000, quotes,
			Line(toolbox, "tcp", netip.AddrPortFrom(p.Services["quotes"].V4, 9000))),
	)
}

func (p *Place) names(ctx context.Context) error {
	p.Table.Section("Names, by the node's own server (resolv.conf of a Pod: nameserver %v)", p.Names.Server.Addr())
	ask := func(name, kind string, want ...string) Check {
		expected := cmp.Or(strings.Join(want, " "), "no such record")
		return Check{p.Names.tool() + " " + name + " " + kind, expected, func(ctx context.Context) (string, error) {
			got, err := p.Names.lookup(ctx, name, kind)
			if err == nil && !slices.Equal(got, want) {
				err = errors.New("another answer was expected")
			}
			return cmp.Or(strings.Join(got, " "), "no such record"), err
		}}
	}
	var ipv6 []string
	if ip := p.Services["web"].V6; ip.IsValid() {
		ipv6 = []string{ip.String()}
	}
	return p.runAll(ctx,
		ask("web", "A", p.Services["web"].V4.String()),
		ask("web.default.svc.cluster.local.", "AAAA", ipv6...),
		ask("quotes-main", "CNAME", "quotes-v1.default.svc.cluster.local."),
		ask("nobody.default.svc.cluster.local.", "A", "NXDOMAIN"),
	)
}

func (p *Place) gateway(ctx context.Context) error {
	p.Table.Section("A Gateway at %v, from outside", p.Gateway)
	port := func(ip netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(ip, p) }
	from := p.Client
	return p.runAll(ctx,
		p.sharing("http://www.example.com, IPv4", "300 requests, evenly over 3 Pods", 300, evenly,
			HTTP(from, port(p.Gateway.V4, 80), "www.example.com").Ask),
		addressed(p.Gateway.V6, p.sharing("https://www.example.com, IPv6", "90 requests, evenly over 3 Pods", 90, evenly,
			HTTPS(from, port(p.Gateway.V6, 443), "www.example.com", p.Trust).Ask)),
		p.sharing("https://quotes.example.com: a canary", "500 requests, 90 % v1, 10 % v2", 500, quotes,
			HTTPS(from, port(p.Gateway.V4, 443), "quotes.example.com", p.Trust).KeepAlive().Ask),
		Check{"http://unknown.example.com", "status 404", func(ctx context.Context) (string, error) {
			_, err := HTTP(from, port(p.Gateway.V4, 80), "unknown.example.com").Get(ctx)
			var status *statusError
			if errors.As(err, &status) && status.code == 404 {
				return "status 404", nil
			}
			if err == nil {
				err = errors.New("status 200")
			}
			return "", err
		}},
	)
}

func (p *Place) mesh(ctx context.Context) error {
	p.Table.Section("The mesh: frontend and orders have an Envoy beside them; orders is STRICT")
	const identity = "spiffe://cluster.local/ns/default/sa/frontend"
	orders4 := p.OrdersFrom(p.Frontend)
	seen := map[string]int{}
	var mu sync.Mutex // guards seen
	return p.runAll(ctx,
		p.sharing("http://orders from frontend: a canary", "500 requests, 90 % v1, 10 % v2", 500, orders,
			func(ctx context.Context) (string, error) {
				answer, err := orders4.Get(ctx)
				if err != nil {
					return "", err
				}
				mu.Lock()
				seen[answer.PeerID]++
				mu.Unlock()
				return answer.Name, nil
			}),
		Check{"the peer that orders saw", "frontend's SPIFFE ID", func(context.Context) (string, error) {
			counted := tally{counts: seen}
			return counted.String(), counted.shares(map[string]float64{identity: 1})
		}},
		Check{"sluice get proxies", fmt.Sprintf("%d Envoys, all Current", p.Want), func(ctx context.Context) (string, error) {
			states, err := p.Proxies(ctx)
			counted := tally{counts: states}.String()
			if err == nil && states["Current"] != p.Want {
				err = errors.New("some are not")
			}
			return counted, err
		}},
		Check{"plaintext to orders, without a sidecar", "20 connections, none answered", func(ctx context.Context) (string, error) {
			refused := count(ctx, 20, p.OrdersFrom(p.Toolbox).Ask)
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
func (p *Place) probes(oldVersion string) []*probe {
	of := func(name string) func(string) bool {
		return func(who string) bool { return strings.HasPrefix(who, name+"-"+oldVersion) }
	}
	from := p.Client
	quotesGate := HTTP(from, netip.AddrPortFrom(p.Gateway.V4, 80), "quotes.example.com").KeepAlive()
	probes := []*probe{
		{what: "kernel: connections to quotes:9000", old: of("quotes"),
			ask: Line(p.Toolbox, "tcp", netip.AddrPortFrom(p.Services["quotes"].V4, 9000))},
		{what: "DNS: what quotes-main stands for", old: of("quotes"), ask: p.Names.alias("quotes-main.default.svc.cluster.local.")},
		{what: "Gateway: requests for quotes.example.com", old: of("quotes"), ask: quotesGate.Ask},
		{what: "sidecar: requests of frontend to orders", old: of("orders"), ask: p.OrdersFrom(p.Frontend).KeepAlive().Ask},
	}
	return probes
}

// followed makes an edit and writes a line for each probe.
func (p *Place) followed(ctx context.Context, oldVersion, expected string, change func(string) string) error {
	probes := p.probes(oldVersion)
	edited, err := follow(ctx, probes, func() (time.Time, error) { return p.Edit(ctx, change) })
	if err != nil {
		return err
	}
	for _, probe := range probes {
		counted, err := probe.result(edited)
		p.Table.line(Check{What: probe.what, Expected: expected}, counted, err)
	}
	return nil
}

func (p *Place) edits(ctx context.Context) error {
	p.Table.Section("An edit of canary.yaml: everything to version 2, and the time until all answers are new")
	return p.followed(ctx, "v1", "version 2, within milliseconds", promote)
}

func (p *Place) restart(ctx context.Context) error {
	p.Table.Section("sluice is killed with SIGKILL on both nodes, and started again, at %d requests/s on each way", rate)
	from := p.Client
	secured := HTTPS(from, netip.AddrPortFrom(p.Gateway.V4, 443), "www.example.com", p.Trust)
	loads := []*load{
		{what: "kernel: new connections to web", ask: HTTP(p.Toolbox, netip.AddrPortFrom(p.Services["web"].V4, 80), "web").Ask},
		{what: "Gateway: requests for www.example.com", ask: secured.KeepAlive().Ask},
		{what: "sidecars: requests of frontend to orders", ask: p.OrdersFrom(p.Frontend).KeepAlive().Ask},
	}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	for _, l := range loads {
		running.Go(func() { l.run(asking) })
	}
	// What happens under the load, with the context's end as the only error.
	err := func() error {
		if err := Sleep(ctx, time.Second); err != nil {
			return err
		}
		if err := p.Crash(ctx); err != nil {
			return err
		}
		p.Table.Note("killed; the load goes on")
		if err := Sleep(ctx, 2*time.Second); err != nil {
			return err
		}
		began := time.Now()
		if err := p.Recover(ctx); err != nil {
			return err
		}
		p.Table.Note("started again, and ready after %.1f s", time.Since(began).Seconds())
		return Sleep(ctx, 2*time.Second)
	}()
	if err != nil {
		return err
	}
	stop()
	running.Wait()
	for _, l := range loads {
		counted, err := l.result()
		p.Table.line(Check{What: l.what, Expected: "0 failed"}, counted, err)
	}
	p.Table.Section("The new processes are in charge: canary.yaml, everything to version 1")
	return p.followed(ctx, "v2", "version 1, within milliseconds", rollBack)
}
