package xds

import (
	"maps"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
	"github.com/sluicenet/sluice/xds/translate"
)

// group is what was published for a group of proxies. Guarded by Server.mu.
type group struct {
	published map[route.Ref]*published
	// owners are those that made an Envoy resource, to find whom to tell
	// that it was refused.
	owners map[delta.Ref]map[route.Ref]struct{}
	// invalid are those whose newest version failed the check.
	invalid map[route.Ref]error
}

// published is the last good version of a resource.
type published struct {
	origins []model.Key
	made    []delta.Ref
}

// batch gathers the changes of one call of Publish.
type batch struct {
	name     route.Group
	group    *group
	changes  []delta.Change
	clusters map[string]struct{} // whose endpoints are to be looked after
	news     bool                // of what is invalid
}

// Publish implements [route.Publisher]. What Envoy would refuse is not sent:
// it is among the rejections of the group's progress, and its last good
// version stays in force.
func (s *Server) Publish(changes []route.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batches := map[route.Group]*batch{}
	for i := range changes {
		ch := &changes[i]
		b := batches[ch.Group]
		if b == nil {
			b = &batch{name: ch.Group, group: s.group(ch.Group), clusters: map[string]struct{}{}}
			batches[ch.Group] = b
		}
		b.take(ch)
	}
	var all []delta.Change
	for _, b := range batches {
		b.endpoints()
		all = append(all, b.changes...)
	}
	// One call for all groups: a proxy of two gets both parts together.
	s.delta.Apply(all)
	for name, b := range batches {
		if b.news {
			s.delta.Announce(string(name))
		}
		if len(b.group.published) == 0 {
			delete(s.groups, name)
		}
	}
}

func (s *Server) group(name route.Group) *group {
	g := s.groups[name]
	if g == nil {
		g = &group{
			published: map[route.Ref]*published{},
			owners:    map[delta.Ref]map[route.Ref]struct{}{},
			invalid:   map[route.Ref]error{},
		}
		s.groups[name] = g
	}
	return g
}

// take translates one change.
func (b *batch) take(ch *route.Change) {
	g, ref := b.group, ch.Ref
	if ref.Kind == route.KindCluster || ref.Kind == route.KindEndpoints {
		b.clusters[ref.ID] = struct{}{}
	}
	if _, was := g.invalid[ref]; was {
		delete(g.invalid, ref)
		b.news = true
	}
	if ch.Resource == nil {
		b.replace(ref, nil)
		delete(g.published, ref)
		return
	}
	p := g.published[ref]
	if p == nil {
		p = &published{}
		g.published[ref] = p
	}
	p.origins = ch.Origins
	made, err := translate.Translate(ch.Resource)
	if err != nil {
		g.invalid[ref] = err
		b.news = true
		return
	}
	b.replace(ref, made)
}

// replace makes made what there is of ref.
func (b *batch) replace(ref route.Ref, made []delta.Resource) {
	g := b.group
	p := g.published[ref]
	if p == nil {
		return
	}
	old := p.made
	p.made = make([]delta.Ref, len(made))
	for i := range made {
		p.made[i] = made[i].Ref
		owners := g.owners[made[i].Ref]
		if owners == nil {
			owners = map[route.Ref]struct{}{}
			g.owners[made[i].Ref] = owners
		}
		owners[ref] = struct{}{}
		b.changes = append(b.changes, delta.Set(string(b.name), &made[i]))
	}
	for _, r := range old {
		if !contains(made, r) {
			b.disown(r, ref)
		}
	}
}

// disown removes an Envoy resource that nothing makes any more.
func (b *batch) disown(r delta.Ref, ref route.Ref) {
	owners := b.group.owners[r]
	delete(owners, ref)
	if len(owners) == 0 {
		delete(b.group.owners, r)
		b.changes = append(b.changes, delta.Remove(string(b.name), r))
	}
}

func contains(made []delta.Resource, r delta.Ref) bool {
	for i := range made {
		if made[i].Ref == r {
			return true
		}
	}
	return false
}

// endpoints gives every cluster endpoints, if only none at all: Envoy waits
// for them.
func (b *batch) endpoints() {
	g := b.group
	for name := range maps.Keys(b.clusters) {
		cluster := route.Ref{Group: b.name, Kind: route.KindCluster, ID: name}
		own := route.Ref{Group: b.name, Kind: route.KindEndpoints, ID: name}
		r := delta.Ref{TypeURL: delta.EndpointsType, Name: name}
		c, e := g.published[cluster], g.published[own]
		_, standIn := g.owners[r][cluster]
		switch wanted := c != nil && len(c.made) > 0 && (e == nil || len(e.made) == 0); {
		case wanted && !standIn:
			made, err := translate.Translate(&route.Endpoints{Cluster: name})
			if err != nil {
				continue // the cluster of that name is refused for the same reason
			}
			g.owners[r] = map[route.Ref]struct{}{cluster: {}}
			b.changes = append(b.changes, delta.Set(string(b.name), &made[0]))
		case !wanted && standIn:
			b.disown(r, cluster)
		}
	}
}
