package iptables

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/proxytest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares a text with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
	}
}

// planned plans what a model holds.
type planned struct {
	store   *model.Store
	watch   *model.Watcher
	planner *proxy.Planner
}

func newPlanned(cfg proxy.Config) *planned {
	if cfg.Node == "" {
		cfg.Node = "node1"
	}
	s := model.NewStore()
	return &planned{store: s, watch: s.Watch(), planner: proxy.NewPlanner(cfg)}
}

func (p *planned) update(t testing.TB, f func(*model.Txn)) proxy.Changes {
	t.Helper()
	p.store.Update(f)
	if p.store.Snapshot().Revision() == p.planner.Plan().Revision {
		return proxy.Changes{Old: p.planner.Plan(), New: p.planner.Plan()}
	}
	up, err := p.watch.Next(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return p.planner.Update(up)
}

var clusterConfig = proxy.Config{
	ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")},
	ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:10:96::/112")},
}

func node1() *model.Node {
	return &model.Node{Meta: model.Meta{Name: "node1"}, InternalIPs: []netip.Addr{netip.MustParseAddr("10.240.0.11"), netip.MustParseAddr("fd00:10:240::11")}}
}

func web(edit func(*model.Service)) *model.Service {
	s := &model.Service{
		Meta: model.Meta{Namespace: "default", Name: "web"}, Type: corev1.ServiceTypeClusterIP,
		ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::10")},
		Families:   []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
		Ports:      []model.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

func slice(weight int32, nodes ...int) *model.EndpointSlice {
	s := &model.EndpointSlice{
		Meta: model.Meta{Namespace: "default", Name: fmt.Sprintf("web-%d", weight)}, Service: "web", Weight: weight,
		Ports: []model.EndpointPort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 8080}},
	}
	for i, n := range nodes {
		s.Endpoints = append(s.Endpoints, model.Endpoint{Addr: netip.AddrFrom4([4]byte{10, 244, byte(n), byte(10 + i)}), Node: fmt.Sprintf("node%d", n), Ready: true, Serving: true})
	}
	return s
}

// TestGolden writes what is programmed, from nothing and as the step from a
// single ClusterIP with two endpoints.
func TestGolden(t *testing.T) {
	load := func(s *model.Service) {
		s.Type = corev1.ServiceTypeLoadBalancer
		s.LoadBalancerIPs = []netip.Addr{netip.MustParseAddr("192.0.2.10")}
		s.Ports[0].NodePort = 30080
	}
	for name, test := range map[string]struct {
		veths bool // Pods are told by their interfaces
		edit  func(*model.Service)
		slice *model.EndpointSlice
		more  []*model.EndpointSlice
	}{
		"cluster-ip":   {},
		"one-endpoint": {slice: slice(1, 2)},
		"no-endpoints": {slice: slice(1)},
		"weights":      {more: []*model.EndpointSlice{slice(3, 3, 3)}},
		"local":        {edit: func(s *model.Service) { s.InternalTrafficPolicy = corev1.ServiceInternalTrafficPolicyLocal }},
		"local-none": {edit: func(s *model.Service) {
			load(s)
			s.InternalTrafficPolicy = corev1.ServiceInternalTrafficPolicyLocal
			s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}, slice: slice(1, 2)},
		"load-balancer":      {edit: load},
		"load-balancer-none": {edit: load, slice: slice(1)},
		"everything": {veths: true, edit: func(s *model.Service) {
			load(s)
			s.ExternalIPs = []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.17")}
			s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("0.0.0.0/0")}
			s.HealthCheckNodePort = 31000
			s.AffinityTimeout = 90 * time.Minute
		}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := clusterConfig
			if test.veths {
				cfg.DetectLocal, cfg.PodInterfaces = proxy.DetectInterfaceNamePrefix, []string{"veth"}
			}
			if test.slice == nil {
				test.slice = slice(1, 1, 2)
			}
			p := newPlanned(cfg)
			before := p.update(t, func(tx *model.Txn) {
				model.Nodes.Put(tx, node1())
				model.Services.Put(tx, web(nil))
				model.EndpointSlices.Put(tx, slice(1, 1, 2))
			})
			e := &Engine{options: Options{MasqueradeMark: 1 << 14}, random: true, plan: before.New}
			var text bytes.Buffer
			var all []*family
			for _, f := range families {
				s := newRuleset(e.renderer(f, &before.New.Node))
				s.compare(&listing{chains: map[ref][]string{}}, before.New.Services(), nil)
				all = append(all, &family{Family: f, rules: s})
			}
			changes := p.update(t, func(tx *model.Txn) {
				model.Services.Put(tx, web(test.edit))
				for _, s := range append(test.more, test.slice) {
					model.EndpointSlices.Put(tx, s)
				}
			})
			for _, f := range all {
				fmt.Fprintf(&text, "# %s\n%s\n# step from two endpoints\n", f.Family, Render(changes.New, f.Family, Options{}))
				text.Write(e.change(f, before.New, changes).text())
			}
			golden(t, name, text.String())
		})
	}
}

// kernelFake is what iptables-save would print after a series of restores.
type kernelFake struct{ chains map[ref][]string }

// restore does what iptables-restore --noflush does, and fails where it would.
func (k *kernelFake) restore(t *testing.T, text []byte) {
	t.Helper()
	if k.chains == nil {
		k.chains = map[ref][]string{}
		for _, j := range jumps {
			k.chains[j.ref] = nil
		}
	}
	var at table
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		words := strings.SplitN(line, " ", 3)
		r := ref{at, ""}
		if len(words) > 1 {
			r.name = words[1]
		}
		index := -1
		if len(words) == 3 {
			index = slices.Index(k.chains[r], words[2])
		}
		if _, ok := k.chains[r]; !ok && strings.HasPrefix(line, "-") {
			t.Fatalf("%s: no such chain", line)
		}
		switch {
		case line == "*nat":
			at = nat
		case line == "*filter":
			at = filter
		case line == "COMMIT":
			k.check(t, string(text))
		case line[0] == ':':
			k.chains[ref{at, words[0][1:]}] = nil
		case words[0] == "-A":
			k.chains[r] = append(k.chains[r], words[2])
		case words[0] == "-I":
			k.chains[r] = append([]string{words[2]}, k.chains[r]...)
		case words[0] == "-D" && index >= 0:
			k.chains[r] = slices.Delete(k.chains[r], index, index+1)
		case words[0] == "-X" && len(k.chains[r]) == 0:
			delete(k.chains, r)
		default:
			t.Fatalf("%s fails", line)
		}
	}
}

// check finds rules that lead nowhere.
func (k *kernelFake) check(t *testing.T, text string) {
	t.Helper()
	for r, rules := range k.chains {
		for _, rule := range rules {
			if to := parseRule(rule).target; strings.HasPrefix(to, prefix) {
				if _, ok := k.chains[ref{r.table, to}]; !ok {
					t.Fatalf("%s leads to %s, which is not there, after\n%s", r.name, to, text)
				}
			}
		}
	}
}

// listing returns what iptables-save would print.
func (k *kernelFake) listing() *listing {
	l := &listing{chains: map[ref][]string{}}
	for r, rules := range k.chains {
		if strings.HasPrefix(r.name, prefix) {
			l.chains[r] = rules
			continue
		}
		for _, rule := range rules {
			l.foreign = append(l.foreign, member{r, rule})
		}
	}
	return l
}

// TestWalk makes random steps, compares what the rules do with the plan for every
// frontend from every kind of source, and what the steps have left with what a
// start from nothing would write.
func TestWalk(t *testing.T) {
	p := newPlanned(clusterConfig)
	walk := proxytest.NewWalk(3)
	changes := p.update(t, func(tx *model.Txn) { model.Nodes.Put(tx, node1()) })
	e := &Engine{options: Options{MasqueradeMark: 1 << 14}, random: true, plan: changes.New}
	kernels := map[proxy.Family]*kernelFake{}
	var all []*family
	for _, f := range families {
		fam := &family{Family: f, rules: newRuleset(e.renderer(f, &changes.New.Node))}
		all = append(all, fam)
		kernels[f] = &kernelFake{}
		kernels[f].restore(t, fam.rules.compare(&listing{chains: map[ref][]string{}}, changes.New.Services(), nil).text())
	}
	for step := range 250 {
		changes := p.update(t, walk.Step)
		for _, f := range all {
			k := kernels[f.Family]
			k.restore(t, e.change(f, e.plan, changes).text())
			fresh := newRuleset(e.renderer(f.Family, &changes.New.Node))
			if s := fresh.compare(k.listing(), changes.New.Services(), nil); !s.empty() {
				t.Fatalf("step %d: the kernel differs from the plan by\n%s", step, s.text())
			}
			for s := range changes.New.Services() {
				for _, port := range s.Ports {
					if port.Family == f.Family {
						sameDecisions(t, step, changes.New, k, port)
					}
				}
			}
			if t.Failed() {
				return
			}
		}
		e.plan = changes.New
	}
}

// sameDecisions asks the rules and the plan about all frontends of a port.
func sameDecisions(t *testing.T, step int, plan *proxy.Plan, k *kernelFake, p *proxy.Port) {
	t.Helper()
	local := append(slices.Clip(plan.Node.Addrs), netip.MustParseAddr("127.0.0.1"))
	sources := []netip.Addr{{}, netip.MustParseAddr("10.244.1.10"), netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("172.16.0.1"), plan.Node.Addrs[0]}
	if p.Family == proxy.IPv6 {
		sources = []netip.Addr{{}, netip.MustParseAddr("fd00:10:244:1::10"), netip.MustParseAddr("2001:db8::1"), plan.Node.Addrs[1]}
	}
	for i := range p.Frontends {
		f := &p.Frontends[i]
		to := netip.AddrPortFrom(f.Addr, f.Port)
		if f.Kind == proxy.NodePort {
			to = netip.AddrPortFrom(plan.Node.Addrs[0], f.Port)
			if p.Family == proxy.IPv6 {
				to = netip.AddrPortFrom(plan.Node.Addrs[1], f.Port)
			}
		}
		for _, source := range sources {
			for _, port := range []uint16{to.Port(), 4444} {
				d := proxy.Trace(plan, source, netip.AddrPortFrom(to.Addr(), port), p.Protocol)
				w := walker{decision: d, chains: k.chains, list: func(ref) ([]string, error) { return nil, nil },
					packet: packet{source: source, destination: d.Destination, protocol: strings.ToLower(p.Protocol.String()), local: local}}
				if err := w.walk(); err != nil {
					t.Fatal(err)
				}
				if different := d.Compare(w.observed); different != nil {
					t.Errorf("step %d: %s%s\n%s", step, d, strings.Join(different, "\n"), strings.Join(w.observed.Rules, "\n"))
				}
			}
		}
	}
}
