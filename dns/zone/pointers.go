package zone

import (
	"net/netip"
	"slices"
)

// pointerChange is what the objects of an update take from the PTR records of an
// address and give it.
type pointerChange struct{ gone, added []pointer }

// replacePointers notes the change of the PTR records that one object asks for.
// Others may ask for some of the same addresses, so theirs are kept; and all
// changes of an address are made at once, for thousands of Services may have it. Those
// that lead to names made of addresses are made now: each is an entry by itself.
func (p *Planner) replacePointers(t *txn, before, after []pointer) {
	for len(before) > 0 || len(after) > 0 {
		var addr netip.Addr
		switch {
		case len(before) == 0:
			addr = after[0].addr
		case len(after) == 0 || before[0].addr.Less(after[0].addr):
			addr = before[0].addr
		default:
			addr = after[0].addr
		}
		i, j := ofAddr(before, addr), ofAddr(after, addr)
		if gone, added := before[:i], after[:j]; !slices.Equal(gone, added) {
			gone, added = p.replaceDashed(t, gone, added)
			p.note(addr, gone, added)
		}
		before, after = before[i:], after[j:]
	}
}

func (p *Planner) note(addr netip.Addr, gone, added []pointer) {
	if len(gone)+len(added) == 0 {
		return
	}
	c := p.pointers[addr]
	if c == nil {
		c = &pointerChange{}
		p.pointers[addr] = c
	}
	c.gone, c.added = append(c.gone, gone...), append(c.added, added...)
}

// replaceDashed changes the endpoint pointers of an address, which come last, and
// returns the other ones.
func (p *Planner) replaceDashed(t *txn, gone, added []pointer) (restGone, restAdded []pointer) {
	for ; len(gone) > 0 && gone[len(gone)-1].typ == typeDashedPTR; gone = gone[:len(gone)-1] {
		last := gone[len(gone)-1]
		p.endpoints.Remove(pointerKey{last.addr.As16(), last.target})
		t.changes++
	}
	for ; len(added) > 0 && added[len(added)-1].typ == typeDashedPTR; added = added[:len(added)-1] {
		last := added[len(added)-1]
		if p.shared == nil || *p.shared != last.target {
			shared := last.target // without the rest of it
			p.shared = &shared
		}
		p.endpoints.Set(endpointPointer{last.addr.As16(), p.shared})
		t.changes++
	}
	return gone, added
}

// ofAddr returns how many of the sorted pointers are of addr, which none precedes.
func ofAddr(ps []pointer, addr netip.Addr) int {
	n := 0
	for n < len(ps) && ps[n].addr == addr {
		n++
	}
	return n
}

// flushPointers makes the changes that were noted.
func (p *Planner) flushPointers(t *txn) {
	for addr, c := range p.pointers {
		p.setPointers(t, addr, c.gone, c.added)
	}
	if len(p.pointers) > 1024 { // a map keeps the memory of what was in it
		p.pointers = map[netip.Addr]*pointerChange{}
		return
	}
	clear(p.pointers)
}

// setPointers takes the records of gone from an address and gives it those of
// added.
func (p *Planner) setPointers(t *txn, addr netip.Addr, gone, added []pointer) {
	name := reverseName(addr)
	var sets []record
	if e := t.get(name); e != nil {
		sets = unpackSets(e)
	}
	type key struct {
		typ uint16
		rr  string
	}
	taken := map[key]int{}
	for _, x := range gone {
		taken[key{x.typ, string(x.record(p.ttl).rr)}]++
	}
	sets = slices.DeleteFunc(sets, func(r record) bool {
		k := key{r.typ, string(r.rr)}
		if taken[k] == 0 {
			return false
		}
		taken[k]--
		return true
	})
	for _, x := range added {
		sets = append(sets, x.record(p.ttl))
	}
	slices.SortFunc(sets, compareRecords)
	p.set(t, name, packSets(sets), false)
}
