package iptables

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"
)

// step is what is to be written of one family.
type step struct {
	rules *ruleset
	// write are chains that get new contents, also those that are not there.
	write map[ref][]string
	fresh []ref // sets that are not there
	gone  []ref
	add   []touch
	del   []member
	// jump are rules of others' chains that lead to ours and are missing, unjump
	// those that should not be there.
	jump, unjump []member
	// leave tells that everything goes. Then refusals go first, because another
	// engine serves what is not translated any more.
	leave bool
}

func (s *step) empty() bool {
	return len(s.write)+len(s.fresh)+len(s.gone)+len(s.add)+len(s.del)+len(s.jump)+len(s.unjump) == 0
}

// manyDeletions is from where on a set is written anew, which loses its counts:
// iptables looks for the rule of each deletion in the whole chain.
const manyDeletions = 64

// sections returns the transactions. New refusals come before the translation,
// because what is not translated any more must not pass; those that go, and the
// rules for whole ClusterIPs, come after it.
func (s *step) sections() []section {
	s.simplify()
	first := section{table: filter, adds: s.filtered(func(t touch) bool { return t.table == filter && !t.late })}
	middle := section{table: nat, adds: s.filtered(func(t touch) bool { return t.table == nat }), gone: ofTable(s.gone, nat)}
	last := section{table: filter, adds: s.filtered(func(t touch) bool { return t.table == filter && t.late }), gone: ofTable(s.gone, filter)}
	at := func(t table) *section {
		if t == nat {
			return &middle
		}
		return &first
	}
	for _, r := range s.fresh {
		at(r.table).fresh = append(at(r.table).fresh, r.name)
	}
	for r, rules := range s.write {
		at(r.table).write = append(at(r.table).write, chainText{r.name, rules})
	}
	for _, j := range s.jump {
		at(j.table).jumps = append(at(j.table).jumps, j)
	}
	for _, m := range append(slices.Clone(s.del), s.unjump...) {
		if m.table == nat {
			middle.dels = append(middle.dels, m)
		} else {
			last.dels = append(last.dels, m)
		}
	}
	order := []section{first, middle, last}
	if s.leave {
		order = []section{last, middle}
	}
	var out []section
	for _, x := range order {
		if x.empty() {
			continue
		}
		if n := len(out); n > 0 && out[n-1].table == x.table {
			out[n-1].merge(x)
			continue
		}
		out = append(out, x)
	}
	return out
}

// simplify writes sets anew that lose many members.
func (s *step) simplify() {
	count := map[ref]int{}
	for _, m := range s.del {
		count[m.ref]++
	}
	for r, n := range count {
		if n >= manyDeletions {
			s.write[r] = s.rules.in(r)
		}
	}
	s.del = slices.DeleteFunc(s.del, func(m member) bool { return s.written(m.ref) })
	s.add = slices.DeleteFunc(s.add, func(t touch) bool { return s.written(t.ref) })
	s.fresh = slices.DeleteFunc(s.fresh, s.written)
}

func (s *step) written(r ref) bool {
	_, ok := s.write[r]
	return ok
}

func (s *step) filtered(keep func(touch) bool) []touch {
	return slices.DeleteFunc(slices.Clone(s.add), func(t touch) bool { return !keep(t) })
}

func ofTable(refs []ref, t table) []string {
	var out []string
	for _, r := range refs {
		if r.table == t {
			out = append(out, r.name)
		}
	}
	return out
}

// section is one transaction of iptables-restore.
type section struct {
	table       table
	fresh, gone []string
	write       []chainText
	adds        []touch
	dels, jumps []member
}

func (x *section) empty() bool {
	return len(x.fresh)+len(x.gone)+len(x.write)+len(x.adds)+len(x.dels)+len(x.jumps) == 0
}

func (x *section) merge(o section) {
	x.fresh = append(x.fresh, o.fresh...)
	x.gone = append(x.gone, o.gone...)
	x.write = append(x.write, o.write...)
	x.adds = append(x.adds, o.adds...)
	x.dels = append(x.dels, o.dels...)
	x.jumps = append(x.jumps, o.jumps...)
}

// text appends what iptables-restore reads, in an order that depends on nothing
// but the content.
//
// The nft variant keeps the names of all chains that it has read of in a sorted
// list, through which it walks for each line (cache_chain_list_insert of its
// nft-cache.c). So chains come one by one, from the last name to the first: the
// place in the list is then always near its beginning.
func (x *section) text(b *bytes.Buffer) {
	descending := func(a, b string) int { return cmp.Compare(b, a) }
	slices.SortFunc(x.fresh, descending)
	slices.SortFunc(x.gone, descending)
	slices.SortFunc(x.write, func(a, b chainText) int { return descending(a.name, b.name) })
	slices.SortFunc(x.adds, func(a, b touch) int { return compareMembers(b.member, a.member) })
	slices.SortFunc(x.dels, compareMembers)
	line := func(parts ...string) {
		for i, p := range parts {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(p)
		}
		b.WriteByte('\n')
	}
	line("*" + x.table.String())
	// A chain that is named here is made, or emptied. What others lead to has to
	// be there before them.
	for _, t := range x.write {
		if !ofService(t.name) {
			line(":"+t.name, "- [0:0]")
		}
	}
	for _, name := range slices.Concat(x.fresh, x.gone) {
		line(":"+name, "- [0:0]")
	}
	for _, t := range x.write {
		if ofService(t.name) {
			line(":"+t.name, "- [0:0]")
		}
		for _, rule := range t.rules {
			line("-A", t.name, rule)
		}
	}
	for _, t := range x.adds {
		if t.late || x.table == nat {
			line("-A", t.name, t.rule)
		} else {
			line("-I", t.name, t.rule)
		}
	}
	for _, j := range x.jumps {
		line("-I", j.name, j.rule)
	}
	for _, m := range x.dels {
		line("-D", m.name, m.rule)
	}
	for _, name := range x.gone {
		line("-X", name)
	}
	line("COMMIT")
}

// ofService reports whether a chain is a port's own: its name ends in a hash.
func ofService(name string) bool {
	i := strings.LastIndexByte(name, '-')
	return len(name)-i-1 == hashLength
}

func compareMembers(a, b member) int {
	return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.rule, b.rule))
}

// text returns what iptables-restore is to read.
func (s *step) text() []byte {
	var b bytes.Buffer
	for _, x := range s.sections() {
		x.text(&b)
	}
	return b.Bytes()
}

// rulesIn counts the rules of each table that a text adds.
func rulesIn(text []byte) (n [2]int) {
	at := nat
	for line := range bytes.Lines(text) {
		switch {
		case line[0] == '*' && string(bytes.TrimSpace(line[1:])) == filter.String():
			at = filter
		case line[0] == '*':
			at = nat
		case bytes.HasPrefix(line, []byte("-A ")), bytes.HasPrefix(line, []byte("-I ")):
			n[at]++
		}
	}
	return n
}

// print writes a whole ruleset as iptables-save does, with sets in an order.
func (s *ruleset) print(b *bytes.Buffer, chains map[ref][]string) {
	for _, t := range []table{nat, filter} {
		b.WriteString("*" + t.String() + "\n")
		all := map[string][]string{}
		for r, rules := range chains {
			if r.table == t {
				all[r.name] = rules
			}
		}
		for r := range s.sets {
			if r.table == t {
				all[r.name] = s.in(r)
			}
		}
		names := slices.Sorted(maps.Keys(all))
		for _, name := range names {
			b.WriteString(":" + name + " - [0:0]\n")
		}
		for _, j := range jumps {
			if j.table == t {
				b.WriteString("-A " + j.name + " " + j.rule + "\n")
			}
		}
		for _, name := range names {
			for _, rule := range all[name] {
				b.WriteString("-A " + name + " " + rule + "\n")
			}
		}
		b.WriteString("COMMIT\n")
	}
}
