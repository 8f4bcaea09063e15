package xds

import (
	"slices"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
	"github.com/sluicenet/sluice/xds/translate"
)

// group is what was published for a group of proxies. Guarded by Server.mu.
type group struct {
	origins map[route.Ref][]model.Key
	// sources are what an Envoy resource was made of, to find whom to tell
	// that it was refused.
	sources map[delta.Ref][]route.Ref
	// invalid are those whose newest version failed the check.
	invalid map[route.Ref]error
	// fed are the clusters that take endpoints, and empty those of them that
	// have none published.
	fed, empty map[string]struct{}
}

func newGroup() *group {
	return &group{
		origins: map[route.Ref][]model.Key{},
		sources: map[delta.Ref][]route.Ref{},
		invalid: map[route.Ref]error{},
		fed:     map[string]struct{}{},
		empty:   map[string]struct{}{},
	}
}

// Publish implements [route.Publisher]. What Envoy would refuse is not sent:
// it is among the rejections of the group's progress, and its last good
// version stays in force.
func (s *Server) Publish(changes []route.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := map[route.Group]bool{} // of what is invalid
	for i := range changes {
		ch := &changes[i]
		g := s.group(ch.Group)
		if _, was := g.invalid[ch.Ref]; was {
			delete(g.invalid, ch.Ref)
			news[ch.Group] = true
		}
		if ch.Resource == nil {
			delete(g.origins, ch.Ref)
		} else {
			g.origins[ch.Ref] = ch.Origins
		}
	}
	made, failures := s.translator.Apply(changes)
	for _, f := range failures {
		s.group(f.Ref.Group).invalid[f.Ref] = f.Err
		news[f.Ref.Group] = true
	}
	out := make([]delta.Change, 0, len(made))
	touched := map[string]map[string]struct{}{} // group and cluster
	for i := range made {
		m := &made[i]
		s.group(route.Group(m.Group)).take(m)
		out = append(out, m.Change)
		if url := m.Ref.TypeURL; url == delta.ClusterType || url == delta.EndpointsType {
			names := touched[m.Group]
			if names == nil {
				names = map[string]struct{}{}
				touched[m.Group] = names
			}
			names[m.Ref.Name] = struct{}{}
		}
	}
	for name, clusters := range touched {
		g := s.group(route.Group(name))
		for cluster := range clusters {
			out = g.feed(out, name, cluster)
		}
	}
	// One call for all groups: a proxy of two gets both parts together.
	s.delta.Apply(out)
	for name := range news {
		s.delta.Announce(string(name))
	}
	for i := range changes {
		name := changes[i].Group
		if g := s.groups[name]; g != nil && len(g.origins) == 0 && len(g.sources) == 0 {
			delete(s.groups, name)
		}
	}
}

func (s *Server) group(name route.Group) *group {
	g := s.groups[name]
	if g == nil {
		g = newGroup()
		s.groups[name] = g
	}
	return g
}

// take remembers a change of an Envoy resource.
func (g *group) take(m *translate.Change) {
	if m.Resource == nil {
		delete(g.sources, m.Ref)
	} else {
		g.sources[m.Ref] = m.Sources
	}
	if m.Ref.TypeURL != delta.ClusterType {
		return
	}
	if m.Resource != nil && slices.Contains(m.Resource.Needs, endpointsRef(m.Ref.Name)) {
		g.fed[m.Ref.Name] = struct{}{}
	} else {
		delete(g.fed, m.Ref.Name)
	}
}

// feed gives a cluster without endpoints the message that it has none, for
// which Envoy would wait.
func (g *group) feed(out []delta.Change, name, cluster string) []delta.Change {
	ref := endpointsRef(cluster)
	_, published := g.sources[ref]
	_, fed := g.fed[cluster]
	_, empty := g.empty[cluster]
	switch {
	case published:
		delete(g.empty, cluster)
	case fed && !empty:
		none, err := translate.Translate(&route.Endpoints{Cluster: cluster})
		if err != nil {
			return out // the cluster itself is refused for the same reason
		}
		g.empty[cluster] = struct{}{}
		return append(out, delta.Set(name, &none[0]))
	case !fed && empty:
		delete(g.empty, cluster)
		return append(out, delta.Remove(name, ref))
	}
	return out
}

func endpointsRef(name string) delta.Ref {
	return delta.Ref{TypeURL: delta.EndpointsType, Name: name}
}
