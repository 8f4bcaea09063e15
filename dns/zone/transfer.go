package zone

import (
	"iter"
	"net/netip"

	"github.com/sluicenet/sluice/dns/wire"
)

// IsApex reports whether a name, in wire form and lower case, is that of one of the
// cluster's zones. The trees of reverse names are none: others have a part in them.
func (z *Zone) IsApex(name []byte) bool {
	top := z.top(name)
	return top != nil && !top.reverse && len(top.name) == len(name)
}

// SOA returns the packed SOA record of one of the cluster's zones.
func (z *Zone) SOA(name []byte) []byte {
	if top := z.top(name); top != nil {
		return top.soa
	}
	return nil
}

// top returns the apex of the zone that a name is in, nil if it is in none.
func (z *Zone) top(name []byte) *apex {
	var top *apex
	for i := range z.apexes {
		if a := &z.apexes[i]; (top == nil || len(a.name) > len(top.name)) && wire.InZone(name, a.name) {
			top = a
		}
	}
	return top
}

// Transfer yields all that a transfer of one of the cluster's zones holds (RFC 5936
// §2.2): names with packed records, the SOA first and once more at the end, the
// apex' other records after the first SOA, the rest in no order. Names of Pods by
// their address are not in it, which have no records before they are asked for. What
// is yielded is the zone's, or valid until the next only. It takes no memory of the
// zone's size.
func (z *Zone) Transfer(apex []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, records []byte) bool) {
		soa := z.SOA(apex)
		if !yield(apex, soa) {
			return
		}
		if e := z.tree.get(apex); e != nil && !e.transfer(yield) {
			return
		}
		for e := range z.tree.all() {
			top := z.top(e.name())
			if top == nil || string(top.name) != string(apex) || len(e.name()) == len(apex) {
				continue
			}
			if !e.transfer(yield) {
				return
			}
		}
		yield(apex, soa)
	}
}

// transfer yields the records of a name that clients may see, and those of the names
// below it that are made of addresses.
func (e *entry) transfer(yield func(name, records []byte) bool) bool {
	for typ, records := range e.types() {
		switch {
		case typ == typeDashedA || typ == typeDashedAAAA:
			if !e.transferDashed(typ, records, yield) {
				return false
			}
		case typ >= typeEndpointPTR && typ <= typeNearAAAA:
		case !yield(e.name(), records):
			return false
		}
	}
	return true
}

func (e *entry) transferDashed(typ uint16, records []byte, yield func(name, records []byte) bool) bool {
	size := dashedLen(wire.TypeA)
	if typ == typeDashedAAAA {
		size = dashedLen(wire.TypeAAAA)
	}
	name := make([]byte, 0, wire.MaxName+1+wire.MaxLabel)
	for ; len(records) > 0; records = records[size:] {
		addr, _ := netip.AddrFromSlice(records[wire.Pointer+10 : size])
		name = append(wire.AppendLabel(name[:0], Dashed(addr)), e.name()...)
		if !yield(name, records[:size]) {
			return false
		}
	}
	return true
}
