package ingress

import (
	"fmt"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// planHTTPRoute plans an HTTPRoute that changed, or something that it was
// planned by.
func (p *Planner) planHTTPRoute(key model.Key) {
	obj, exists := model.HTTPRoutes.Get(p.snap, key.Namespace, key.Name)
	var seen references
	var node *routeNode
	if exists {
		node = p.evaluateHTTPRoute(key, obj, &seen)
	}
	p.byGateway.set(key, seen.gateways)
	p.byGrant.set(key, seen.grants)
	p.byNamespace.set(key, seen.namespaces)
	p.byService.set(key, seen.services)
	p.replaceRoute(key, node)
}

// replaceRoute puts the new plan of a route in the place of the old one. A nil
// node removes it.
func (p *Planner) replaceRoute(key model.Key, node *routeNode) {
	var none routeNode
	old := p.routes[key]
	if old == nil {
		old = &none
	}
	if node == nil {
		delete(p.routes, key)
		node = &none
	} else {
		p.routes[key] = node
	}
	p.dirty.reports[key] = struct{}{}
	p.setClaims(key, old.claims, node.claims)
	for _, ref := range old.attached {
		if !slices.Contains(node.attached, ref) {
			p.count(ref, -1)
		}
	}
	for _, ref := range node.attached {
		if !slices.Contains(old.attached, ref) {
			p.count(ref, 1)
		}
	}
}

// count changes how many routes are attached to a listener.
func (p *Planner) count(ref listenerRef, by int) {
	if p.attached[ref] += by; p.attached[ref] == 0 {
		delete(p.attached, ref)
	}
	p.dirty.reports[model.Key{Kind: model.KindGateway, Namespace: ref.gateway.Namespace, Name: ref.gateway.Name}] = struct{}{}
}

// evaluateHTTPRoute returns nil for a route without a parent of ours.
func (p *Planner) evaluateHTTPRoute(key model.Key, obj *gatewayv1.HTTPRoute, seen *references) *routeNode {
	hostnames, refused := parseHostnames(obj.Spec.Hostnames)
	node := &routeNode{key: key, claims: map[hostKey]*claim{}}
	node.parents = p.findParents(obj, hostnames, seen)
	if len(node.parents) == 0 {
		return nil
	}
	c := p.compileRoute(obj, seen)
	node.resolved = c.unresolved
	if refused == nil {
		refused, node.partial = c.verdict()
	}
	for i := range node.parents {
		pa := &node.parents[i]
		if pa.refused == nil {
			pa.refused = refused
		}
		if pa.refused != nil {
			continue
		}
		for _, l := range pa.to {
			ref := listenerRef{pa.gateway.name, l.name}
			if !slices.Contains(node.attached, ref) {
				node.attached = append(node.attached, ref)
			}
			if l.usable {
				node.claim(obj, pa.gateway, l, hostnames, c)
			}
		}
	}
	return node
}

// claim adds what the route wants of the hosts of a listener.
func (n *routeNode) claim(obj *gatewayv1.HTTPRoute, gw *gateway, l *listener, hostnames []string, c *compiledRoute) {
	for _, h := range hostnames {
		name, ok := intersect(l.hostname, h)
		if !ok || owner(gw.listeners, l.port, name) != l {
			continue
		}
		key := hostKey{gw.group, l.space, name}
		if had := n.claims[key]; had != nil && had.exact >= specificity(h) {
			continue
		}
		n.claims[key] = &claim{
			origin:  origin{obj.CreationTimestamp.Unix(), obj.Namespace + "/" + obj.Name},
			exact:   specificity(h),
			entries: c.entriesFor(redirectPlace{l.protocol, l.port, name}),
		}
	}
}

// parseHostnames returns the hostnames of a route, [anyHost] if it has none.
func parseHostnames(names []gatewayv1.Hostname) ([]string, *problem) {
	if len(names) == 0 {
		return []string{anyHost}, nil
	}
	hosts := make([]string, 0, len(names))
	for _, n := range names {
		h, err := parseHostname(string(n))
		if err != nil {
			return []string{anyHost}, problemf(gatewayv1.RouteReasonUnsupportedValue, "%v", err)
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// compiledRoute is an HTTPRoute's rules.
type compiledRoute struct {
	entries    []entry
	redirects  []redirectEntry
	rules      int // of the object
	bad        []badRule
	unresolved *problem
	byPlace    map[redirectPlace][]entry
}

// redirectEntry is an entry whose redirect is still to be made for a place.
type redirectEntry struct {
	index  int
	filter *gatewayv1.HTTPRequestRedirectFilter
}

// badRule is a rule that is refused.
type badRule struct {
	where string
	problem
}

// compileRoute compiles all rules. A rule that is refused is answered with 500
// where it matches, so that its requests do not reach the backends of a wider
// rule; one whose matches themselves are refused has no requests.
func (p *Planner) compileRoute(obj *gatewayv1.HTTPRoute, seen *references) *compiledRoute {
	rules := obj.Spec.Rules
	if len(rules) == 0 {
		rules = defaultRules
	}
	c := &compiledRoute{rules: len(rules)}
	for i := range rules {
		r := &rules[i]
		matches, bad := parseMatches(r.Matches)
		var proto route.Rule
		var redirect *gatewayv1.HTTPRequestRedirectFilter
		if bad == nil {
			proto, redirect, bad = p.compileRule(obj, r, c, seen)
		}
		if bad != nil {
			c.bad = append(c.bad, badRule{ruleName(r, i), *bad})
			proto = route.Rule{Respond: &route.Response{Code: 500}}
			redirect = nil
		}
		for _, m := range matches {
			e := entry{rule: proto, matchKey: m.key, order: len(c.entries)}
			e.rule.Match = m.match
			e.rule.Name = "httproute/" + obj.Namespace + "/" + obj.Name + "/"
			if r.Name != nil && *r.Name != "" {
				e.rule.Name += string(*r.Name) + "/"
			}
			e.rule.Name += m.short
			if redirect != nil {
				c.redirects = append(c.redirects, redirectEntry{len(c.entries), redirect})
			}
			c.entries = append(c.entries, e)
		}
	}
	return c
}

// defaultRules is what the API server makes of a route without rules.
var defaultRules = []gatewayv1.HTTPRouteRule{{}}

func ruleName(r *gatewayv1.HTTPRouteRule, i int) string {
	if r.Name != nil && *r.Name != "" {
		return fmt.Sprintf("rule %q", *r.Name)
	}
	return fmt.Sprintf("rules[%d]", i)
}

// verdict says whether the route is refused because all of its rules are, or
// partially invalid because some are (RouteConditionPartiallyInvalid).
func (c *compiledRoute) verdict() (refused, partial *problem) {
	if len(c.bad) == 0 {
		return nil, nil
	}
	var text []string
	for _, b := range c.bad {
		text = append(text, b.where+": "+b.message)
	}
	message := strings.Join(text, "; ")
	if len(c.bad) == c.rules {
		return &problem{c.bad[0].reason, message}, nil
	}
	return nil, problemf(gatewayv1.RouteReasonUnsupportedValue, "Dropped Rule: %s", message)
}

// entriesFor returns the entries as a host of a listener has them. Without
// redirects all share them.
func (c *compiledRoute) entriesFor(at redirectPlace) []entry {
	if len(c.redirects) == 0 {
		return c.entries
	}
	if es := c.byPlace[at]; es != nil {
		return es
	}
	es := slices.Clone(c.entries)
	for _, r := range c.redirects {
		es[r.index].rule.Redirect = planRedirect(r.filter, at)
	}
	if c.byPlace == nil {
		c.byPlace = map[redirectPlace][]entry{}
	}
	c.byPlace[at] = es
	return es
}
