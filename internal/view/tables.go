package view

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/source"
)

// The names by which these are asked for.
var (
	serviceNames  = []string{"services", "service", "svc"}
	endpointNames = []string{"endpoints", "endpoint", "ep"}
)

// resources maps the names by which kinds are asked for, plural and short, to
// the kind.
var resources = []struct {
	kind  model.KindID
	names []string
}{
	{model.KindService, serviceNames},
	{model.KindPod, []string{"pods", "pod", "po"}},
	{model.KindNode, []string{"nodes", "node", "no"}},
	{model.KindNamespace, []string{"namespaces", "namespace", "ns"}},
	{model.KindEndpointSlice, []string{"endpointslices", "endpointslice"}},
	{model.KindSecret, []string{"secrets", "secret"}},
	{model.KindConfigMap, []string{"configmaps", "configmap", "cm"}},
	{model.KindServiceAccount, []string{"serviceaccounts", "serviceaccount", "sa"}},
	{model.KindIngress, []string{"ingresses", "ingress", "ing"}},
	{model.KindIngressClass, []string{"ingressclasses", "ingressclass"}},
	{model.KindServiceCIDR, []string{"servicecidrs", "servicecidr"}},
	{model.KindGatewayClass, []string{"gatewayclasses", "gatewayclass", "gc"}},
	{model.KindGateway, []string{"gateways", "gateway", "gtw"}},
	{model.KindHTTPRoute, []string{"httproutes", "httproute"}},
	{model.KindReferenceGrant, []string{"referencegrants", "referencegrant", "refgrant"}},
	{model.KindVirtualService, []string{"virtualservices", "virtualservice", "vs"}},
	{model.KindDestinationRule, []string{"destinationrules", "destinationrule", "dr"}},
	{model.KindPeerAuthentication, []string{"peerauthentications", "peerauthentication", "pa"}},
	{model.KindSplit, []string{"splits", "split"}},
}

// Tables returns the listers of every kind of the model, and of the problems
// that were found, by all their names. manifests, which may be nil, returns what
// is wrong with files.
func Tables(store *model.Store, board *status.Board, manifests func() []source.Problem) map[string]admin.Lister {
	out := map[string]admin.Lister{}
	for _, r := range resources {
		list := func() admin.Table { return kindTable(store.Snapshot(), board, r.kind) }
		switch r.kind {
		case model.KindService:
			list = func() admin.Table { return serviceTable(store.Snapshot(), board) }
		}
		for _, name := range r.names {
			out[name] = list
		}
	}
	for _, name := range endpointNames {
		out[name] = func() admin.Table { return endpointTable(store.Snapshot()) }
	}
	for _, name := range []string{"problems", "problem"} {
		out[name] = func() admin.Table { return problemTable(board, manifests) }
	}
	return out
}

// kindTable shows what every object has: its conditions.
func kindTable(snap *model.Snapshot, board *status.Board, kind model.KindID) admin.Table {
	t := admin.Table{Columns: []admin.Column{{Name: "NAMESPACE"}, {Name: "NAME"}, {Name: "STATUS"}, {Name: "MESSAGE", Wide: true}}}
	for key := range snap.Keys(kind) {
		reports := board.Get(key)
		state, message := summary(reports)
		t.Rows = append(t.Rows, admin.Row{
			Namespace: key.Namespace, Name: key.Name,
			Cells:  []string{key.Namespace, key.Name, state, message},
			Object: Object(key, snap.Any(key), reports),
		})
	}
	return t
}

// summary says in few words how an object fares: its false conditions, else
// its true ones.
func summary(reports map[string]status.Report) (state, message string) {
	var good, bad, messages []string
	for _, part := range sortedKeys(reports) {
		for _, c := range said(reports[part]) {
			switch {
			case c.bad():
				name := "Not" + c.Type
				if c.Status == metav1.ConditionTrue {
					name = c.Type
				}
				if text := name + ":" + c.Reason; !slices.Contains(bad, text) {
					bad = append(bad, text)
				}
				if !slices.Contains(messages, c.Message) {
					messages = append(messages, c.Message)
				}
			case c.Status == metav1.ConditionTrue && !slices.Contains(good, c.Type):
				good = append(good, c.Type)
			}
		}
	}
	if len(bad) > 0 {
		return strings.Join(bad, ","), strings.Join(messages, "; ")
	}
	return strings.Join(good, ","), ""
}

func serviceTable(snap *model.Snapshot, board *status.Board) admin.Table {
	t := admin.Table{Columns: []admin.Column{
		{Name: "NAMESPACE"}, {Name: "NAME"}, {Name: "TYPE"}, {Name: "CLUSTER-IP"}, {Name: "EXTERNAL-IP"}, {Name: "PORT(S)"},
		{Name: "READY"}, {Name: "STATUS"}, {Name: "SELECTOR", Wide: true}, {Name: "MESSAGE", Wide: true},
	}}
	for s := range model.Services.All(snap) {
		key := model.Services.Key(s)
		reports := board.Get(key)
		state, message := summary(reports)
		ready, all := 0, 0
		for slice := range model.SlicesByService.Find(snap, s.Namespace+"/"+s.Name) {
			for _, e := range slice.Endpoints {
				all++
				if e.Ready {
					ready++
				}
			}
		}
		t.Rows = append(t.Rows, admin.Row{
			Namespace: s.Namespace, Name: s.Name,
			Cells: []string{
				s.Namespace, s.Name, string(s.Type), clusterIPs(s), strings.Join(externalIPs(s), ","), servicePorts(s),
				fmt.Sprintf("%d/%d", ready, all), state, s.Selector, message,
			},
			Object: Object(key, s, reports),
		})
	}
	return t
}

func clusterIPs(s *model.Service) string {
	if s.Headless {
		return "None"
	}
	return strings.Join(texts(s.ClusterIPs), ",")
}

func externalIPs(s *model.Service) []string {
	out := append(texts(s.LoadBalancerIPs), texts(s.ExternalIPs)...)
	if s.ExternalName != "" {
		out = append(out, s.ExternalName)
	}
	return out
}

// servicePorts returns the ports as kubectl prints them.
func servicePorts(s *model.Service) string {
	var out []string
	for _, p := range s.Ports {
		text := port(p.Port)
		if p.NodePort != 0 {
			text += ":" + port(p.NodePort)
		}
		out = append(out, text+"/"+string(p.Protocol))
	}
	return strings.Join(out, ",")
}

func endpointTable(snap *model.Snapshot) admin.Table {
	t := admin.Table{Columns: []admin.Column{
		{Name: "NAMESPACE"}, {Name: "SERVICE"}, {Name: "ADDRESS"}, {Name: "PORTS"}, {Name: "STATE"}, {Name: "NODE"}, {Name: "POD"},
		{Name: "WEIGHT", Wide: true}, {Name: "ZONE", Wide: true}, {Name: "SLICE", Wide: true},
	}}
	for s := range model.EndpointSlices.All(snap) {
		var ports []string
		for _, p := range s.Ports {
			ports = append(ports, port(p.Port)+"/"+string(p.Protocol))
		}
		for _, e := range s.Endpoints {
			state := "NotReady"
			switch {
			case e.Ready:
				state = "Ready"
			case e.Terminating && e.Serving:
				state = "Draining"
			case e.Terminating:
				state = "Terminating"
			}
			t.Rows = append(t.Rows, admin.Row{
				Namespace: s.Namespace, Name: s.Service,
				Cells: []string{
					s.Namespace, s.Service, e.Addr.String(), strings.Join(ports, ","), state, e.Node, e.Pod,
					fmt.Sprint(s.Weight), e.Zone, s.Name,
				},
				Object: e,
			})
		}
	}
	return t
}

// problemTable lists what is wrong, wherever it is.
func problemTable(board *status.Board, manifests func() []source.Problem) admin.Table {
	t := admin.Table{Columns: []admin.Column{{Name: "OBJECT"}, {Name: "PART"}, {Name: "CONDITION"}, {Name: "MESSAGE"}}}
	if manifests != nil {
		for _, p := range manifests() {
			if p.HasKey && !p.Warning {
				continue // the board has it, on its object
			}
			t.Rows = append(t.Rows, admin.Row{
				Name:   p.Where(),
				Cells:  []string{p.Where(), "source", string(p.Reason), p.Error()},
				Object: map[string]string{"where": p.Where(), "reason": string(p.Reason), "message": p.Error()},
			})
		}
	}
	all := board.All()
	keys := slices.SortedFunc(maps.Keys(all), func(a, b model.Key) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, key := range keys {
		for _, part := range sortedKeys(all[key]) {
			for _, c := range said(all[key][part]) {
				if !c.bad() {
					continue
				}
				t.Rows = append(t.Rows, admin.Row{
					Namespace: key.Namespace, Name: key.Name,
					Cells:  []string{strings.Join(append([]string{key.String()}, c.about...), " "), part, c.Type + "=" + string(c.Status) + " (" + c.Reason + ")", c.Message},
					Object: map[string]any{"object": key.String(), "part": part, "about": strings.Join(c.about, " "), "where": all[key][part].Where, "condition": c.Condition},
				})
			}
		}
	}
	return t
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
