package ipvs

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

var update = flag.Bool("update", false, "write the golden files")

func addrs(list ...string) []netip.Addr {
	out := make([]netip.Addr, 0, len(list))
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// web is a Service with a TCP and a UDP port.
func web(edit func(*model.Service)) *model.Service {
	s := &model.Service{
		Meta: model.Meta{Namespace: "default", Name: "web"}, Type: corev1.ServiceTypeClusterIP,
		ClusterIPs: addrs("10.96.0.10", "fd00:10:96::10"),
		Families:   []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
		Ports:      []model.ServicePort{{Name: "t", Protocol: "TCP", Port: 80}, {Name: "u", Protocol: "UDP", Port: 53}},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

func endpoints(name string, weight int32, list ...string) *model.EndpointSlice {
	s := &model.EndpointSlice{
		Meta: model.Meta{Namespace: "default", Name: name}, Service: "web", Weight: weight,
		Ports: []model.EndpointPort{{Name: "t", Protocol: "TCP", Port: 8080}, {Name: "u", Protocol: "UDP", Port: 5353}},
	}
	for i, a := range addrs(list...) {
		s.Endpoints = append(s.Endpoints, model.Endpoint{Addr: a, Node: fmt.Sprintf("node%d", i+1), Ready: true, Serving: true})
		s.IPv6 = a.Is6()
	}
	return s
}

func external(s *model.Service) {
	s.Type = corev1.ServiceTypeLoadBalancer
	s.LoadBalancerIPs, s.ExternalIPs = addrs("10.97.0.10"), addrs("10.240.0.11", "10.98.0.1")
	for i, port := range []uint16{30080, 30053}[:len(s.Ports)] {
		s.Ports[i].NodePort = port
	}
	s.HealthCheckNodePort = 31000
}

// TestPlan prints what the kernel is to have for a Service.
func TestPlan(t *testing.T) {
	four, six := endpoints("web-4", 1, "10.244.1.10", "10.244.2.10"), endpoints("web-6", 1, "fd00:10:244:1::a")
	for name, c := range map[string]struct {
		service *model.Service
		slices  []*model.EndpointSlice
		options Options
		cfg     proxy.Config
		lacks   string
	}{
		"cluster-ip":   {service: web(nil), slices: []*model.EndpointSlice{four, six}},
		"no-endpoints": {service: web(nil)},
		"weights":      {service: web(nil), slices: []*model.EndpointSlice{four, endpoints("more", 3, "10.244.3.10")}},
		"weights-least-connections": {service: web(func(s *model.Service) { s.Scheduler = "lc" }),
			slices: []*model.EndpointSlice{four, endpoints("more", 3, "10.244.3.10")}},
		"external": {service: web(external), slices: []*model.EndpointSlice{four}},
		"external-local": {service: web(func(s *model.Service) {
			external(s)
			s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}), slices: []*model.EndpointSlice{four}},
		"affinity": {service: web(func(s *model.Service) {
			external(s)
			s.AffinityTimeout = 10800e9
		}), slices: []*model.EndpointSlice{four}},
		"affinity-external-local": {service: web(func(s *model.Service) {
			external(s)
			s.AffinityTimeout = 1500e6
			s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}), slices: []*model.EndpointSlice{four}},
		"source-ranges": {service: web(func(s *model.Service) {
			external(s)
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("198.51.100.128/25")}
		}), slices: []*model.EndpointSlice{four}},
		"scheduler":             {service: web(func(s *model.Service) { s.Scheduler = "mh" }), slices: []*model.EndpointSlice{four}},
		"scheduler-unknown":     {service: web(func(s *model.Service) { s.Scheduler = "best" }), slices: []*model.EndpointSlice{four}, options: Options{Scheduler: "wlc"}},
		"scheduler-unavailable": {service: web(func(s *model.Service) { s.Scheduler = "sed" }), slices: []*model.EndpointSlice{four}, lacks: "sed"},
		"marks-run-out":         {service: web(external), slices: []*model.EndpointSlice{four}, options: Options{Marks: 1 << 20}},
		"node-port-addresses": {service: web(func(s *model.Service) {
			external(s)
			s.AffinityTimeout = 1e9
		}), slices: []*model.EndpointSlice{four, six}, cfg: proxy.Config{NodePorts: proxy.NodePortAddresses{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}}}},
		"service-cidrs": {service: web(nil), cfg: proxy.Config{ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}},
	} {
		t.Run(name, func(t *testing.T) {
			store := model.NewStore()
			watch := store.Watch()
			store.Update(func(tx *model.Txn) {
				model.Nodes.Put(tx, &model.Node{Meta: model.Meta{Name: "node1"}, InternalIPs: []netip.Addr{nodeAddr, nodeAddr6}})
				model.Services.Put(tx, c.service)
				for _, s := range c.slices {
					model.EndpointSlices.Put(tx, s)
				}
			})
			up, err := watch.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c.cfg.Node = "node1"
			c.cfg.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}
			f := newFakes()
			f.kernel.lacks[c.lacks] = true
			f.kernel.others[netip.MustParseAddr("10.9.0.1")] = true
			e := f.engine(t, c.options)
			if err := e.Sync(t.Context(), proxy.NewPlanner(c.cfg).Update(up).New); err != nil {
				t.Fatal(err)
			}
			got := e.print()
			path := filepath.Join("testdata", "plan", name+".golden")
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// print writes down what the engine wants the kernel to have.
func (e *Engine) print() string {
	var b strings.Builder
	for _, id := range slices.SortedFunc(maps.Keys(e.servers), serverID.compare) {
		s := e.servers[id]
		fmt.Fprintf(&b, "%s %s\n", id, s.settings)
		for _, d := range s.destinations() {
			fmt.Fprintf(&b, "  -> %s Masq %d\n", d, s.weights[d])
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(e.addresses), netip.Addr.Compare) {
		state := "on " + linkName
		if e.addressElements(a) == nil {
			state = "the machine's own"
		}
		fmt.Fprintf(&b, "address %s %s\n", a, state)
	}
	var lines []string
	for k, data := range e.allElements() {
		lines = append(lines, fmt.Sprintf("%s %s { %s }", k.family, specs[k.set].name, spellElement(element{k, data})))
	}
	slices.Sort(lines)
	for _, l := range lines {
		fmt.Fprintln(&b, l)
	}
	for _, name := range slices.SortedFunc(maps.Keys(e.services), func(a, b model.Name) int { return strings.Compare(a.String(), b.String()) }) {
		for _, p := range e.Problems(name) {
			fmt.Fprintf(&b, "problem %s %s: %s\n", name, p.Reason, p.Message)
		}
	}
	return b.String()
}
