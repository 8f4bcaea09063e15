package zone

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/internal/btree"
	"github.com/sluicenet/sluice/model"
)

// typeEndpointPTR keeps the PTR records that endpoints ask for apart from those
// of Services, which win where an address is both. It is of the range for
// private use (RFC 6895 §3.1) and is never sent.
const typeEndpointPTR = 0xff00

// typeDashedA and typeDashedAAAA keep, with a Service's name, the records of its
// endpoints whose names are made of their addresses; see dashed.go.
const (
	typeDashedA    = 0xff01
	typeDashedAAAA = 0xff02
	// typeDashedPTR is of the PTR records that lead to such names, which are kept
	// in a tree of their own; see [endpointPointer].
	typeDashedPTR = 0xff03
)

const svcLabel = "\x03svc"

// Finding is what is wrong with a Service as far as DNS goes. An empty Reason
// means that what was wrong before is not any more.
type Finding struct {
	Key     model.Key
	Reason  string
	Message string
}

// Planner makes each [Zone] of the one before and the change of the model. It is
// for one goroutine; the zones are for any number.
type Planner struct {
	builder
	zone *Zone
	// pointers are the changes of PTR records that are noted and not yet made.
	pointers map[netip.Addr]*pointerChange
	// endpoints is where those that lead to names made of addresses are changed.
	endpoints *pointerTxn
	shared    *string // the Service of the last that was added
}

// NewPlanner returns a planner whose zone is not ready before the first update.
func NewPlanner(o Options) (*Planner, error) {
	apexes, err := o.complete()
	if err != nil {
		return nil, err
	}
	p := &Planner{
		builder:  builder{Options: o, apexes: apexes, ttl: uint32(o.TTL.Seconds())},
		pointers: map[netip.Addr]*pointerChange{},
	}
	t := newTree().edit()
	p.endpoints = btree.New(pointerOrder).Txn()
	p.replace(t, &records{}, p.system(model.Empty()))
	p.flushPointers(t)
	p.zone = p.newZone(t.commit(), p.endpoints.Commit(), model.Empty(), uint32(p.Now().Unix()))
	return p, nil
}

// Zone returns the newest zone.
func (p *Planner) Zone() *Zone { return p.zone }

// Apex returns the name of the first of the cluster's zones, with its last dot.
func (p *Planner) Apex() string { return wire.NameString(p.apexes[0]) }

// Below reports whether a name, in lower case, is below one of the cluster's zones.
func (p *Planner) Below(name []byte) bool {
	return slices.ContainsFunc(p.apexes, func(a []byte) bool { return len(name) > len(a) && wire.InZone(name, a) })
}

// Update returns the zone of u.New, and what is newly wrong or right with the
// Services that changed. It must be given every update in order.
func (p *Planner) Update(u model.Update) (*Zone, []Finding) {
	services := map[model.Name]struct{}{}
	var namespaces []string
	for _, key := range u.Changed {
		switch key.Kind {
		case model.KindService:
			services[model.Name{Namespace: key.Namespace, Name: key.Name}] = struct{}{}
		case model.KindEndpointSlice:
			for _, s := range []*model.Snapshot{u.Old, u.New} {
				if slice, ok := model.EndpointSlices.Get(s, key.Namespace, key.Name); ok && slice.Service != "" {
					services[model.Name{Namespace: key.Namespace, Name: slice.Service}] = struct{}{}
				}
			}
		case model.KindNamespace:
			namespaces = append(namespaces, key.Name)
			for _, name := range p.revealed(u, key.Name) {
				services[name] = struct{}{}
			}
		case model.KindNode:
			if key.Name == p.Node {
				for _, name := range p.movedServices(u) {
					services[name] = struct{}{}
				}
			}
		}
	}

	t := p.zone.tree.edit()
	p.endpoints = p.zone.pointers.Txn()
	var findings []Finding
	for name := range services {
		before, after := p.service(u.Old, name), p.service(u.New, name)
		p.replace(t, before, after)
		if after.finding != before.finding {
			f := after.finding
			f.Key = model.Key{Kind: model.KindService, Namespace: name.Namespace, Name: name.Name}
			findings = append(findings, f)
		}
	}
	for _, ns := range namespaces {
		p.replace(t, p.existing(u.Old, ns), p.existing(u.New, ns))
	}
	if len(services) > 0 && (len(p.Nameservers) > 0 || p.Service != model.Name{}) {
		p.replace(t, p.system(u.Old), p.system(u.New))
	}

	p.flushPointers(t)

	serial := p.zone.serial
	if t.changes > 0 {
		// RFC 1982: a serial number only grows, also where the clock does not.
		serial = max(serial+1, uint32(p.Now().Unix()))
	}
	p.zone = p.newZone(t.commit(), p.endpoints.Commit(), u.New, serial)
	slices.SortFunc(findings, func(a, b Finding) int { return compareKeys(a.Key, b.Key) })
	return p.zone, findings
}

func compareKeys(a, b model.Key) int {
	return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
}

// replace changes what one object has in the tree. Both lists are sorted, and
// what is in both stays as it is.
func (p *Planner) replace(t *txn, before, after *records) {
	for _, name := range after.holds {
		if !slices.Contains(before.holds, name) {
			p.retain(t, []byte(name))
		}
	}
	i, j := 0, 0
	for i < len(before.sets) || j < len(after.sets) {
		name := ""
		switch {
		case i == len(before.sets):
			name = after.sets[j].name
		case j == len(after.sets):
			name = before.sets[i].name
		default:
			name = min(before.sets[i].name, after.sets[j].name)
		}
		oldEnd, newEnd := i, j
		for oldEnd < len(before.sets) && before.sets[oldEnd].name == name {
			oldEnd++
		}
		for newEnd < len(after.sets) && after.sets[newEnd].name == name {
			newEnd++
		}
		old, now := before.sets[i:oldEnd], after.sets[j:newEnd]
		i, j = oldEnd, newEnd
		if !slices.EqualFunc(old, now, func(a, b record) bool { return compareRecords(a, b) == 0 }) {
			p.set(t, []byte(name), packSets(now), true)
		}
	}
	p.replacePointers(t, before.pointers, after.pointers)
	for _, name := range before.holds {
		if !slices.Contains(after.holds, name) {
			p.release(t, []byte(name))
		}
	}
}

// set gives a name the packed sets, none if they are empty. parents says that the
// names above it exist because of it; those of reverse names do not, since they
// belong to whoever serves the rest of that tree.
func (p *Planner) set(t *txn, name, sets []byte, parents bool) {
	old := t.get(name)
	var refs uint32
	if old != nil {
		refs = old.refs
	}
	switch {
	case len(sets) > 0 || refs > 0:
		t.put(newEntry(name, sets, refs))
		if old == nil && parents {
			p.retain(t, wire.Parent(name))
		}
	case old != nil:
		t.remove(name)
		if parents {
			p.release(t, wire.Parent(name))
		}
	}
}

// retain makes a name exist for one reason more.
func (p *Planner) retain(t *txn, name []byte) {
	old := t.get(name)
	if old != nil {
		t.put(&entry{block: old.block, nameLen: old.nameLen, refs: old.refs + 1})
		return
	}
	t.put(newEntry(name, nil, 1))
	if !p.isApex(name) {
		p.retain(t, wire.Parent(name))
	}
}

// release takes one reason away.
func (p *Planner) release(t *txn, name []byte) {
	old := t.get(name)
	if old.refs > 1 || old.hasSets() {
		t.put(&entry{block: old.block, nameLen: old.nameLen, refs: old.refs - 1})
		return
	}
	t.remove(name)
	if !p.isApex(name) {
		p.release(t, wire.Parent(name))
	}
}

func (p *Planner) isApex(name []byte) bool {
	return slices.ContainsFunc(p.apexes, func(a []byte) bool { return string(a) == string(name) })
}

func newEntry(name, sets []byte, refs uint32) *entry {
	block := make([]byte, 0, len(name)+len(sets))
	return &entry{block: append(append(block, name...), sets...), nameLen: uint8(len(name)), refs: refs}
}

// packSets packs the sorted records of one name by type; their names do not
// matter.
func packSets(rs []record) []byte {
	var sets []byte
	for i := 0; i < len(rs); {
		end, length := i, 0
		for ; end < len(rs) && rs[end].typ == rs[i].typ; end++ {
			length += len(rs[end].rr)
		}
		sets = appendSetHeader(slices.Grow(sets, setHeader+length), rs[i].typ, end-i, length)
		for ; i < end; i++ {
			sets = append(sets, rs[i].rr...)
		}
	}
	return sets
}

// unpackSets returns the records of an entry, without its name.
func unpackSets(e *entry) []record {
	var rs []record
	for typ, rrs := range e.types() {
		for len(rrs) > 0 {
			n := wire.PackedLen(rrs)
			rs = append(rs, record{typ: typ, rr: rrs[:n:n]})
			rrs = rrs[n:]
		}
	}
	return rs
}

// types yields each type of the entry with its records.
func (e *entry) types() func(func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for s := e.sets(); len(s) > 0; {
			n := setHeader + int(binary.BigEndian.Uint32(s[4:]))
			if !yield(binary.BigEndian.Uint16(s), s[setHeader:n]) {
				return
			}
			s = s[n:]
		}
	}
}
