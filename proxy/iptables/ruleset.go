package iptables

import (
	"iter"
	"maps"
	"slices"

	"github.com/sluicenet/sluice/proxy"
)

// use is how many Services want a member, and whether it comes last.
type use struct {
	count int
	late  bool
}

// ruleset is what the kernel should have for one family, other than the chains of
// Services, which are written from the plan when they are needed.
type ruleset struct {
	renderer
	sets map[ref]map[string]use
	// rules is how many rules there are of each table, without those of chains
	// that are always there.
	rules [2]int
}

// size returns how many rules there are of each table.
func (s *ruleset) size() [2]int {
	n := s.rules
	for r, rules := range s.static() {
		n[r.table] += len(rules)
	}
	for _, j := range jumps {
		n[j.table]++
	}
	return n
}

func newRuleset(r renderer) *ruleset {
	s := &ruleset{renderer: r, sets: map[ref]map[string]use{}}
	for _, root := range sets {
		s.sets[root] = map[string]use{}
	}
	return s
}

func isRoot(r ref) bool { return slices.Contains(sets[:], r) }

// touch is a member that a step counts anew, as it was before.
type touch struct {
	member
	late bool
}

// delta collects what changes.
type delta struct {
	rules    *ruleset
	members  map[touch]bool // whether it was there
	chains   map[ref]bool   // whether it was there
	old, new map[string][]string
}

func (s *ruleset) begin() *delta {
	return &delta{rules: s, members: map[touch]bool{}, chains: map[ref]bool{}, old: map[string][]string{}, new: map[string][]string{}}
}

func (d *delta) remove(c contribution) {
	for _, t := range c.chains {
		d.old[t.name] = t.rules
		d.rules.rules[nat] -= len(t.rules)
	}
	d.count(c, -1)
}

func (d *delta) add(c contribution) {
	for _, t := range c.chains {
		d.new[t.name] = t.rules
		d.rules.rules[nat] += len(t.rules)
	}
	d.count(c, 1)
}

func (d *delta) count(c contribution, by int) {
	for _, m := range c.members {
		d.member(touch{m, false}, by)
	}
	for _, m := range c.late {
		d.member(touch{m, true}, by)
	}
}

func (d *delta) member(t touch, by int) {
	set := d.rules.sets[t.ref]
	if set == nil {
		set = map[string]use{}
		d.rules.sets[t.ref] = set
	}
	if _, ok := d.chains[t.ref]; !ok {
		d.chains[t.ref] = len(set) > 0 || isRoot(t.ref)
	}
	u := set[t.rule]
	if _, ok := d.members[t]; !ok {
		d.members[t] = u.count > 0
	}
	if u.count == 0 {
		d.rules.rules[t.table]++
	}
	u.count, u.late = u.count+by, t.late
	if u.count == 0 {
		d.rules.rules[t.table]--
		delete(set, t.rule)
	} else {
		set[t.rule] = u
	}
}

// step returns what is to be written.
func (d *delta) step() *step {
	s := &step{rules: d.rules, write: map[ref][]string{}}
	for name, rules := range d.new {
		if old, ok := d.old[name]; !ok || !slices.Equal(old, rules) {
			s.write[ref{nat, name}] = rules
		}
	}
	for name := range d.old {
		if _, ok := d.new[name]; !ok {
			s.gone = append(s.gone, ref{nat, name})
		}
	}
	for r, was := range d.chains {
		is := len(d.rules.sets[r]) > 0 || isRoot(r)
		switch {
		case is && !was:
			s.fresh = append(s.fresh, r)
		case was && !is:
			s.gone = append(s.gone, r)
			delete(d.rules.sets, r)
		case !was && !is:
			delete(d.rules.sets, r)
		}
	}
	for t, was := range d.members {
		is := d.rules.sets[t.ref][t.rule].count > 0
		switch {
		case is && !was:
			s.add = append(s.add, t)
		case was && !is && !slices.Contains(s.gone, t.ref):
			s.del = append(s.del, t.member)
		}
	}
	return s
}

// in returns the members of a set in their order.
func (s *ruleset) in(r ref) []string {
	set := s.sets[r]
	rules := slices.Sorted(maps.Keys(set))
	slices.SortStableFunc(rules, func(a, b string) int { return order(set[a]) - order(set[b]) })
	return rules
}

func order(u use) int {
	if u.late {
		return 1
	}
	return 0
}

// words are the rules of a chain as they were written, and as they were printed
// just after that.
type words struct{ written, printed []string }

// compare returns the step from what the kernel has to the Services of a plan. It
// uses up what was found.
func (s *ruleset) compare(found *listing, services iter.Seq[*proxy.Service], known map[ref]words) *step {
	d := &step{rules: s, write: map[ref][]string{}}
	chain := func(r ref, rules []string) {
		have, ok := found.chains[r]
		delete(found.chains, r)
		if ok && slices.Equal(have, rules) {
			return
		}
		if w, same := known[r]; ok && same && slices.Equal(w.printed, have) && slices.Equal(w.written, rules) {
			return
		}
		d.write[r] = rules
	}
	all := s.begin()
	for service := range services {
		c := s.service(service)
		all.count(c, 1)
		for _, t := range c.chains {
			chain(ref{nat, t.name}, t.rules)
			s.rules[nat] += len(t.rules)
		}
	}
	for r, rules := range s.static() {
		chain(r, rules)
	}
	for r := range s.sets {
		have, ok := found.chains[r]
		if !ok {
			d.fresh = append(d.fresh, r)
		}
		s.compareSet(d, r, have)
		delete(found.chains, r)
	}
	for r := range found.chains {
		d.gone = append(d.gone, r)
	}
	for _, j := range jumps {
		if i := slices.Index(found.foreign, j); i >= 0 {
			found.foreign = slices.Delete(found.foreign, i, i+1)
		} else {
			d.jump = append(d.jump, j)
		}
	}
	d.unjump = found.foreign
	return d
}

// compareSet adds to a step what makes a set of what a chain has.
func (s *ruleset) compareSet(d *step, r ref, have []string) {
	set, seen, late := s.sets[r], map[string]bool{}, false
	for _, rule := range have {
		u, ok := set[rule]
		if !ok || seen[rule] {
			d.del = append(d.del, member{r, rule})
			continue
		}
		seen[rule] = true
		if late && !u.late { // somebody has put them in another order
			d.write[r] = s.in(r)
			return
		}
		late = u.late
	}
	for rule, u := range set {
		if !seen[rule] {
			d.add = append(d.add, touch{member{r, rule}, u.late})
		}
	}
}
