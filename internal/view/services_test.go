package view

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/proxy"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", file, got, want)
	}
}

// counter counts 7 connections on every frontend of port 80.
type counter struct{ err error }

func (c counter) Count(_ context.Context, each func(proxy.FrontendKey, proxy.Traffic)) error {
	each(proxy.FrontendKey{Addr: netip.MustParseAddr("10.96.0.1"), Family: proxy.IPv4, Protocol: proxy.TCP, Port: 80}, proxy.Traffic{Connections: 7, Packets: 70, Bytes: 7000})
	each(proxy.FrontendKey{Family: proxy.IPv4, Protocol: proxy.TCP, Port: 30080}, proxy.Traffic{Connections: 1, Packets: 10, Bytes: 500})
	return c.err
}

func (c counter) CountsBytes() bool { return true }

// connectionCounter counts connections alone.
type connectionCounter struct{ proxy.Counter }

// nodeWorld has a Service of each sort, on the node n1.
func nodeWorld() (*model.Store, *status.Board) {
	store, board := model.NewStore(), status.NewBoard()
	addrs := func(list ...string) (out []netip.Addr) {
		for _, a := range list {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	meta := func(name string) model.Meta { return model.Meta{Namespace: "default", Name: name} }
	http := []model.ServicePort{{Name: "http", Protocol: "TCP", Port: 80}}
	endpoint := func(addr, node string, edit func(*model.Endpoint)) model.Endpoint {
		e := model.Endpoint{Addr: netip.MustParseAddr(addr), Node: node, Zone: "zone-" + node, Pod: "pod-" + addr, Ready: true, Serving: true}
		if edit != nil {
			edit(&e)
		}
		return e
	}
	slice := func(service, name string, weight int32, endpoints ...model.Endpoint) *model.EndpointSlice {
		return &model.EndpointSlice{Meta: meta(name), Service: service, Weight: weight, Endpoints: endpoints, IPv6: endpoints[0].Addr.Is6(),
			Ports: []model.EndpointPort{{Name: "http", Protocol: "TCP", Port: 8080}}}
	}
	store.Update(func(tx *model.Txn) {
		model.Nodes.Put(tx, &model.Node{Meta: model.Meta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: "zone-n1"}}, InternalIPs: addrs("192.0.2.1")})
		model.Services.Put(tx, &model.Service{
			Meta: meta("web"), Type: corev1.ServiceTypeLoadBalancer, ClusterIPs: addrs("10.96.0.1", "fd00::1"), LoadBalancerIPs: addrs("203.0.113.1"),
			Families: []corev1.IPFamily{"IPv4", "IPv6"}, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: 32000,
			AffinityTimeout: 3 * time.Hour, Selector: "app=web",
			Ports: []model.ServicePort{{Name: "http", Protocol: "TCP", Port: 80, NodePort: 30080}},
		})
		model.EndpointSlices.Put(tx, slice("web", "web-1", 3, endpoint("10.0.1.1", "n1", nil), endpoint("10.0.2.1", "n2", nil)))
		model.EndpointSlices.Put(tx, slice("web", "web-2", 0, endpoint("10.0.1.2", "n1", nil)))
		model.EndpointSlices.Put(tx, slice("web", "web-3", 1, endpoint("10.0.2.2", "n2", func(e *model.Endpoint) { e.Ready, e.Terminating = false, true })))
		model.EndpointSlices.Put(tx, slice("web", "web-6", 1, endpoint("fd00:1::1", "n1", nil)))
		model.Services.Put(tx, &model.Service{
			Meta: meta("zonal"), Type: corev1.ServiceTypeClusterIP, ClusterIPs: addrs("10.96.0.2"), TrafficDistribution: "PreferSameZone", Ports: http,
		})
		zone := func(z string) func(*model.Endpoint) {
			return func(e *model.Endpoint) { e.Rare = &model.RareEndpoint{ForZones: []string{z}} }
		}
		model.EndpointSlices.Put(tx, slice("zonal", "zonal-1", 1, endpoint("10.0.1.3", "n1", zone("zone-n1")), endpoint("10.0.2.3", "n2", zone("zone-n2"))))
		model.Services.Put(tx, &model.Service{Meta: meta("inside"), Type: corev1.ServiceTypeClusterIP, ClusterIPs: addrs("10.96.0.3"),
			InternalTrafficPolicy: corev1.ServiceInternalTrafficPolicyLocal, Ports: http})
		model.EndpointSlices.Put(tx, slice("inside", "inside-1", 1, endpoint("10.0.2.4", "n2", nil)))
		model.Services.Put(tx, &model.Service{Meta: meta("headless"), Type: corev1.ServiceTypeClusterIP, Headless: true, Ports: http})
		model.EndpointSlices.Put(tx, slice("headless", "headless-1", 1, endpoint("10.0.1.5", "n1", nil)))
		model.Services.Put(tx, &model.Service{Meta: meta("idle"), Type: corev1.ServiceTypeClusterIP, ClusterIPs: addrs("10.96.0.4"), Ports: http})
		model.Services.Put(tx, &model.Service{Meta: model.Meta{Namespace: "other", Name: "alias"}, Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"})
		model.EndpointSlices.Put(tx, slice("gone", "gone-1", 1, endpoint("10.0.1.9", "n1", func(e *model.Endpoint) { e.Ready, e.Serving = false, false })))
	})
	board.Set("proxy", model.Key{Kind: model.KindService, Namespace: "default", Name: "idle"}, status.Report{Conditions: []metav1.Condition{
		{Type: "Programmed", Status: "False", Reason: "AddressConflict", Message: "spec.clusterIPs[0]: belongs to default/old"},
	}})
	return store, board
}

// TestNodeTables proves what the tables say of Services as a node treats them.
func TestNodeTables(t *testing.T) {
	store, board := nodeWorld()
	planner := proxy.NewPlanner(proxy.Config{Node: "n1"})
	watch := store.Watch()
	defer watch.Stop()
	up, err := watch.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	server := &admin.Server{Tables: Tables(store, board, nil)}
	var plan *proxy.Plan
	Node{Store: store, Board: board, Plan: func() *proxy.Plan { return plan }, Counter: counter{}}.Put(server)
	before := show(t, server.Wide["services"](), "")
	if !strings.Contains(before, "READY") {
		t.Errorf("without a plan:\n%s", before)
	}
	plan = planner.Update(up).New

	var out strings.Builder
	section := func(command, text string) { out.WriteString("$ sluice get " + command + "\n" + text + "\n") }
	section("services -A", show(t, server.Tables["services"](), ""))
	section("svc -A -o wide", show(t, server.Wide["svc"](), "wide"))
	section("endpoints -A", show(t, server.Tables["endpoints"](), ""))
	one := func(table admin.Table, name string) admin.Table {
		t.Helper()
		table, err := admin.Select(table, "default", []string{name})
		if err != nil {
			t.Fatal(err)
		}
		return table
	}
	section("ep web -o wide", show(t, admin.WithoutNamespace(one(server.Wide["ep"](), "web")), "wide"))
	section("ep zonal -o yaml", show(t, one(server.Wide["ep"](), "zonal"), "yaml"))
	section("service web -o yaml", show(t, one(server.Wide["service"](), "web"), "yaml"))
	section("service idle -o name", show(t, one(server.Tables["service"](), "idle"), "name"))
	golden(t, "node.txt", out.String())

	var svc struct {
		corev1.Service
		Status struct {
			Frontends []frontend
			Endpoints counts
		} `json:"status"`
	}
	if err := json.Unmarshal([]byte(show(t, one(server.Wide["service"](), "web"), "json")), &svc); err != nil {
		t.Fatal(err)
	}
	if len(svc.Status.Frontends) != 5 || svc.Status.Endpoints != (counts{Here: 2, Elsewhere: 1, Terminating: 1}) {
		t.Errorf("%+v", svc.Status)
	}
}

// TestNobodyCounts proves that what is not known is not shown as 0.
func TestNobodyCounts(t *testing.T) {
	store, board := nodeWorld()
	for _, c := range []proxy.Counter{nil, counter{errors.New("locked")}} {
		server := &admin.Server{Tables: Tables(store, board, nil)}
		Node{Store: store, Board: board, Plan: func() *proxy.Plan { return &proxy.Plan{} }, Counter: c}.Put(server)
		if got := show(t, server.Wide["services"](), "wide"); !strings.Contains(got, "<unknown>") {
			t.Errorf("counter %v:\n%s", c, got)
		}
	}
}

// TestCountsConnectionsAlone proves that bytes which nobody counts are not shown as 0.
func TestCountsConnectionsAlone(t *testing.T) {
	store, board := nodeWorld()
	watch := store.Watch()
	defer watch.Stop()
	up, err := watch.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plan := proxy.NewPlanner(proxy.Config{Node: "n1"}).Update(up).New
	for _, c := range []struct {
		proxy.Counter
		bytes string
	}{{counter{}, "7500"}, {connectionCounter{counter{}}, "-"}} {
		server := &admin.Server{Tables: Tables(store, board, nil)}
		Node{Store: store, Board: board, Plan: func() *proxy.Plan { return plan }, Counter: c.Counter}.Put(server)
		table, err := admin.Select(server.Wide["services"](), "default", []string{"web"})
		if err != nil {
			t.Fatal(err)
		}
		for i, column := range table.Columns {
			got, want := table.Rows[0].Cells[i], map[string]string{"CONNECTIONS": "8", "BYTES": c.bytes}[column.Name]
			if want != "" && got != want {
				t.Errorf("%T: %s is %q, want %q", c.Counter, column.Name, got, want)
			}
		}
		if text := show(t, table, "yaml"); strings.Contains(text, "bytes:") != (c.bytes != "-") {
			t.Errorf("%T:\n%s", c.Counter, text)
		}
	}
}

func TestShortDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{3 * time.Hour: "3h", 90 * time.Second: "1m30s", time.Minute: "1m", 10 * time.Second: "10s", time.Hour + time.Second: "1h0m1s"} {
		if got := shortDuration(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}
