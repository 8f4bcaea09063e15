package translate

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
)

// Change is a change of one of Envoy's resources.
type Change struct {
	delta.Change
	// Sources are the resources of route's that it comes of; several for the
	// wildcard hosts of a space.
	Sources []route.Ref
	// Origins are the user's objects that those come of.
	Origins []model.Key
}

// Failure says why a resource cannot be translated. Its last good version
// stays as it was; a later change of the same resource replaces the failure.
type Failure struct {
	Ref     route.Ref
	Origins []model.Key
	Err     error
}

// Translator translates changes. It remembers what is needed to tell what a
// change means for resources that have several sources, or are several: the
// wildcard hosts of each space, and what came of each listener. Use it from
// one goroutine.
type Translator struct {
	groups map[route.Group]*group
}

// New returns a translator that has seen nothing.
func New() *Translator { return &Translator{groups: map[route.Group]*group{}} }

// group is what is remembered of a group.
type group struct {
	listeners map[string]listenerState
	spaces    map[string]*space
}

type listenerState struct {
	refs   []delta.Ref
	claims map[string]claim
}

// space is what makes the fallback scope of a space.
type space struct {
	hosts   map[string]wildcardHost
	origins map[string][]model.Key // of hosts
	claims  map[string]claim       // by listener
	there   bool                   // the scope was made
}

// dirtySpace names a space whose fallback scope has to be made again.
type dirtySpace struct {
	group route.Group
	space string
}

// Apply translates a batch. What comes out belongs together as the batch does.
func (t *Translator) Apply(changes []route.Change) ([]Change, []Failure) {
	b := &batch{t: t, dirty: map[dirtySpace]bool{}}
	for _, c := range changes {
		if err := b.apply(c); err != nil {
			b.failures = append(b.failures, Failure{Ref: c.Ref, Origins: c.Origins, Err: err})
		}
	}
	b.fallbacks()
	for _, c := range changes {
		if g := t.groups[c.Group]; g != nil && len(g.spaces) == 0 && len(g.listeners) == 0 {
			delete(t.groups, c.Group)
		}
	}
	return b.out, b.failures
}

// batch is an Apply under way.
type batch struct {
	t        *Translator
	out      []Change
	failures []Failure
	dirty    map[dirtySpace]bool
}

func (b *batch) apply(c route.Change) error {
	switch c.Ref.Kind {
	case route.KindListener:
		return b.listener(c)
	case route.KindHost:
		space, name := route.SplitHostID(c.Ref.ID)
		if wildcard(name) {
			return b.wildcard(c, space, name)
		}
		if c.Resource == nil {
			b.remove(c, scopeRef(space, name))
			return nil
		}
	case route.KindCluster:
		if c.Resource == nil {
			b.remove(c, clusterRef(c.Ref.ID))
			return nil
		}
	case route.KindEndpoints:
		if c.Resource == nil {
			b.remove(c, endpointsRef(c.Ref.ID))
			return nil
		}
	case route.KindSecret:
		if c.Resource == nil {
			b.remove(c, secretRef(c.Ref.ID))
			return nil
		}
	}
	made, err := Translate(c.Resource)
	if err != nil {
		return err
	}
	b.set(c, made)
	return nil
}

func (b *batch) set(c route.Change, made []delta.Resource) {
	for i := range made {
		b.out = append(b.out, Change{
			Change: delta.Set(string(c.Group), &made[i]), Sources: []route.Ref{c.Ref}, Origins: c.Origins,
		})
	}
}

func (b *batch) remove(c route.Change, refs ...delta.Ref) {
	for _, ref := range refs {
		b.out = append(b.out, Change{
			Change: delta.Remove(string(c.Group), ref), Sources: []route.Ref{c.Ref}, Origins: c.Origins,
		})
	}
}

// listener translates a listener, removes what it no longer makes, and tells
// its spaces what it says of them.
func (b *batch) listener(c route.Change) error {
	var now listenerState
	var made []delta.Resource
	if c.Resource != nil {
		l, ok := c.Resource.(*route.Listener)
		if !ok {
			return fmt.Errorf("%s is a %T", c.Ref, c.Resource)
		}
		var err error
		if made, err = listener(l); err != nil {
			return err
		}
		now.claims = claims(l)
		for _, r := range made {
			now.refs = append(now.refs, r.Ref)
		}
	}
	g := b.t.group(c.Group)
	old := g.listeners[c.Ref.ID]
	b.set(c, made)
	for _, ref := range old.refs {
		if !slices.Contains(now.refs, ref) {
			b.remove(c, ref)
		}
	}
	for name, said := range old.claims {
		if again, ok := now.claims[name]; !ok || !again.equal(said) {
			delete(g.space(name).claims, c.Ref.ID)
			b.dirty[dirtySpace{c.Group, name}] = true
		}
	}
	for name, says := range now.claims {
		if said, ok := old.claims[name]; !ok || !says.equal(said) {
			g.space(name).claims[c.Ref.ID] = says
			b.dirty[dirtySpace{c.Group, name}] = true
		}
	}
	if c.Resource == nil {
		delete(g.listeners, c.Ref.ID)
	} else {
		g.listeners[c.Ref.ID] = now
	}
	return nil
}

// wildcard puts a host among the wildcards of its space, or takes it away.
func (b *batch) wildcard(c route.Change, spaceName, name string) error {
	g := b.t.group(c.Group)
	if c.Resource == nil {
		s := g.space(spaceName)
		delete(s.hosts, name)
		delete(s.origins, name)
		b.dirty[dirtySpace{c.Group, spaceName}] = true
		return nil
	}
	h, ok := c.Resource.(*route.Host)
	if !ok {
		return fmt.Errorf("%s is a %T", c.Ref, c.Resource)
	}
	vhost, needs, err := virtualHost(h, h.Name)
	if err != nil {
		return err
	}
	s := g.space(spaceName)
	s.hosts[name] = wildcardHost{vhost: vhost, needs: needs}
	s.origins[name] = c.Origins
	b.dirty[dirtySpace{c.Group, spaceName}] = true
	return nil
}

// fallbacks makes the scopes again of the spaces whose wildcards changed.
func (b *batch) fallbacks() {
	dirty := make([]dirtySpace, 0, len(b.dirty))
	for d := range b.dirty {
		dirty = append(dirty, d)
	}
	slices.SortFunc(dirty, func(x, y dirtySpace) int {
		return cmp.Or(cmp.Compare(x.group, y.group), cmp.Compare(x.space, y.space))
	})
	for _, d := range dirty {
		b.fallback(d)
	}
}

func (b *batch) fallback(d dirtySpace) {
	g := b.t.group(d.group)
	s := g.space(d.space)
	made, ok, err := fallback(d.space, s.hosts, s.claim())
	sources, origins := s.sources(d)
	switch {
	case err != nil:
		for i, ref := range sources {
			b.failures = append(b.failures, Failure{Ref: ref, Origins: origins[i], Err: err})
		}
		return
	case ok:
		s.there = true
		b.out = append(b.out, Change{
			Change: delta.Set(string(d.group), &made), Sources: sources, Origins: slices.Concat(origins...),
		})
	case s.there:
		s.there = false
		b.out = append(b.out, Change{Change: delta.Remove(string(d.group), scopeRef(d.space, fallbackHost))})
	}
	if len(s.hosts) == 0 && len(s.claims) == 0 {
		delete(g.spaces, d.space)
	}
}

// sources returns the wildcard hosts of a space and where each comes from.
func (s *space) sources(d dirtySpace) ([]route.Ref, [][]model.Key) {
	names := make([]string, 0, len(s.hosts))
	for name := range s.hosts {
		names = append(names, name)
	}
	slices.Sort(names)
	refs, origins := make([]route.Ref, len(names)), make([][]model.Key, len(names))
	for i, name := range names {
		refs[i] = route.Ref{Group: d.group, Kind: route.KindHost, ID: (&route.Host{Space: d.space, Name: name}).ID()}
		origins[i] = s.origins[name]
	}
	return refs, origins
}

// claim returns what is said of the space. A space belongs to one listener;
// where it does not, the first by name counts.
func (s *space) claim() claim {
	first, out := "", claim{}
	for id, c := range s.claims {
		if first == "" || id < first {
			first, out = id, c
		}
	}
	return out
}

func (t *Translator) group(name route.Group) *group {
	g := t.groups[name]
	if g == nil {
		g = &group{listeners: map[string]listenerState{}, spaces: map[string]*space{}}
		t.groups[name] = g
	}
	return g
}

func (g *group) space(name string) *space {
	s := g.spaces[name]
	if s == nil {
		s = &space{hosts: map[string]wildcardHost{}, origins: map[string][]model.Key{}, claims: map[string]claim{}}
		g.spaces[name] = s
	}
	return s
}
