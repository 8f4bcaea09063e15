package mesh

import (
	"fmt"
	"net/netip"
	"strings"

	networking "istio.io/api/networking/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

func joinAddr(ip netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(ip, port) }

// outsidePort is the port on which hosts that are not Services are routed, as
// Istio does for hosts of which nothing says a port.
const outsidePort = 80

// planHost plans the routes of a host that is no Service's.
func (p *Planner) planHost(u *unit, host string) {
	list := p.byHost[host]
	if len(list) == 0 || p.conf.SplitsOnly {
		return
	}
	vs := list[0]
	if strings.HasSuffix(host, ".svc."+p.conf.ClusterDomain) {
		if !strings.HasPrefix(host, "*") {
			p.missingHost(u, vs, host)
		}
		return
	}
	u.follow(vs)
	if name, ok := serviceOf(host, "", p.conf.ClusterDomain); ok {
		// The short form of a Service's name, or somebody's domain.
		u.deps[name] |= onDefinition
		if _, is := model.Services.Get(p.snap, name.Namespace, name.Name); is {
			u.problem(vs, "HostNotFound", fmt.Sprintf("host %q: write the full name of the Service, %s", host, p.hostOf(name)))
			return
		}
	}
	rules := p.rules(u, vs, outsidePort, model.Name{})
	if len(rules) == 0 {
		return
	}
	u.ports = []uint16{outsidePort}
	u.set(route.MeshGroup, &route.Host{Space: route.OutboundSpace(Space, outsidePort), Name: host, Rules: rules}, vs.key)
}

// missingHost says that a host should be a Service's but there is none.
func (p *Planner) missingHost(u *unit, vs *virtualService, host string) {
	u.follow(vs)
	name, ok := p.fullName(host)
	if ok {
		u.deps[name] |= onDefinition
		if _, is := model.Services.Get(p.snap, name.Namespace, name.Name); is {
			return
		}
	}
	u.problem(vs, "HostNotFound", fmt.Sprintf("host %q: there is no such Service", host))
}

// rules returns the routes that a VirtualService gives to one port, none if it
// has nothing to say of it.
func (p *Planner) rules(u *unit, vs *virtualService, port uint16, own model.Name) []route.Rule {
	if vs == nil {
		return nil
	}
	var out []route.Rule
	for i := range vs.http {
		h := &vs.http[i]
		backends, done := []route.Backend(nil), false
		for _, m := range h.matches {
			if m.port != 0 && m.port != port {
				continue
			}
			if !done { // once for all matches
				backends, done = p.backends(u, vs, h, port, own), true
			}
			rule := route.Rule{
				Name:  ruleName(vs, h, m),
				Match: m.m, Backends: backends, Redirect: h.redirect, Respond: h.respond,
				Request: h.request, Response: h.response, Timeout: h.timeout,
			}
			if h.dests != nil {
				rule.Rewrite = rewrite(h.rewrite, m.m.Path.Kind)
			}
			out = append(out, rule)
		}
	}
	return out
}

func ruleName(vs *virtualService, h *httpRule, m httpMatch) string {
	name := vs.key.Namespace + "/" + vs.key.Name + "/" + h.name
	if m.name != "" {
		name += "/" + m.name
	}
	return name
}

// backends finds the destinations of an HTTP rule. A share that leads nowhere
// is answered with 500, the others keep theirs.
func (p *Planner) backends(u *unit, vs *virtualService, h *httpRule, port uint16, own model.Name) []route.Backend {
	var out []route.Backend
	for _, d := range h.dests {
		b := route.Backend{Weight: d.weight, Request: d.request, Response: d.response}
		s, reason, text := p.find(u, vs, d, port, onDefinition, own)
		switch {
		case reason != "":
			u.problem(vs, reason, text)
		case !isHTTP(s.port):
			u.problem(vs, "UnsupportedProtocol", fmt.Sprintf("port %d of Service %v does not speak HTTP by its name or appProtocol", s.port.Port, s.svc))
		default:
			b.Cluster = s.cluster()
		}
		out = append(out, b)
	}
	return out
}

// rewrite says what a VirtualService's rewrite does where a path was matched in
// this way: it replaces what matched.
func rewrite(in *networking.HTTPRewrite, kind route.PathKind) *route.Rewrite {
	if in == nil {
		return nil
	}
	out := &route.Rewrite{Host: in.Authority}
	if in.Uri != "" {
		switch kind {
		case route.PathExact, route.PathRegex:
			out.Path = in.Uri
		default:
			out.PathPrefix, out.HasPrefix = in.Uri, true
		}
	}
	return out
}
