package ingress

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// ingressClass is an IngressClass with at least one Ingress: they share the
// proxies of one group, which listen on ports 80 and, if any Ingress has TLS,
// 443.
type ingressClass struct {
	name      string
	group     route.Group
	place     Placement
	taken     map[uint16]string // ports that Gateways have
	secure    bool              // some Ingress has a certificate
	users     map[model.Key]*routeNode
	resources map[route.Ref]published
	ports     []uint16

	tls     tlsNames
	onHost  map[string]map[model.Key]struct{} // host -> the Ingresses that claim it
	reclaim map[model.Key]struct{}            // Ingresses whose claims are to be made again
}

func ingressGroup(class string) route.Group { return route.GatewayGroup("", class) }

// ourIngressClass tells whether the Ingresses of a class are ours.
func (p *Planner) ourIngressClass(name string) bool {
	class, ok := model.IngressClasses.Get(p.snap, "", name)
	if !ok {
		return name == DefaultClass
	}
	return class.Spec.Controller == IngressController
}

// markIngressClass finds the Ingresses that a change of a class concerns.
func (p *Planner) markIngressClass(name string) {
	p.byIngClass.mark(name, p.dirty.objects)
	if next := p.findDefaultClass(); next != p.defaultClass {
		p.defaultClass = next
		p.byIngClass.mark("", p.dirty.objects)
	} else if name == p.defaultClass {
		p.byIngClass.mark("", p.dirty.objects)
	}
}

// findDefaultClass returns the class of Ingresses that name none: the newest
// marked as default, as the API server's admission picks it. In standalone
// mode, where no admission has been at work, it is ours if none is marked.
func (p *Planner) findDefaultClass() string {
	var best *networkingv1.IngressClass
	for c := range model.IngressClasses.All(p.snap) {
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true" {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&c.CreationTimestamp) {
			best = c
		}
	}
	switch {
	case best != nil:
		return best.Name
	case p.opt.Standalone:
		return DefaultClass
	}
	return ""
}

// joinClass puts the new plan of an Ingress into its class.
func (p *Planner) joinClass(n *routeNode, wants []tlsWant) {
	c := p.classes[n.class]
	if c == nil {
		c = &ingressClass{
			name: n.class, group: ingressGroup(n.class), users: map[model.Key]*routeNode{}, tls: newTLSNames(),
			onHost: map[string]map[model.Key]struct{}{}, reclaim: map[model.Key]struct{}{},
		}
		p.classes[n.class] = c
	}
	c.forget(c.users[n.key])
	c.users[n.key] = n
	for host := range n.byHost {
		if c.onHost[host] == nil {
			c.onHost[host] = map[model.Key]struct{}{}
		}
		c.onHost[host][n.key] = struct{}{}
	}
	c.tls.set(n.key, wants)
	c.reclaim[n.key] = struct{}{}
	p.dirty.classes[n.class] = struct{}{}
}

// leave takes an Ingress out of its class.
func (c *ingressClass) leave(n *routeNode) {
	c.forget(n)
	delete(c.users, n.key)
	delete(c.reclaim, n.key)
	c.tls.set(n.key, nil)
}

// forget takes an Ingress off its hosts.
func (c *ingressClass) forget(n *routeNode) {
	if n == nil {
		return
	}
	for host := range n.byHost {
		if delete(c.onHost[host], n.key); len(c.onHost[host]) == 0 {
			delete(c.onHost, host)
		}
	}
}

// planIngressClass plans the listeners of a class, and the claims of those of
// its Ingresses that changed or whose hosts have got another certificate.
func (p *Planner) planIngressClass(name string) {
	c := p.classes[name]
	if len(c.users) == 0 {
		delete(p.classes, name)
		delete(p.groups, c.group)
		p.publish(c.group, c.resources, nil)
		p.forgetRejections(c.group)
		p.out.Groups = append(p.out.Groups, GroupChange{Group: c.group, Gateway: model.Name{Name: name}, Gone: true})
		return
	}
	place := p.opt.Place(p.snap, c.group, nil)
	moved, touched := c.tls.settle()
	taken := map[uint16]string{}
	for _, port := range []uint16{80, 443} {
		if owner := p.portOwner(model.Key{}, place.Listen, port); owner != nil {
			taken[port] = owner.key.String()
		}
	}
	first, replaced := c.resources == nil, !reflect.DeepEqual(c.place, place) || !maps.Equal(c.taken, taken)
	c.place, c.taken = place, taken
	if first || replaced || touched {
		before, ports := c.resources, c.ports
		c.resources, c.ports = c.plan()
		p.publish(c.group, before, c.resources)
		if first || !slices.Equal(ports, c.ports) {
			p.out.Groups = append(p.out.Groups, GroupChange{Group: c.group, Gateway: model.Name{Name: name}, Ports: c.ports})
		}
	}
	if first || replaced {
		for key := range c.users {
			p.dirty.reports[key] = struct{}{}
		}
	}
	for _, n := range moved {
		c.markHosts(n)
	}
	for key := range c.reclaim {
		n := c.users[key]
		claims := c.claims(n)
		p.setClaims(key, n.claims, claims)
		n.claims = claims
	}
	clear(c.reclaim)
}

// markHosts finds the Ingresses with hosts that a server name has to do with.
func (c *ingressClass) markHosts(serverName string) {
	if _, wild := wildcard(serverName); wild || serverName == anyHost {
		for host, keys := range c.onHost {
			if covers(serverName, host) || covers(host, serverName) {
				mark(keys, c.reclaim)
			}
		}
		return
	}
	for host := range wider(serverName) {
		mark(c.onHost[host], c.reclaim)
	}
}

func mark(keys, into map[model.Key]struct{}) { maps.Copy(into, keys) }

// claims are what an Ingress wants of its hosts: in the space of port 80, and
// in that of each chain on port 443 in which its host may be asked for.
func (c *ingressClass) claims(n *routeNode) map[hostKey]*claim {
	out := make(map[hostKey]*claim, len(n.byHost))
	for host, cl := range n.byHost {
		out[hostKey{c.group, c.space(), host}] = cl
		for _, chain := range c.tls.chainsOf(host) {
			out[hostKey{c.group, c.chainSpace(chain), host}] = cl
		}
	}
	return out
}

func (c *ingressClass) space() string { return "ingress/" + c.name + "/80" }

func (c *ingressClass) chainSpace(chain string) string { return "ingress/" + c.name + "/443/" + chain }

func (c *ingressClass) plan() (map[route.Ref]published, []uint16) {
	resources := map[route.Ref]published{}
	add := func(r route.Resource, origins ...model.Key) {
		resources[route.Ref{Group: c.group, Kind: r.Kind(), ID: r.ID()}] = published{r, origins}
	}
	listener := func(port uint16, protocol route.Protocol) *route.GatewayListener {
		l := &route.GatewayListener{Addresses: c.place.Listen, Port: port, Protocol: protocol}
		add(&route.Listener{Name: fmt.Sprintf("ingress/%s/%d", c.name, port), Gateway: l})
		return l
	}
	var ports []uint16
	if c.taken[80] == "" {
		ports = append(ports, 80)
		listener(80, route.HTTP).Space = c.space()
	}
	chains, secrets := c.tls.chains()
	c.secure = len(chains) > 0
	if c.secure && c.taken[443] == "" {
		for i := range chains {
			chains[i].Space = c.chainSpace(chains[i].Name)
		}
		for _, s := range secrets {
			add(s, secretKey(s))
		}
		listener(443, route.HTTPS).Chains = chains
		ports = append(ports, 443)
	}
	return resources, ports
}
