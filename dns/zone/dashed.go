package zone

import (
	"bytes"
	"net/netip"
	"sort"

	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

// Most endpoints have no hostname, and a name that is made of their address. There
// are ten times as many of them as of all else, so they have no entries of their
// own: their records are kept with their Service's, in the order of addresses, and
// found by the address that the name says. That takes 16 octets for one of IPv4
// instead of some 130.

// dashedType is where records of a type are kept.
func dashedType(typ uint16) uint16 {
	if typ == wire.TypeA {
		return typeDashedA
	}
	return typeDashedAAAA
}

// dashedLen is the length of one packed record of a type.
func dashedLen(typ uint16) int {
	if typ == wire.TypeA {
		return wire.Pointer + 10 + 4
	}
	return wire.Pointer + 10 + 16
}

// hasAddressLikeHostname reports whether an endpoint of the Service has a hostname
// that could be made of an address. It could be the name of another one too.
func (b *builder) hasAddressLikeHostname(s *model.Snapshot, svc *model.Service) bool {
	for ep := range b.endpoints(s, svc) {
		if ep.ep.Hostname() == "" && !b.EndpointPodNames {
			continue
		}
		host := b.hostname(ep)
		if _, ok := parseDashed([]byte(host)); ok && host != Dashed(ep.addr) {
			return true
		}
	}
	return false
}

// lookupDashed answers for the name of an endpoint that is made of its address. It
// reports whether there is such a one.
func (z *Zone) lookupDashed(a *Answer, name []byte, typ uint16) bool {
	if len(name) < 3 {
		return false
	}
	addr, ok := parseDashed(name[1 : 1+int(name[0])])
	if !ok {
		return false
	}
	e := z.tree.get(wire.Parent(name))
	if e == nil {
		return false
	}
	own := addrType(addr)
	records, _ := e.get(dashedType(own))
	if records == nil {
		return false
	}
	size := dashedLen(own)
	var buf [16]byte
	want := appendAddr(buf[:0], addr)
	i := sort.Search(len(records)/size, func(i int) bool {
		return bytes.Compare(records[(i+1)*size-len(want):(i+1)*size], want) >= 0
	})
	if i*size == len(records) || !bytes.Equal(records[(i+1)*size-len(want):(i+1)*size], want) {
		return false
	}
	a.Status = NoData
	if typ == own {
		a.Status, a.Records, a.Count = Success, records[i*size:(i+1)*size], 1
	}
	return true
}

func appendAddr(dst []byte, addr netip.Addr) []byte {
	if addr.Is4() {
		b := addr.As4()
		return append(dst, b[:]...)
	}
	b := addr.As16()
	return append(dst, b[:]...)
}

// dashed returns entries of the names that are made of addresses, for people.
func (e *entry) dashed() []*entry {
	var entries []*entry
	for _, typ := range []uint16{wire.TypeA, wire.TypeAAAA} {
		records, _ := e.get(dashedType(typ))
		for size := dashedLen(typ); len(records) > 0; records = records[size:] {
			addr, _ := netip.AddrFromSlice(records[wire.Pointer+10 : size])
			set := append(appendSetHeader(nil, typ, 1, size), records[:size]...)
			entries = append(entries, newEntry(append(wire.AppendLabel(nil, Dashed(addr)), e.name()...), set, 0))
		}
	}
	return entries
}

// parseDashed reads a label that [Dashed] makes, and nothing else. It does not
// allocate.
func parseDashed(label []byte) (netip.Addr, bool) {
	var addr netip.Addr
	if len(label) < 2 || len(label) > 39+1 {
		return addr, false
	}
	if dashes := bytes.Count(label, []byte{'-'}); dashes == 3 && !bytes.Contains(label, []byte("--")) {
		addr = parseDashed4(label)
	} else if dashes >= 2 {
		addr = parseDashed6(label)
	}
	if !addr.IsValid() {
		return addr, false
	}
	// There are several ways to write an address, but one that names have.
	var room [48]byte
	text := addr.AppendTo(room[:0])
	for i, c := range text {
		if c == '.' || c == ':' {
			text[i] = '-'
		}
	}
	if text[len(text)-1] == '-' {
		text = append(text, '0')
	}
	return addr, bytes.Equal(text, label)
}

func parseDashed4(label []byte) netip.Addr {
	var out [4]byte
	i, n := 0, 0
	for _, c := range label {
		switch {
		case c == '-':
			out[i] = byte(n)
			i, n = i+1, 0
		case c < '0' || c > '9':
			return netip.Addr{}
		default:
			if n = n*10 + int(c-'0'); n > 255 {
				return netip.Addr{}
			}
		}
	}
	out[i] = byte(n)
	return netip.AddrFrom4(out)
}

// parseDashed6 reads groups of hexadecimal digits, with two dashes in place of as
// many zeros as are missing.
func parseDashed6(label []byte) netip.Addr {
	var groups [8]uint16
	n, gap, digits := 0, -1, 0
	value := uint32(0)
	for i, c := range label {
		switch {
		case c == '-' && i > 0 && label[i-1] == '-':
			if gap >= 0 {
				return netip.Addr{}
			}
			gap = n
		case c == '-':
			if digits > 0 || i > 0 {
				if n == 8 {
					return netip.Addr{}
				}
				groups[n] = uint16(value)
				n++
			}
			value, digits = 0, 0
		default:
			d := bytes.IndexByte([]byte("0123456789abcdef"), c)
			if digits++; d < 0 || digits > 4 {
				return netip.Addr{}
			}
			value = value<<4 | uint32(d)
		}
	}
	if n == 8 {
		return netip.Addr{}
	}
	groups[n] = uint16(value)
	n++
	var out [16]byte
	missing := 8 - n
	if gap < 0 && missing > 0 || gap >= 0 && missing < 0 {
		return netip.Addr{}
	}
	for i, at := 0, 0; i < n; i, at = i+1, at+1 {
		if i == gap {
			at += missing
		}
		out[2*at], out[2*at+1] = byte(groups[i]>>8), byte(groups[i])
	}
	return netip.AddrFrom16(out)
}
