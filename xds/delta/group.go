package delta

import discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

// group is a set of resources that some clients get. Guarded by Server.mu.
type group struct {
	name  string
	known bool // something was applied to it
	seq   uint64
	types map[string]map[string]*entry // by type URL and name
	// needed counts for every resource those of the group that need it.
	needed map[Ref]int
	// condemned were removed while still needed: a route whose newer version
	// was found bad and that therefore keeps pointing at an old cluster. They
	// go with the last that needs them.
	condemned map[Ref]struct{}
	clients   map[*client]struct{}

	progress progress
}

func newGroup(name string) *group {
	return &group{
		name:      name,
		types:     map[string]map[string]*entry{},
		needed:    map[Ref]int{},
		condemned: map[Ref]struct{}{},
		clients:   map[*client]struct{}{},
		progress:  progress{changed: make(chan struct{})},
	}
}

func (g *group) get(ref Ref) *entry { return g.types[ref.TypeURL][ref.Name] }

// set puts a resource and reports whether that changed anything.
func (g *group) set(r *Resource, seq uint64) bool {
	delete(g.condemned, r.Ref)
	old := g.get(r.Ref)
	if old != nil && old.version == r.Version {
		return false
	}
	byName := g.types[r.TypeURL]
	if byName == nil {
		byName = map[string]*entry{}
		g.types[r.TypeURL] = byName
	}
	e := &entry{
		ref: r.Ref, version: r.Version, needs: r.Needs, seq: seq,
		message: &discovery.Resource{Name: r.Name, Version: r.Version, Resource: r.Body},
	}
	byName[r.Name] = e
	for _, n := range r.Needs {
		g.needed[n]++
	}
	if old != nil {
		g.unneed(old)
		if e.last = old; old.suspect.Load() {
			e.last = old.last
		}
		old.last = nil
	}
	return true
}

func (g *group) unneed(e *entry) {
	for _, n := range e.needs {
		if g.needed[n]--; g.needed[n] <= 0 {
			delete(g.needed, n)
		}
	}
}

// sweep removes the condemned resources that nothing needs any more and calls
// gone for each.
func (g *group) sweep(gone func(Ref)) {
	for again := true; again; {
		again = false
		for ref := range g.condemned {
			if g.needed[ref] > 0 {
				continue
			}
			delete(g.condemned, ref)
			e := g.get(ref)
			delete(g.types[ref.TypeURL], ref.Name)
			g.unneed(e)
			gone(ref)
			again = true // what it needed may be free now
		}
	}
}

// Apply changes resources of groups. The changes of one call belong together:
// clients get them in the order that breaks nothing, whatever their order in
// the slice. (Of two changes of one resource the later counts.) Apply returns
// at once; it never waits for a client.
//
// A resource with the version that the group has already is no change. A
// resource that is removed while others of its group need it stays until they
// do not.
func (s *Server) Apply(changes []Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	touched := map[*group]struct{}{}
	mark := func(g *group, ref Ref) {
		g.seq = s.seq
		for c := range g.clients {
			c.inbox.put(ref)
		}
		touched[g] = struct{}{}
	}
	for i := range changes {
		ch := &changes[i]
		g := s.groupLocked(ch.Group)
		if !g.known {
			g.known = true
			touched[g] = struct{}{}
		}
		switch {
		case ch.Resource != nil:
			if g.set(ch.Resource, s.seq) {
				mark(g, ch.Ref)
			}
		case g.get(ch.Ref) != nil:
			g.condemned[ch.Ref] = struct{}{}
			touched[g] = struct{}{}
		}
	}
	for g := range touched {
		g.sweep(func(ref Ref) { mark(g, ref) })
		for c := range g.clients {
			c.inbox.wake()
		}
		s.moved(g)
		s.dropEmptyLocked(g)
	}
}

// Announce tells the watchers of a group that there is news of it that the
// server does not know of.
func (s *Server) Announce(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groupLocked(name)
	s.moved(g)
	s.dropEmptyLocked(g)
}
