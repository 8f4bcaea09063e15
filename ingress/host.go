package ingress

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// hostKey names a host of a group of proxies.
type hostKey struct {
	group route.Group
	space string
	name  string
}

// host is a host with the claims on it, and what was made of them.
type host struct {
	claims    map[model.Key]*claim
	published *route.Host
	origins   []model.Key
	clusters  []string // that its rules name, in order, once each
}

// setClaims replaces what an object wants of hosts.
func (p *Planner) setClaims(origin model.Key, old, next map[hostKey]*claim) {
	for key := range old {
		if _, still := next[key]; !still {
			delete(p.hosts[key].claims, origin)
			p.dirty.hosts[key] = struct{}{}
		}
	}
	for key, c := range next {
		h := p.hosts[key]
		if h == nil {
			h = &host{claims: map[model.Key]*claim{}}
			p.hosts[key] = h
		}
		h.claims[origin] = c
		p.dirty.hosts[key] = struct{}{}
	}
}

// planHost merges the claims on a host.
func (p *Planner) planHost(key hostKey) {
	h := p.hosts[key]
	if len(h.claims) == 0 {
		delete(p.hosts, key)
		p.useClusters(key.group, h.clusters, nil)
		if h.published != nil {
			p.out.Changes = append(p.out.Changes, route.Remove(key.group, route.KindHost, h.published.ID()))
		}
		return
	}
	next := &route.Host{Space: key.space, Name: key.name, Rules: mergeClaims(h.claims)}
	origins := slices.SortedFunc(maps.Keys(h.claims), compareKeys)
	if h.published != nil && slices.Equal(h.origins, origins) && reflect.DeepEqual(h.published.Rules, next.Rules) {
		return
	}
	clusters := clustersOf(next.Rules)
	p.useClusters(key.group, h.clusters, clusters)
	h.published, h.origins, h.clusters = next, origins, clusters
	p.out.Changes = append(p.out.Changes, route.Set(key.group, next, origins...))
}

// mergeClaims puts the rules of all claims in the order in which they are to be
// tried. A rule that matches the same as one before it is never reached and
// left out.
func mergeClaims(claims map[model.Key]*claim) []route.Rule {
	n := 0
	for _, c := range claims {
		n += len(c.entries)
	}
	all := make([]candidate, 0, n)
	for _, c := range claims {
		for i := range c.entries {
			all = append(all, candidate{c, &c.entries[i]})
		}
	}
	slices.SortFunc(all, compareCandidates)
	seen := make(map[string]struct{}, n)
	rules := make([]route.Rule, 0, n)
	for _, c := range all {
		if _, dup := seen[c.entry.matchKey]; dup {
			continue
		}
		seen[c.entry.matchKey] = struct{}{}
		rules = append(rules, c.entry.rule)
	}
	return rules
}

func clustersOf(rules []route.Rule) []string {
	var names []string
	for i := range rules {
		for j := range rules[i].Backends {
			if c := rules[i].Backends[j].Cluster; c != "" {
				names = append(names, c)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func compareChains(a, b route.TLSChain) int { return strings.Compare(a.Name, b.Name) }

// secretKey is the object that a secret comes from.
func secretKey(s *route.Secret) model.Key {
	ns, name, _ := strings.Cut(s.Name, "/")
	return model.Key{Kind: model.KindSecret, Namespace: ns, Name: name}
}
