package view

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/proxy"
)

// Node is what the service proxy of a node knows of Services.
type Node struct {
	Store *model.Store
	Board *status.Board
	// Plan returns the plan that is in force; nil: none is yet.
	Plan func() *proxy.Plan
	// Counter counts connections; nil: nobody does.
	Counter proxy.Counter
}

// countPatience is how long the kernel may take to say what it has counted.
const countPatience = 10 * time.Second

// Put puts the tables of Services and endpoints as this node treats them in the
// place of those that only say what is in the cluster. Until there is a plan,
// the latter stay. What costs more is in the tables for -o wide, json and yaml.
func (n Node) Put(s *admin.Server) {
	if s.Wide == nil {
		s.Wide = map[string]admin.Lister{}
	}
	put := func(names []string, list func(plan *proxy.Plan, wide bool) admin.Table) {
		for _, name := range names {
			plain := s.Tables[name]
			lister := func(wide bool) admin.Lister {
				return func() admin.Table {
					if plan := n.Plan(); plan != nil {
						return list(plan, wide)
					}
					return plain()
				}
			}
			s.Tables[name], s.Wide[name] = lister(false), lister(true)
		}
	}
	put(serviceNames, n.services)
	put(endpointNames, func(plan *proxy.Plan, _ bool) admin.Table { return n.endpoints(plan) })
}

// traffic returns what each frontend had, or nil if nobody knows.
func (n Node) traffic() map[proxy.FrontendKey]proxy.Traffic {
	if n.Counter == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), countPatience)
	defer cancel()
	out := map[proxy.FrontendKey]proxy.Traffic{}
	if err := n.Counter.Count(ctx, func(key proxy.FrontendKey, t proxy.Traffic) { out[key] = t }); err != nil {
		return nil
	}
	return out
}

// frontend is an address on which a Service answers, in its status.
type frontend struct {
	Kind    string `json:"kind"`
	Address string `json:"address"` // "*" for a NodePort
	Port    uint16 `json:"port"`
	// Protocol and Family tell apart what has the same address and port.
	Protocol string `json:"protocol"`
	Family   string `json:"family"`
	Inside   string `json:"inside"`  // what happens to connections from the cluster
	Outside  string `json:"outside"` // and to others
	// Connections and the rest are counted; without them nothing is known.
	Connections *uint64 `json:"connections,omitempty"`
	Packets     *uint64 `json:"packets,omitempty"`
	Bytes       *uint64 `json:"bytes,omitempty"`
}

// frontendKinds are the kinds of frontends, as the metrics have them.
var frontendKinds = [...]string{proxy.ClusterIP: "ClusterIP", proxy.ExternalIP: "ExternalIP", proxy.LoadBalancer: "LoadBalancer", proxy.NodePort: "NodePort"}

// counts are a Service's endpoints, by address.
type counts struct {
	Here        int `json:"here"`      // ready, on this node
	Elsewhere   int `json:"elsewhere"` // ready, on others
	Terminating int `json:"terminating"`
	NotReady    int `json:"notReady"`
}

// countEndpoints counts each endpoint once: of a dual-stack Service by its
// address of the first family.
func countEndpoints(snap *model.Snapshot, s *model.Service, node string) counts {
	var c counts
	both, six := len(s.Families) == 2, len(s.Families) > 0 && s.Families[0] == corev1.IPv6Protocol
	seen := map[netip.Addr]bool{}
	for slice := range model.SlicesByService.Find(snap, s.Namespace+"/"+s.Name) {
		if both && slice.IPv6 != six {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if seen[e.Addr] {
				continue
			}
			seen[e.Addr] = true
			switch {
			case e.Ready && e.Node == node:
				c.Here++
			case e.Ready:
				c.Elsewhere++
			case e.Terminating:
				c.Terminating++
			default:
				c.NotReady++
			}
		}
	}
	return c
}

func (n Node) services(plan *proxy.Plan, wide bool) admin.Table {
	t := admin.Table{Columns: []admin.Column{
		{Name: "NAMESPACE"}, {Name: "NAME"}, {Name: "TYPE"}, {Name: "CLUSTER-IP"}, {Name: "EXTERNAL-IP"}, {Name: "PORT(S)"},
		{Name: "POLICY"}, {Name: "AFFINITY"}, {Name: "HERE"}, {Name: "ELSEWHERE"}, {Name: "TERMINATING"}, {Name: "STATUS"},
		{Name: "CONNECTIONS", Wide: true}, {Name: "BYTES", Wide: true}, {Name: "HEALTH-PORT", Wide: true},
		{Name: "SELECTOR", Wide: true}, {Name: "MESSAGE", Wide: true},
	}}
	snap := n.Store.Snapshot()
	var traffic map[proxy.FrontendKey]proxy.Traffic
	if wide {
		traffic = n.traffic()
	}
	countsBytes := proxy.CountsBytes(n.Counter)
	for s := range model.Services.All(snap) {
		key := model.Services.Key(s)
		reports := n.Board.Get(key)
		state, message := summary(reports)
		planned := plan.Service(model.Name{Namespace: s.Namespace, Name: s.Name})
		fronts, sum := frontends(planned, traffic, countsBytes)
		c := countEndpoints(snap, s, plan.Node.Name)
		connections, bytes, affinity, health := "<unknown>", "-", "", ""
		if traffic != nil {
			connections = strconv.FormatUint(sum.Connections, 10)
			if countsBytes {
				bytes = strconv.FormatUint(sum.Bytes, 10)
			}
		}
		if s.AffinityTimeout > 0 {
			affinity = "ClientIP," + shortDuration(s.AffinityTimeout)
		}
		if planned != nil && planned.HealthCheckNodePort != 0 {
			health = port(planned.HealthCheckNodePort)
		}
		object := Object(key, s, reports)
		if doc, ok := object.(map[string]any); ok && planned != nil {
			st, _ := doc["status"].(map[string]any)
			if st == nil {
				st = map[string]any{}
				doc["status"] = st
			}
			st["frontends"], st["endpoints"] = fronts, c
		}
		t.Rows = append(t.Rows, admin.Row{
			Namespace: s.Namespace, Name: s.Name,
			Cells: []string{
				s.Namespace, s.Name, string(s.Type), clusterIPs(s), strings.Join(externalIPs(s), ","), servicePorts(s),
				proxy.PoliciesText(s), affinity, strconv.Itoa(c.Here), strconv.Itoa(c.Elsewhere), strconv.Itoa(c.Terminating), state,
				connections, bytes, health, s.Selector, message,
			},
			Object: object,
		})
	}
	return t
}

// frontends lists where a Service answers, and sums up what was counted.
func frontends(s *proxy.Service, traffic map[proxy.FrontendKey]proxy.Traffic, countsBytes bool) (out []frontend, sum proxy.Traffic) {
	if s == nil {
		return nil, sum
	}
	for _, p := range s.Ports {
		for i := range p.Frontends {
			f := &p.Frontends[i]
			one := frontend{
				Kind: frontendKinds[f.Kind], Address: "*", Port: f.Port, Protocol: p.Protocol.String(), Family: p.Family.String(),
				Inside: f.Inside.String(), Outside: f.Outside.String(),
			}
			if f.Addr.IsValid() {
				one.Address = f.Addr.String()
			}
			if traffic != nil {
				t := traffic[f.Key(p)]
				one.Connections = &t.Connections
				if countsBytes {
					one.Packets, one.Bytes = &t.Packets, &t.Bytes
				}
				sum.Connections, sum.Bytes = sum.Connections+t.Connections, sum.Bytes+t.Bytes
			}
			out = append(out, one)
		}
	}
	return out, sum
}

// shortDuration leaves out the parts of a duration that are 0.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// endpointObject is what is printed as JSON or YAML of an endpoint.
type endpointObject struct {
	Namespace   string  `json:"namespace"`
	Service     string  `json:"service"`
	Port        uint16  `json:"port,omitempty"`
	PortName    string  `json:"portName,omitempty"`
	Protocol    string  `json:"protocol,omitempty"`
	Address     string  `json:"address"`
	TargetPort  uint16  `json:"targetPort,omitempty"`
	Pod         string  `json:"pod,omitempty"`
	Node        string  `json:"node,omitempty"`
	Zone        string  `json:"zone,omitempty"`
	Ready       bool    `json:"ready"`
	Serving     bool    `json:"serving"`
	Terminating bool    `json:"terminating"`
	Weight      uint64  `json:"weight"`
	Share       float64 `json:"share"`      // of the connections by the traffic policy Cluster
	LocalShare  float64 `json:"localShare"` // and by Local
	Unused      string  `json:"unused,omitempty"`
}

func (n Node) endpoints(plan *proxy.Plan) admin.Table {
	t := admin.Table{Columns: []admin.Column{
		{Name: "NAMESPACE"}, {Name: "SERVICE"}, {Name: "PORT"}, {Name: "ADDRESS"}, {Name: "NODE"}, {Name: "ZONE"}, {Name: "STATE"},
		{Name: "WEIGHT"}, {Name: "SHARE"}, {Name: "LOCAL-SHARE"}, {Name: "UNUSED"}, {Name: "PORT-NAME", Wide: true}, {Name: "POD", Wide: true},
	}}
	snap := n.Store.Snapshot()
	for s := range model.Services.All(snap) {
		for _, u := range proxy.Uses(plan, snap, model.Name{Namespace: s.Namespace, Name: s.Name}) {
			t.Rows = append(t.Rows, endpointRow(s.Namespace, s.Name, u))
		}
	}
	// What no Service of that name takes is shown, too.
	orphans := map[string][]admin.Row{}
	for slice := range model.EndpointSlices.All(snap) {
		if _, ok := model.Services.Get(snap, slice.Namespace, slice.Service); ok {
			continue
		}
		for i := range slice.Endpoints {
			row := orphan(slice, &slice.Endpoints[i])
			orphans[slice.Namespace+"/"+slice.Service] = append(orphans[slice.Namespace+"/"+slice.Service], row)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(orphans)) {
		t.Rows = append(t.Rows, orphans[name]...)
	}
	return t
}

func orphan(slice *model.EndpointSlice, e *model.Endpoint) admin.Row {
	return endpointRow(slice.Namespace, slice.Service, proxy.Use{
		AddrPort: netip.AddrPortFrom(e.Addr, 0), Pod: e.Pod, Node: e.Node, Zone: e.Zone, Ready: e.Ready, Serving: e.Serving, Terminating: e.Terminating,
		Weight: uint64(max(slice.Weight, 0)), Why: "there is no such Service",
	})
}

func endpointRow(namespace, service string, u proxy.Use) admin.Row {
	o := endpointObject{
		Namespace: namespace, Service: service, Port: u.Port, PortName: u.PortName, Address: u.Addr().String(), TargetPort: u.AddrPort.Port(),
		Pod: u.Pod, Node: u.Node, Zone: u.Zone, Ready: u.Ready, Serving: u.Serving, Terminating: u.Terminating,
		Weight: u.Weight, Share: u.Cluster, LocalShare: u.Local, Unused: u.Why,
	}
	front, address := "", o.Address
	if u.Port != 0 {
		o.Protocol = u.Protocol.String()
		front = port(u.Port) + "/" + strings.ToUpper(o.Protocol)
	}
	if o.TargetPort != 0 {
		address = u.String()
	}
	return admin.Row{
		Namespace: namespace, Name: service,
		Cells: []string{
			namespace, service, front, address, u.Node, u.Zone, endpointState(&u),
			strconv.FormatUint(u.Weight, 10), percent(u.Cluster), percent(u.Local), u.Why, u.PortName, u.Pod,
		},
		Object: o,
	}
}

// endpointState says in what state an endpoint is, as kubectl does of nodes.
func endpointState(u *proxy.Use) string {
	var out []string
	switch {
	case u.Ready:
		out = append(out, "Ready")
	case u.Serving:
		out = append(out, "Serving")
	default:
		out = append(out, "NotReady")
	}
	if u.Terminating {
		out = append(out, "Terminating")
	}
	if u.Weight == 0 && (u.Ready || u.Serving) {
		out = append(out, "Draining")
	}
	return strings.Join(out, ",")
}

func percent(share float64) string {
	if share == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f%%", 100*share)
}
