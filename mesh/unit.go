package mesh

import (
	"iter"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// unitKey names a part of the plan that is made anew as a whole: all of a
// Service, or the routes of a host that is not a Service's.
type unitKey struct {
	service model.Name
	host    string
}

// unit is what was planned for a unit.
type unit struct {
	created  time.Time // of the Service; none for a host
	out      map[route.Ref]output
	splits   map[string]*model.Split
	deps     map[model.Name]dependency // Services other than its own
	problems map[model.Key][]problem   // of the VirtualService that it follows; nil slice: none
	ports    []uint16                  // on which it speaks HTTP
	tcp      []netip.AddrPort          // addresses on which it speaks TCP
}

type output struct {
	res     route.Resource
	origins []model.Key
}

// problem is a reference of a VirtualService that leads nowhere.
type problem struct {
	reason string
	text   string
}

func (u *unit) set(g route.Group, r route.Resource, origins ...model.Key) {
	u.out[route.Ref{Group: g, Kind: r.Kind(), ID: r.ID()}] = output{r, origins}
}

func (u *unit) problem(vs *virtualService, reason, text string) {
	p := problem{reason, text}
	if !slices.Contains(u.problems[vs.key], p) {
		u.problems[vs.key] = append(u.problems[vs.key], p)
	}
}

var noUnit = &unit{}

// planUnit makes a unit anew and notes what of it differs.
func (p *Planner) planUnit(key unitKey) {
	old := p.units[key]
	if old == nil {
		old = noUnit
	}
	next := &unit{
		out:      map[route.Ref]output{},
		splits:   map[string]*model.Split{},
		deps:     map[model.Name]dependency{},
		problems: map[model.Key][]problem{},
	}
	if key.host != "" {
		p.planHost(next, key.host)
	} else if svc, ok := model.Services.Get(p.snap, key.service.Namespace, key.service.Name); ok {
		next.created = svc.Created
		p.planService(next, svc)
	}
	for ref, o := range next.out {
		p.claims.put(ref, claim{key, next.created, o})
	}
	for ref := range old.out {
		if _, stays := next.out[ref]; !stays {
			p.claims.remove(ref, key)
		}
	}
	for name, s := range next.splits {
		if was, had := old.splits[name]; had && reflect.DeepEqual(was, s) {
			next.splits[name] = was
			continue
		}
		p.res.PutSplits = append(p.res.PutSplits, s)
	}
	for name, s := range old.splits {
		if _, stays := next.splits[name]; !stays {
			p.res.DeleteSplits = append(p.res.DeleteSplits, model.Splits.Key(s))
		}
	}
	p.relink(key, old, next)
	p.outbound.swap(old, next)
	if len(next.out) == 0 && len(next.splits) == 0 && len(next.deps) == 0 && len(next.problems) == 0 {
		delete(p.units, key)
	} else {
		p.units[key] = next
	}
}

// relink keeps usedBy, unitsOf and the dirty reports in step with a unit.
func (p *Planner) relink(key unitKey, old, next *unit) {
	for svc := range old.deps {
		if _, stays := next.deps[svc]; stays {
			continue
		}
		if delete(p.usedBy[svc], key); len(p.usedBy[svc]) == 0 {
			delete(p.usedBy, svc)
		}
	}
	for svc, on := range next.deps {
		if p.usedBy[svc] == nil {
			p.usedBy[svc] = map[unitKey]dependency{}
		}
		p.usedBy[svc][key] = on
	}
	for vs, was := range old.problems {
		is, stays := next.problems[vs]
		if !stays {
			if delete(p.unitsOf[vs], key); len(p.unitsOf[vs]) == 0 {
				delete(p.unitsOf, vs)
			}
		}
		if !slices.Equal(was, is) {
			p.dirty.reports[vs] = struct{}{}
		}
	}
	for vs, is := range next.problems {
		if p.unitsOf[vs] == nil {
			p.unitsOf[vs] = map[unitKey]struct{}{}
		}
		p.unitsOf[vs][key] = struct{}{}
		if _, had := old.problems[vs]; !had && len(is) > 0 {
			p.dirty.reports[vs] = struct{}{}
		}
	}
}

// follow notes that a unit follows a VirtualService.
func (u *unit) follow(vs *virtualService) {
	if _, ok := u.problems[vs.key]; !ok {
		u.problems[vs.key] = nil
	}
}

// touchHost marks what a VirtualService's host stands for.
func (p *Planner) touchHost(host string) {
	p.dirty.units[unitKey{host: host}] = struct{}{}
	suffix, wild := strings.CutPrefix(host, "*")
	if !wild {
		if svc, ok := p.fullName(host); ok {
			p.dirty.units[unitKey{service: svc}] = struct{}{}
		}
		return
	}
	for svc := range model.Services.All(p.snap) {
		name := model.Name{Namespace: svc.Namespace, Name: svc.Name}
		if strings.HasSuffix(p.hostOf(name), suffix) {
			p.dirty.units[unitKey{service: name}] = struct{}{}
		}
	}
}

// hostOf is the full name of a Service, by which VirtualServices name it.
func (p *Planner) hostOf(svc model.Name) string {
	return svc.Name + "." + svc.Namespace + ".svc." + p.conf.ClusterDomain
}

// fullName reads what hostOf writes.
func (p *Planner) fullName(host string) (model.Name, bool) {
	base, ok := strings.CutSuffix(host, ".svc."+p.conf.ClusterDomain)
	name, ns, two := strings.Cut(base, ".")
	if !ok || !two || strings.Contains(ns, ".") {
		return model.Name{}, false
	}
	return model.Name{Namespace: ns, Name: name}, true
}

// virtualServiceOf returns the VirtualService of a Service, or nil: that of
// its full name, else of the longest wildcard.
func (p *Planner) virtualServiceOf(svc model.Name) *virtualService {
	for host := range hostAndWildcards(p.hostOf(svc)) {
		if list := p.byHost[host]; len(list) > 0 {
			return list[0]
		}
	}
	return nil
}

// hostAndWildcards yields a host and the wildcards that match it, the most
// specific first.
func hostAndWildcards(host string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if !yield(host) {
			return
		}
		for {
			_, rest, more := strings.Cut(host, ".")
			if !more {
				yield("*")
				return
			}
			if !yield("*." + rest) {
				return
			}
			host = rest
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
