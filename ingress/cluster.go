package ingress

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// cluster is a port of a Service that some host's rules name.
type cluster struct {
	name   string // "namespace/service/port"
	svc    model.Name
	port   uint16
	groups map[route.Group]*clusterUse

	cluster   *route.Cluster
	endpoints *route.Endpoints
}

// clusterUse counts the hosts of a group that name a cluster.
type clusterUse struct {
	hosts     int
	published bool
}

func clusterName(svc model.Name, port uint16) string {
	return svc.Namespace + "/" + svc.Name + "/" + strconv.Itoa(int(port))
}

// useClusters counts a host's clusters, old and new, both sorted.
func (p *Planner) useClusters(g route.Group, old, next []string) {
	for _, name := range old {
		if _, still := slices.BinarySearch(next, name); !still {
			p.clusters[name].groups[g].hosts--
			p.dirty.clusters[name] = struct{}{}
		}
	}
	for _, name := range next {
		if _, had := slices.BinarySearch(old, name); had {
			continue
		}
		c := p.clusters[name]
		if c == nil {
			c = newCluster(name)
			p.clusters[name] = c
			p.ofSvc[c.svc] = append(p.ofSvc[c.svc], c)
		}
		if c.groups[g] == nil {
			c.groups[g] = &clusterUse{}
		}
		c.groups[g].hosts++
		p.dirty.clusters[name] = struct{}{}
	}
}

// newCluster takes a name of [clusterName] apart again.
func newCluster(name string) *cluster {
	c := &cluster{name: name, groups: map[route.Group]*clusterUse{}}
	i, j := strings.IndexByte(name, '/'), strings.LastIndexByte(name, '/')
	port, _ := strconv.ParseUint(name[j+1:], 10, 16)
	c.svc, c.port = model.Name{Namespace: name[:i], Name: name[i+1 : j]}, uint16(port)
	return c
}

// planCluster plans a cluster whose users, Service or EndpointSlices changed.
func (p *Planner) planCluster(name string) {
	c := p.clusters[name]
	if c == nil {
		return
	}
	oldCluster, oldEndpoints := c.cluster, c.endpoints
	svc, port := findPort(p.snap, c.svc, c.port)
	if port != nil {
		c.plan(p.snap, svc, port)
	}
	sameCluster := reflect.DeepEqual(oldCluster, c.cluster)
	if sameCluster {
		c.cluster = oldCluster
	}
	sameEndpoints := oldEndpoints != nil && reflect.DeepEqual(oldEndpoints, c.endpoints)
	if sameEndpoints {
		c.endpoints = oldEndpoints
	}
	origin := model.Key{Kind: model.KindService, Namespace: c.svc.Namespace, Name: c.svc.Name}
	for g, use := range c.groups {
		if use.hosts == 0 {
			delete(c.groups, g)
			if use.published {
				p.out.Changes = append(p.out.Changes, route.Remove(g, route.KindCluster, name), route.Remove(g, route.KindEndpoints, name))
			}
			continue
		}
		if !use.published || !sameCluster {
			p.out.Changes = append(p.out.Changes, route.Set(g, c.cluster, origin))
		}
		if !use.published || !sameEndpoints {
			p.out.Changes = append(p.out.Changes, route.Set(g, c.endpoints, origin))
		}
		use.published = true
	}
	if len(c.groups) == 0 {
		delete(p.clusters, name)
		rest := slices.DeleteFunc(p.ofSvc[c.svc], func(o *cluster) bool { return o == c })
		if p.ofSvc[c.svc] = rest; len(rest) == 0 {
			delete(p.ofSvc, c.svc)
		}
	}
}

func (c *cluster) plan(snap *model.Snapshot, svc *model.Service, port *model.ServicePort) {
	protocol, _ := backendProtocol(port.AppProtocol)
	c.cluster = &route.Cluster{Name: c.name, Protocol: protocol}
	c.endpoints = &route.Endpoints{Cluster: c.name}
	if eps := planEndpoints(snap, svc, port.Name); len(eps) > 0 {
		c.endpoints.Localities = []route.Locality{{Weight: 1, Endpoints: eps}}
	}
}

// findPort returns a Service and its TCP port of that number, nil if there is
// none.
func findPort(snap *model.Snapshot, name model.Name, number uint16) (*model.Service, *model.ServicePort) {
	svc, ok := model.Services.Get(snap, name.Namespace, name.Name)
	if !ok {
		return nil, nil
	}
	for i := range svc.Ports {
		if p := &svc.Ports[i]; p.Port == number && isTCP(p.Protocol) {
			return svc, p
		}
	}
	return svc, nil
}

func isTCP(p corev1.Protocol) bool { return p == corev1.ProtocolTCP || p == "" }

// backendProtocol returns what a backend of that appProtocol speaks. A backend
// that wants TLS is not supported: to speak plaintext to it would fail, or
// worse.
func backendProtocol(appProtocol string) (route.Protocol, bool) {
	switch appProtocol {
	case "kubernetes.io/h2c", "h2c", "http2", "grpc":
		return route.HTTP2, true
	case "kubernetes.io/wss", "https", "tls", "grpcs", "grpc-web-s":
		return "", false
	}
	return route.HTTP, true
}

// planEndpoints returns the members of a port of a Service, in one family: the
// Service's first that has any, because a Pod of both families has a slice in
// each. Ready endpoints take requests; while there are none, those that are
// terminating but still serve do (KEP-1669). Beside ready ones, the terminating
// ones are kept as draining, so that what they still answer is not cut off.
func planEndpoints(snap *model.Snapshot, svc *model.Service, portName string) []route.Endpoint {
	byFamily := [2]members{}
	for slice := range model.SlicesByService.Find(snap, svc.Namespace+"/"+svc.Name) {
		i := 0
		if slice.IPv6 {
			i = 1
		}
		byFamily[i].add(slice, portName)
	}
	first := 0
	if len(svc.Families) > 0 && svc.Families[0] == corev1.IPv6Protocol {
		first = 1
	}
	for _, i := range [...]int{first, 1 - first} {
		if eps := byFamily[i].choose(); len(eps) > 0 {
			return eps
		}
	}
	return nil
}

// members are the endpoints of one family.
type members struct{ ready, serving []route.Endpoint }

func (m *members) add(slice *model.EndpointSlice, portName string) {
	var number uint16
	for i := range slice.Ports {
		if slice.Ports[i].Name == portName && isTCP(slice.Ports[i].Protocol) {
			number = slice.Ports[i].Port
		}
	}
	if number == 0 {
		return
	}
	for i := range slice.Endpoints {
		e := &slice.Endpoints[i]
		ep := route.Endpoint{Addr: netip.AddrPortFrom(e.Addr, number), Weight: uint32(max(slice.Weight, 0))}
		switch {
		case e.Ready && slice.Weight <= 0:
			ep.Draining, ep.Weight = true, 0
			m.ready = append(m.ready, ep)
		case e.Ready:
			m.ready = append(m.ready, ep)
		case e.Serving && e.Terminating:
			m.serving = append(m.serving, ep)
		}
	}
}

func (m *members) choose() []route.Endpoint {
	eps := m.serving
	if len(m.ready) > 0 {
		for i := range eps {
			eps[i].Draining = true
		}
		eps = append(m.ready, eps...)
	}
	slices.SortFunc(eps, func(a, b route.Endpoint) int {
		return cmp.Or(a.Addr.Compare(b.Addr), compareBools(a.Draining, b.Draining))
	})
	return slices.CompactFunc(eps, func(a, b route.Endpoint) bool { return a.Addr == b.Addr })
}

// sameBackend reports whether nothing about a Service changed that a route
// looks at.
func sameBackend(a, b *model.Service) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Type == b.Type && slices.Equal(a.Ports, b.Ports)
}
