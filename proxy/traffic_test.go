package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/sluicenet/sluice/model"
)

// fakeCounter counts what it is told.
type fakeCounter struct {
	counts map[FrontendKey]Traffic
	calls  int
	fail   error
	bytes  bool
}

func (c *fakeCounter) CountsBytes() bool { return c.bytes }

func (c *fakeCounter) Count(_ context.Context, each func(FrontendKey, Traffic)) error {
	c.calls++
	for k, t := range c.counts {
		each(k, t)
	}
	return c.fail
}

func TestTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := model.NewStore()
		watch, planner := store.Watch(), NewPlanner(Config{Node: "node1"})
		external := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
		plan := func(ips ...netip.Addr) *Plan {
			s := web("web")
			s.ExternalIPs = ips
			store.Update(func(tx *model.Txn) { put(tx, s, slice("web", ep(1))) })
			up, err := watch.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return planner.Update(up).New
		}
		current := plan(external...)
		port := current.Service(model.Name{Namespace: "default", Name: "web"}).Ports[0]
		key := func(addr netip.Addr) FrontendKey { return FrontendKey{addr, port.Family, port.Protocol, port.Port} }
		vip := port.Frontends[0].Addr
		counter := &fakeCounter{bytes: true, counts: map[FrontendKey]Traffic{
			key(vip): {1, 10, 1000}, key(external[0]): {2, 20, 2000}, key(external[1]): {3, 30, 3000},
			key(netip.MustParseAddr("203.0.113.1")): {9, 9, 9}, // not in the plan any more
		}}
		m := NewTrafficMetrics(counter, func() *Plan { return current }, slog.New(slog.DiscardHandler))
		expect := func(what, clusterIP, externalIP string) {
			t.Helper()
			want := `# HELP sluice_proxy_service_bytes_total Bytes of a Service port.
# TYPE sluice_proxy_service_bytes_total counter
sluice_proxy_service_bytes_total{frontend="ClusterIP",namespace="default",port="80",protocol="tcp",service="web"} ` + clusterIP + `
sluice_proxy_service_bytes_total{frontend="ExternalIP",namespace="default",port="80",protocol="tcp",service="web"} ` + externalIP + "\n"
			if err := testutil.CollectAndCompare(m, strings.NewReader(want), "sluice_proxy_service_bytes_total"); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		expect("at first", "1000", "5000")
		counter.counts[key(vip)] = Traffic{2, 20, 2500}
		expect("at once after", "1000", "5000")
		time.Sleep(trafficAge)
		expect("later", "2500", "5000")
		if counter.calls != 2 {
			t.Errorf("the kernel was asked %d times", counter.calls)
		}
		// A sum does not fall when an address goes, or the counts begin again.
		current = plan(external[0])
		delete(counter.counts, key(external[1]))
		counter.counts[key(vip)] = Traffic{1, 1, 100}
		time.Sleep(trafficAge)
		expect("after a repair", "2600", "5000")
		counter.fail = errors.New("no")
		time.Sleep(trafficAge)
		expect("without an answer", "2600", "5000")
		counter.fail = nil

		m.limit = 1
		m.sums = map[trafficKey]Traffic{}
		time.Sleep(trafficAge)
		if n := testutil.CollectAndCount(m, "sluice_proxy_service_bytes_total"); n != 1 || m.left != 1 {
			t.Errorf("%d series, %d left out", n, m.left)
		}
		if problems, err := testutil.CollectAndLint(m); err != nil || len(problems) > 0 {
			t.Error(problems, err)
		}
	})
}

// TestTrafficWithoutBytes checks that there is no series of what nobody counts,
// which would be 0 for ever.
func TestTrafficWithoutBytes(t *testing.T) {
	store := model.NewStore()
	watch := store.Watch()
	store.Update(func(tx *model.Txn) { put(tx, web("web"), slice("web", ep(1))) })
	up, err := watch.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plan := NewPlanner(Config{Node: "node1"}).Update(up).New
	port := plan.Service(model.Name{Namespace: "default", Name: "web"}).Ports[0]
	counter := &fakeCounter{counts: map[FrontendKey]Traffic{port.Frontends[0].Key(port): {Connections: 7}}}
	for _, bytes := range []bool{false, true} {
		counter.bytes = bytes
		m := NewTrafficMetrics(counter, func() *Plan { return plan }, slog.New(slog.DiscardHandler))
		for name, want := range map[string]bool{"connections": true, "packets": bytes, "bytes": bytes} {
			if n := testutil.CollectAndCount(m, "sluice_proxy_service_"+name+"_total"); (n == 1) != want {
				t.Errorf("where bytes are counted is %v: %d series of %s", bytes, n, name)
			}
		}
	}
}
