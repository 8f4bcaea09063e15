package mesh

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// planService plans a Service: clusters, endpoints, hosts and shares.
func (p *Planner) planService(u *unit, svc *model.Service) {
	name := model.Name{Namespace: svc.Namespace, Name: svc.Name}
	vs := p.virtualServiceOf(name)
	if vs != nil {
		u.follow(vs)
		if len(vs.http) > 0 && !slices.ContainsFunc(svc.Ports, isHTTP) {
			u.problem(vs, "UnsupportedProtocol", fmt.Sprintf("no port of Service %v speaks HTTP by its name or appProtocol", name))
		}
	}
	for _, port := range svc.Ports {
		if !isTCP(port) || svc.Type == corev1.ServiceTypeExternalName {
			continue
		}
		var shares []share
		tcp := tcpRuleFor(vs, port.Port)
		if tcp != nil {
			shares = p.shares(u, vs, tcp, name, port)
			p.planSplit(u, vs, name, port, shares)
		}
		switch {
		case p.conf.SplitsOnly:
		case isHTTP(port):
			p.planHTTPPort(u, svc, port, vs, shares)
		default:
			p.planTCPPort(u, svc, port, tcp, shares)
		}
	}
}

func tcpRuleFor(vs *virtualService, port uint16) *tcpRule {
	if vs != nil {
		for i := range vs.tcp {
			if vs.tcp[i].takes(port) {
				return &vs.tcp[i]
			}
		}
	}
	return nil
}

// share is a destination that was found.
type share struct {
	selection
	subset string
	weight uint32
}

func (s share) cluster() string { return clusterName(s.svc, s.port.Port, s.subset) }

// shares finds the destinations of a TCP rule. What is not found is left out,
// so the others take its part; the user is told.
func (p *Planner) shares(u *unit, vs *virtualService, rule *tcpRule, own model.Name, port model.ServicePort) []share {
	var out []share
	for _, d := range rule.dests {
		s, reason, text := p.find(u, vs, d, port.Port, onDefinition|onEndpoints, own)
		if reason != "" {
			u.problem(vs, reason, text)
			continue
		}
		out = append(out, s)
	}
	return out
}

// find looks a destination up. Whether it is there or not, the unit depends on
// the Service. The reason is empty if it was found.
func (p *Planner) find(u *unit, vs *virtualService, d destination, asked uint16, on dependency, own model.Name) (s share, reason, text string) {
	name, ok := serviceOf(d.host, vs.key.Namespace, p.conf.ClusterDomain)
	if !ok {
		return s, "BackendNotFound", fmt.Sprintf("destination %q is not the name of a Service", d.host)
	}
	if name != own {
		u.deps[name] |= on
	}
	svc, ok := model.Services.Get(p.snap, name.Namespace, name.Name)
	if !ok {
		return s, "BackendNotFound", fmt.Sprintf("there is no Service %v", name)
	}
	want := d.port
	if want == 0 {
		want = asked
		if i := slices.IndexFunc(svc.Ports, isTCP); i >= 0 && !slices.ContainsFunc(svc.Ports[i+1:], isTCP) {
			want = svc.Ports[i].Port
		}
	}
	i := slices.IndexFunc(svc.Ports, func(sp model.ServicePort) bool { return isTCP(sp) && sp.Port == want })
	if i < 0 {
		return s, "BackendNotFound", fmt.Sprintf("Service %v has no TCP port %d", name, want)
	}
	dr := p.ruleOf(name)
	s = share{selection: selection{svc: name, port: svc.Ports[i], tls: dr.mode()}, subset: d.subset, weight: d.weight}
	if d.subset != "" {
		sub, ok := dr.subset(d.subset)
		if !ok {
			return s, "SubsetNotFound", fmt.Sprintf("no DestinationRule gives Service %v a subset %q", name, d.subset)
		}
		s.labels, s.tls = sub.selector(), sub.tls
	}
	return s, "", ""
}

// selector returns the labels, never nil, which would mean that there is no
// subset at all; a subset without labels holds every endpoint.
func (s *subset) selector() map[string]string {
	if s.labels == nil {
		return map[string]string{}
	}
	return s.labels
}

func (d *destinationRule) mode() tlsMode {
	if d == nil {
		return tlsAuto
	}
	return d.tls
}

// planSplit plans the kernel's shares of a Service's port. Where no
// destination was found there are none, and the Service's own endpoints stay.
func (p *Planner) planSplit(u *unit, vs *virtualService, svc model.Name, port model.ServicePort, shares []share) {
	if len(shares) == 0 {
		return
	}
	s := &model.Split{
		Meta:     model.Meta{Namespace: svc.Namespace, Name: svc.Name + ":" + portString(port.Port)},
		Service:  svc,
		Port:     port.Port,
		Protocol: corev1.ProtocolTCP,
		Origin:   vs.key,
	}
	for _, sh := range shares {
		s.Backends = append(s.Backends, model.SplitBackend{Service: sh.svc, Port: sh.port.Port, Selector: sh.labels, Weight: sh.weight})
	}
	u.splits[s.Name] = s
}

// planTCPPort plans the cluster of each address of a port that speaks TCP. The
// shares of a VirtualService are localities in it, so that a change of weights
// is one of endpoints and cuts no connection.
func (p *Planner) planTCPPort(u *unit, svc *model.Service, port model.ServicePort, rule *tcpRule, shares []share) {
	name := model.Name{Namespace: svc.Namespace, Name: svc.Name}
	split := rule != nil && len(shares) > 0
	if !split {
		shares = []share{{selection: selection{svc: name, port: port, tls: p.ruleOf(name).mode()}}}
	}
	sels := make([]selection, len(shares))
	for i, s := range shares {
		sels[i] = s.selection
	}
	origins := []model.Key{model.Services.Key(svc)}
	for _, ip := range svc.ClusterIPs {
		vip := joinAddr(ip, port.Port)
		u.tcp = append(u.tcp, vip)
		cluster := route.TCPClusterName(vip)
		u.set(route.MeshGroup, &route.Cluster{
			Name: cluster, Protocol: route.TCP, Localities: split, MTLS: p.clientMTLS(sels...),
		}, origins...)
		eps := &route.Endpoints{Cluster: cluster}
		for _, s := range shares {
			l := route.Locality{Endpoints: p.endpoints(s.selection, ip.Is6())}
			if split {
				l.Name, l.Weight = s.cluster(), s.weight
			}
			eps.Localities = addLocality(eps.Localities, l)
		}
		u.set(route.MeshGroup, eps, origins...)
	}
}

// addLocality adds a share, or its weight where the same destination has
// another share already.
func addLocality(all []route.Locality, l route.Locality) []route.Locality {
	for i := range all {
		if all[i].Name == l.Name {
			all[i].Weight += l.Weight
			return all
		}
	}
	return append(all, l)
}

// planHTTPPort plans a port that speaks HTTP: a cluster for all endpoints and
// for each subset, and the routes of the Service's names.
func (p *Planner) planHTTPPort(u *unit, svc *model.Service, port model.ServicePort, vs *virtualService, shares []share) {
	name := model.Name{Namespace: svc.Namespace, Name: svc.Name}
	dr := p.ruleOf(name)
	origins := []model.Key{model.Services.Key(svc)}
	u.ports = append(u.ports, port.Port)
	p.planHTTPCluster(u, svc, share{selection: selection{svc: name, port: port, tls: dr.mode()}}, origins)
	if dr != nil {
		origins = append(slices.Clip(origins), dr.key)
		for i := range dr.subsets {
			sub := &dr.subsets[i]
			p.planHTTPCluster(u, svc, share{selection: selection{name, port, sub.selector(), sub.tls}, subset: sub.name}, origins)
		}
	}

	rules := p.rules(u, vs, port.Port, name)
	origins = []model.Key{model.Services.Key(svc)}
	if vs != nil {
		origins = append(origins, vs.key)
	}
	if len(rules) == 0 && len(shares) > 0 {
		// Only connections were to be shared, but here they carry requests.
		rule := route.Rule{Name: "tcp"}
		for _, s := range shares {
			rule.Backends = append(rule.Backends, route.Backend{Cluster: s.cluster(), Weight: s.weight})
		}
		rules = []route.Rule{rule}
	}
	if len(rules) == 0 {
		rules = []route.Rule{{Name: "default", Backends: []route.Backend{{Cluster: clusterName(name, port.Port, ""), Weight: 1}}}}
	}
	space := route.OutboundSpace(Space, port.Port)
	for _, alias := range sharedAliases(svc, p.conf.ClusterDomain) {
		u.set(route.MeshGroup, &route.Host{Space: space, Name: strings.ToLower(alias), Rules: rules}, origins...)
	}
	u.set(route.NamespaceGroup(svc.Namespace), &route.Host{Space: space, Name: svc.Name, Rules: rules}, origins...)
}

func (p *Planner) planHTTPCluster(u *unit, svc *model.Service, s share, origins []model.Key) {
	proto, _ := portProtocol(s.port)
	u.set(route.MeshGroup, &route.Cluster{Name: s.cluster(), Protocol: proto, MTLS: p.clientMTLS(s.selection)}, origins...)
	ipv6 := primaryIPv6(svc)
	eps := p.endpoints(s.selection, ipv6)
	if len(eps) == 0 {
		eps = p.endpoints(s.selection, !ipv6)
	}
	u.set(route.MeshGroup, &route.Endpoints{Cluster: s.cluster(), Localities: []route.Locality{{Endpoints: eps}}}, origins...)
}

// primaryIPv6 reports whether a Service prefers IPv6: the family of its first
// address, else the first of its families.
func primaryIPv6(svc *model.Service) bool {
	if len(svc.ClusterIPs) > 0 {
		return svc.ClusterIPs[0].Is6()
	}
	return len(svc.Families) > 0 && svc.Families[0] == corev1.IPv6Protocol
}
