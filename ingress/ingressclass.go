package ingress

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

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
	users     map[model.Key]struct{}
	wants     map[model.Key][]tlsWant
	resources map[route.Ref]published
	ports     []uint16
}

// tlsWant is that an Ingress wants a server name served with a certificate.
type tlsWant struct {
	serverName string // anyHost: where no other matches
	secret     *route.Secret
	origin     origin
}

func ingressGroup(class string) route.Group { return route.GatewayGroup("", class) }

func ingressSpace(class string) string { return "ingress/" + class }

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

func (p *Planner) joinClass(name string, key model.Key, wants []tlsWant) {
	c := p.classes[name]
	if c == nil {
		c = &ingressClass{
			name: name, group: ingressGroup(name),
			users: map[model.Key]struct{}{}, wants: map[model.Key][]tlsWant{},
		}
		p.classes[name] = c
		p.dirty.classes[name] = struct{}{}
	}
	c.users[key] = struct{}{}
	if slices.Equal(c.wants[key], wants) {
		return
	}
	p.dirty.classes[name] = struct{}{}
	if c.wants[key] = wants; len(wants) == 0 {
		delete(c.wants, key)
	}
}

func (p *Planner) leaveClass(name string, key model.Key) {
	c := p.classes[name]
	delete(c.users, key)
	if _, had := c.wants[key]; had || len(c.users) == 0 {
		p.dirty.classes[name] = struct{}{}
	}
	delete(c.wants, key)
}

// planIngressClass plans the listeners of a class.
func (p *Planner) planIngressClass(name string) {
	c := p.classes[name]
	if c == nil {
		return
	}
	if len(c.users) == 0 {
		delete(p.classes, name)
		delete(p.groups, c.group)
		p.publish(c.group, c.resources, nil)
		p.forgetRejections(c.group)
		p.out.Groups = append(p.out.Groups, GroupChange{Group: c.group, Gateway: model.Name{Name: name}, Gone: true})
		return
	}
	before, oldPorts := c.resources, c.ports
	oldPlace := c.place
	c.place = p.opt.Place(p.snap, c.group, nil)
	c.resources, c.ports = c.plan()
	p.publish(c.group, before, c.resources)
	if before == nil || !slices.Equal(oldPorts, c.ports) {
		p.out.Groups = append(p.out.Groups, GroupChange{Group: c.group, Gateway: model.Name{Name: name}, Ports: c.ports})
	}
	if before == nil || !reflect.DeepEqual(oldPlace, c.place) {
		for key := range c.users {
			p.dirty.reports[key] = struct{}{}
		}
	}
}

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
	ports := []uint16{80}
	listener(80, route.HTTP).Space = ingressSpace(c.name)
	if chains := c.chains(add); len(chains) > 0 {
		listener(443, route.HTTPS).Chains = chains
		ports = append(ports, 443)
	}
	return resources, ports
}

// chains gives each server name to the oldest Ingress that wants it, and puts
// the names of one certificate into one chain.
func (c *ingressClass) chains(add func(route.Resource, ...model.Key)) []route.TLSChain {
	winners := map[string]tlsWant{}
	for _, wants := range c.wants {
		for _, w := range wants {
			if had, ok := winners[w.serverName]; !ok || w.origin.before(had.origin) {
				winners[w.serverName] = w
			}
		}
	}
	type names struct {
		secret *route.Secret
		names  []string
	}
	bySecret := map[string]*names{}
	for name, w := range winners {
		id := w.secret.Name
		if name == anyHost {
			id += "/default" // a chain either has server names or is the default
		}
		if bySecret[id] == nil {
			bySecret[id] = &names{secret: w.secret}
			add(w.secret, secretKey(w.secret))
		}
		if name != anyHost {
			bySecret[id].names = append(bySecret[id].names, name)
		}
	}
	var chains []route.TLSChain
	for _, id := range slices.Sorted(maps.Keys(bySecret)) {
		n := bySecret[id]
		slices.Sort(n.names)
		chains = append(chains, route.TLSChain{Name: id, ServerNames: n.names, Secrets: []string{n.secret.Name}, Space: ingressSpace(c.name)})
	}
	return chains
}

// before tells which of two objects wins where only one can.
func (o origin) before(other origin) bool {
	return cmp.Or(cmp.Compare(o.created, other.created), strings.Compare(o.name, other.name)) < 0
}

// ingressTLS returns the certificates that an Ingress wants.
func (p *Planner) ingressTLS(n *routeNode, obj *networkingv1.Ingress, seen *references) []tlsWant {
	var wants []tlsWant
	from := origin{obj.CreationTimestamp.Unix(), obj.Namespace + "/" + obj.Name}
	for i := range obj.Spec.TLS {
		t := &obj.Spec.TLS[i]
		if t.SecretName == "" {
			n.note(gatewayv1.RouteReasonUnsupportedValue, "tls[%d]: no secretName", i)
			continue
		}
		name := model.Name{Namespace: obj.Namespace, Name: t.SecretName}
		seen.secrets = append(seen.secrets, name)
		cert, err := p.certificate(name)
		if err != nil {
			n.note(gatewayv1.RouteConditionReason(gatewayv1.ListenerReasonInvalidCertificateRef), "tls[%d]: %v", i, err)
		}
		if cert == nil {
			continue
		}
		hosts := t.Hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for _, h := range hosts {
			host, err := parseHostname(h)
			if err != nil {
				n.note(gatewayv1.RouteReasonUnsupportedValue, "tls[%d]: %v", i, err)
				continue
			}
			wants = append(wants, tlsWant{host, cert, from})
		}
	}
	return wants
}
