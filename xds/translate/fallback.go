package translate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
)

// claim is what a listener says of the hosts of a space, beyond the hosts that
// are there.
type claim struct {
	// own are the names that a chain of TLS is for; empty: any.
	own []string
	// others are names that other chains of the listener are for, and which
	// are in the reach of this one's.
	others []string
	// pass says that a host that nobody knows is sent on to where the client
	// wanted to go.
	pass bool
}

func (c claim) equal(d claim) bool {
	return c.pass == d.pass && slices.Equal(c.own, d.own) && slices.Equal(c.others, d.others)
}

// claims returns what a listener says of its spaces.
func claims(l *route.Listener) map[string]claim {
	out := map[string]claim{}
	switch {
	case l.Outbound != nil:
		for _, port := range l.Outbound.HTTPPorts {
			out[route.OutboundSpace(l.Outbound.Space, port)] = claim{pass: true}
		}
	case l.Gateway != nil:
		for _, c := range l.Gateway.Chains {
			out[c.Space] = claim{own: serverNames(c), others: reach(c, l.Gateway.Chains)}
		}
	}
	return out
}

// reach returns the names of other chains that a chain's names cover. A name
// without a wildcard covers none, so that only few chains look at the others.
func reach(c route.TLSChain, all []route.TLSChain) []string {
	patterns := []string{"*"}
	if names := serverNames(c); len(names) > 0 {
		patterns = slices.DeleteFunc(names, func(name string) bool { return !wildcard(name) })
	}
	if len(patterns) == 0 {
		return nil
	}
	var out []string
	for _, other := range all {
		if other.Name == c.Name {
			continue
		}
		for _, name := range serverNames(other) {
			if slices.ContainsFunc(patterns, func(p string) bool { return covers(p, name) }) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// serverNames returns the names that a chain is for, in lower case and in
// order; none means any.
func serverNames(c route.TLSChain) []string {
	var out []string
	for _, name := range c.ServerNames {
		if name == "*" {
			return nil
		}
		out = append(out, strings.ToLower(name))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// covers reports whether a pattern, which may be a wildcard, stands for all
// that a name stands for.
func covers(pattern, name string) bool {
	if pattern == "*" || pattern == name {
		return true
	}
	return strings.HasPrefix(pattern, "*.") && strings.HasSuffix(name, pattern[1:]) && len(name) > len(pattern)-1
}

// wildcardHost is a wildcard host with its routes, made once.
type wildcardHost struct {
	vhost *routev3.VirtualHost // without domains
	needs []delta.Ref
}

// fallback makes the scope of a space's wildcard hosts. It has what no exact
// host's scope was found for, so it also answers 421 to a request that came
// over a connection that was not made for its host (RFC 9110, 15.5.20), and
// sends on what is to be passed. ok is false if there is nothing of all that.
func fallback(space string, hosts map[string]wildcardHost, c claim) (r delta.Resource, ok bool, err error) {
	rc := &routev3.RouteConfiguration{IgnorePortInHostMatching: true}
	var needs []delta.Ref
	taken := map[string]bool{}
	add := func(name string, domains []string, routes ...*routev3.Route) {
		domains = slices.DeleteFunc(domains, func(d string) bool { return taken[d] })
		if len(domains) == 0 {
			return
		}
		for _, d := range domains {
			taken[d] = true
		}
		rc.VirtualHosts = append(rc.VirtualHosts, &routev3.VirtualHost{Name: name, Domains: domains, Routes: routes})
	}

	add("misdirected", slices.Clone(c.others), respond("misdirected", 421))
	names := make([]string, 0, len(hosts))
	for name := range hosts {
		names = append(names, name)
	}
	// The most specific host comes first, and takes its names from the others.
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
	for _, name := range names {
		h := hosts[name]
		before := len(rc.VirtualHosts)
		add(name, within(name, c.own), h.vhost.Routes...)
		if len(rc.VirtualHosts) > before {
			rc.VirtualHosts[before].RetryPolicy = h.vhost.RetryPolicy
			needs = append(needs, h.needs...)
		}
	}
	if len(c.own) > 0 {
		add("no-host", slices.Clone(c.own), respond(noMatch, 404))
		add("misdirected-rest", []string{"*"}, respond("misdirected", 421))
	}
	if c.pass && !taken["*"] {
		add("passthrough", []string{"*"}, passRoute("passthrough", OutboundCluster))
		needs = append(needs, clusterRef(OutboundCluster))
	}
	if len(rc.VirtualHosts) == 0 {
		return delta.Resource{}, false, nil
	}
	r, err = scope(space, fallbackHost, rc, needs)
	if err != nil {
		return delta.Resource{}, false, fmt.Errorf("the wildcard hosts of %s: %w", space, err)
	}
	return r, true, nil
}

// within returns what of a host is in the names of a chain; none means all.
func within(host string, own []string) []string {
	if len(own) == 0 || slices.ContainsFunc(own, func(n string) bool { return covers(n, host) }) {
		return []string{host}
	}
	var out []string
	for _, n := range own {
		if covers(host, n) {
			out = append(out, n)
		}
	}
	return out
}
