package xds_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/envoy/envoytest"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
)

// A route goes from one cluster to a new one, and the old one is removed, 60
// times under load. No request may fail.
func TestSwapUnderLoad(t *testing.T) {
	c := newControl(t)
	port := freePort(t)
	addr := backend(t, "b")
	c.Publish([]route.Change{listener("l", port), cluster("c0", 0), endpoints("c0", addr), host("a.test", "c0")})
	c.start()
	c.envoy()
	c.current()
	serves(t, port, "a.test", "b")

	var failed, done atomic.Int64
	var first atomic.Value
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}
			for ctx.Err() == nil {
				code, _, err := get(client, port, "a.test")
				if done.Add(1); err != nil || code != http.StatusOK {
					failed.Add(1)
					first.CompareAndSwap(nil, fmt.Sprintf("%d %v", code, err))
				}
			}
		})
	}
	for i := range 60 {
		old, next := fmt.Sprintf("c%d", i), fmt.Sprintf("c%d", i+1)
		c.Publish([]route.Change{
			remove(route.KindCluster, old), remove(route.KindEndpoints, old),
			host("a.test", next), cluster(next, 0), endpoints(next, addr),
		})
		if i%3 > 0 { // and sometimes the next comes before it is done
			c.current()
		}
		for enough := done.Load() + 50; done.Load() < enough && ctx.Err() == nil; {
			time.Sleep(time.Millisecond)
		}
	}
	c.current()
	cancel()
	clients.Wait()
	if failed.Load() > 0 {
		t.Fatalf("%d of %d requests failed, the first with %v", failed.Load(), done.Load(), first.Load())
	}
	t.Logf("%d requests, none failed", done.Load())
	if p := c.Proxies(); len(p) != 1 || p[0].Types[0].Acknowledged != 1 {
		t.Errorf("proxies: %+v", p)
	}
}

// A changed cluster is active with the endpoints that came unasked, not after
// a time limit with those that Envoy remembers.
func TestChangedCluster(t *testing.T) {
	c := newControl(t)
	port := freePort(t)
	addr := backend(t, "b")
	c.Publish([]route.Change{listener("l", port), cluster("a", 0), endpoints("a", addr), host("a.test", "a")})
	c.start()
	p := c.envoy()
	c.current()
	for i := range 20 {
		c.Publish([]route.Change{cluster("a", time.Duration(i+1)*time.Second)})
		c.current()
	}
	if n := stat(t, p, "cluster.a.assignment_use_cached") + stat(t, p, "cluster.a.init_fetch_timeout"); n != 0 {
		t.Errorf("%d times the cluster waited for its time limit", n)
	}
	if n := stat(t, p, "cluster_manager.cluster_modified"); n != 20 {
		t.Errorf("%d changes of the cluster, want 20", n)
	}
	serves(t, port, "a.test", "b")
}

// What Envoy alone can find out, an address that is taken, is told on its
// object, and everything beside it goes on.
func TestRejectionIsIsolated(t *testing.T) {
	c := newControl(t)
	port, other := freePort(t), freePort(t)
	addr := backend(t, "b")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	c.start()
	c.envoy()

	bad := listener("bad", netip.MustParseAddrPort(taken.Addr().String()).Port())
	bad.Origins = []model.Key{{Namespace: "default", Name: "gw"}}
	regex := route.Set(gw, &route.Host{Space: "web", Name: "regex.test", Rules: []route.Rule{{
		Name: "r", Match: route.Match{Path: route.PathMatch{Kind: route.PathRegex, Value: "("}},
		Backends: []route.Backend{{Cluster: "a", Weight: 1}},
	}}}, model.Key{Namespace: "default", Name: "regex"})
	changes := []route.Change{bad, regex, cluster("a", 0), endpoints("a", addr), host("a.test", "a")}
	changes = append(changes, listener("l", port), listener("m", other))
	watch := c.Watch(func(g route.Group) bool { return g == gw })
	defer watch.Close()
	c.Publish(changes)
	serves(t, port, "a.test", "b")
	serves(t, other, "a.test", "b")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.WaitCurrent(ctx, gw, 1); !errors.Is(err, delta.ErrProblems) {
		t.Errorf("waiting returned %v", err)
	}
	var got route.Progress
	for len(got.Rejected) < 2 {
		all, err := watch.Next(ctx)
		if err != nil {
			t.Fatalf("%v: %+v", err, got)
		}
		for _, p := range all {
			got = p
		}
	}
	l, r := got.Rejected[0], got.Rejected[1]
	if l.Ref != bad.Ref || len(l.Origins) != 1 || l.Origins[0].Name != "gw" || !strings.Contains(l.Reason, "ddress") {
		t.Errorf("listener: %+v", l)
	}
	if r.Ref != regex.Ref || len(r.Origins) != 1 || r.Origins[0].Name != "regex" || r.Reason == "" {
		t.Errorf("regex: %+v", r)
	}
	if got.Proxies != 1 || got.Current != 0 {
		t.Errorf("progress: %+v", got)
	}
	// Mended, it goes.
	third := freePort(t)
	c.Publish([]route.Change{listener("bad", third), host("regex.test", "a")})
	c.current()
	serves(t, third, "regex.test", "b")
	if got := c.Progress(gw); len(got.Rejected) != 0 || got.Current != 1 {
		t.Errorf("progress: %+v", got)
	}
	if c.sum("sluice_xds_rejections_total") == 0 {
		t.Error("no rejection was counted")
	}
}

func TestEnvoyRestart(t *testing.T) {
	c := newControl(t)
	port := freePort(t)
	c.Publish([]route.Change{listener("l", port), cluster("a", 0), endpoints("a", backend(t, "one")), host("a.test", "a"), host("*.b.test", "a")})
	c.start()
	p := c.envoy()
	c.current()
	serves(t, port, "a.test", "one")
	before := p.PID()
	if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.Publish([]route.Change{endpoints("a", backend(t, "two"))})
	serves(t, port, "a.test", "two")
	serves(t, port, "x.b.test", "two")
	envoytest.Live(t, p)
	if p.PID() == before {
		t.Error("it is the same process")
	}
	c.current()
}

func TestServerRestart(t *testing.T) {
	c := newControl(t)
	port := freePort(t)
	one, two := backend(t, "one"), backend(t, "two")
	all := []route.Change{listener("l", port), host("*", "a")}
	for i := range 50 {
		name := fmt.Sprintf("c%d", i)
		all = append(all, cluster(name, 0), endpoints(name, one), host(name+".test", name))
	}
	all = append(all, cluster("a", 0)) // without endpoints
	c.Publish(all)
	c.start()
	p := c.envoy()
	c.current()
	serves(t, port, "c7.test", "one")
	if c.sum("sluice_xds_pushed_resources_total") == 0 {
		t.Fatal("nothing was counted")
	}

	c.stop()
	c.renew()
	c.Publish(all)
	c.start()
	c.current()
	if n := c.sum("sluice_xds_pushed_resources_total"); n != 0 {
		t.Errorf("%v resources were sent again", n)
	}

	// Another one begins with a changed cluster, whose endpoints did not
	// change, and another route.
	c.stop()
	c.renew()
	c.Publish(append(all, cluster("c7", 3*time.Second), host("c8.test", "n"), cluster("n", 0), endpoints("n", two),
		remove(route.KindCluster, "c8"), remove(route.KindEndpoints, "c8")))
	c.start()
	c.current()
	serves(t, port, "c8.test", "two")
	serves(t, port, "c7.test", "one")
	if n := stat(t, p, "cluster.c7.assignment_use_cached") + stat(t, p, "cluster.c7.init_fetch_timeout"); n != 0 {
		t.Error("the changed cluster waited for its time limit")
	}
	if n := c.sum("sluice_xds_pushed_resources_total"); n > 8 {
		t.Errorf("%v resources were sent again", n)
	}
}

// A certificate that comes after the listener that asks for it, and goes
// again, does not hold up anything else.
func TestSecretComesLater(t *testing.T) {
	c := newControl(t)
	port, tls := freePort(t), freePort(t)
	addr := backend(t, "b")
	secure := route.Set(gw, &route.Listener{Name: "tls", Gateway: &route.GatewayListener{
		Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Port: tls, Protocol: route.HTTPS,
		Chains: []route.TLSChain{{Name: "c", ServerNames: []string{"a.test"}, Secrets: []string{"default/cert"}, Space: "tls"}},
	}})
	c.Publish([]route.Change{secure, listener("l", port), cluster("a", 0), endpoints("a", addr), host("a.test", "a"),
		route.Set(gw, &route.Host{Space: "tls", Name: "a.test", Rules: []route.Rule{{Name: "r", Backends: []route.Backend{{Cluster: "a", Weight: 1}}}}})})
	c.start()
	p := c.envoy()
	serves(t, port, "a.test", "b")
	cert, roots := certificate(t, "a.test")
	c.Publish([]route.Change{route.Set(gw, cert)})
	c.current()
	servesTLS(t, tls, "a.test", roots, "b")
	for i := range 5 {
		c.Publish([]route.Change{endpoints("a", backend(t, fmt.Sprint(i)))})
		c.current()
		servesTLS(t, tls, "a.test", roots, fmt.Sprint(i))
	}
	if n := stat(t, p, "listener_manager.listener_create_failure"); n != 0 {
		t.Errorf("%d listeners failed", n)
	}
	if n := c.sum("sluice_xds_rejections_total"); n != 0 {
		t.Errorf("%v responses were refused: %+v", n, c.Proxies())
	}
}
