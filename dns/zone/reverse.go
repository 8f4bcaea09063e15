package zone

import (
	"bytes"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/internal/btree"
)

// reverseName returns the name of an address' PTR records, under in-addr.arpa or
// ip6.arpa (RFC 1035 §3.5, RFC 3596 §2.5).
func reverseName(addr netip.Addr) []byte {
	const hex = "0123456789abcdef"
	name := make([]byte, 0, 76)
	b := addr.AsSlice()
	for _, c := range slices.Backward(b) {
		if addr.Is4() {
			name = wire.AppendLabel(name, strconv.Itoa(int(c)))
		} else {
			name = append(name, 1, hex[c&0xf], 1, hex[c>>4])
		}
	}
	if addr.Is4() {
		return append(name, inAddrArpa...)
	}
	return append(name, ip6Arpa...)
}

// parseReverse reads a name that [reverseName] makes, and no other. It does not
// allocate.
func parseReverse(name []byte) (netip.Addr, bool) {
	if len(name) > len(inAddrArpa) && string(name[len(name)-len(inAddrArpa):]) == inAddrArpa {
		return parseReverse4(name[:len(name)-len(inAddrArpa)])
	}
	if len(name) != 64+len(ip6Arpa) || string(name[64:]) != ip6Arpa {
		return netip.Addr{}, false
	}
	var out [16]byte
	for i := range 32 {
		d := bytes.IndexByte([]byte("0123456789abcdef"), name[2*i+1])
		if name[2*i] != 1 || d < 0 {
			return netip.Addr{}, false
		}
		out[15-i/2] |= byte(d) << (4 * (i % 2))
	}
	addr := netip.AddrFrom16(out)
	return addr, !addr.Is4In6()
}

func parseReverse4(labels []byte) (netip.Addr, bool) {
	var out [4]byte
	for i := 3; i >= 0; i-- {
		if len(labels) == 0 || labels[0] < 1 || labels[0] > 3 || int(labels[0]) >= len(labels) {
			return netip.Addr{}, false
		}
		digits, n := labels[1:1+labels[0]], 0
		for _, c := range digits {
			if c < '0' || c > '9' {
				return netip.Addr{}, false
			}
			n = 10*n + int(c-'0')
		}
		if n > 255 || digits[0] == '0' && len(digits) > 1 {
			return netip.Addr{}, false
		}
		out[i], labels = byte(n), labels[1+len(digits):]
	}
	return netip.AddrFrom4(out), len(labels) == 0
}

// endpointPointer is a PTR record that leads to an endpoint's name which is made of
// its address. There is one of every endpoint, so they are kept apart from all
// other records: some 30 octets each instead of some 130.
type endpointPointer struct {
	addr [16]byte
	// service is the labels of the Service and of its namespace, which the endpoints
	// share that were added at once.
	service *string
}

// pointerKey is what endpoint pointers are ordered by.
type pointerKey struct {
	addr    [16]byte
	service string
}

func (p endpointPointer) key() pointerKey { return pointerKey{p.addr, *p.service} }

type (
	pointerTree = btree.Tree[pointerKey, endpointPointer]
	pointerTxn  = btree.Txn[pointerKey, endpointPointer]
)

var pointerOrder = &btree.Order[pointerKey, endpointPointer]{
	Key: endpointPointer.key,
	Compare: func(a, b pointerKey) int {
		if c := bytes.Compare(a.addr[:], b.addr[:]); c != 0 {
			return c
		}
		return strings.Compare(a.service, b.service)
	},
}

// pointersOf yields the endpoint pointers of an address.
func (z *Zone) pointersOf(addr netip.Addr) func(func(endpointPointer) bool) {
	return func(yield func(endpointPointer) bool) {
		key := pointerKey{addr: addr.As16()}
		for p := range z.pointers.From(key) {
			if p.addr != key.addr || !yield(p) {
				return
			}
		}
	}
}

// endpointPointers returns the PTR records of a reverse name that lead to
// endpoints. e is the name's entry, nil if it has none.
func (z *Zone) endpointPointers(e *entry, name []byte) (records []byte, count int) {
	if e != nil {
		records, count = e.get(typeEndpointPTR)
	}
	addr, ok := parseReverse(name)
	if !ok {
		return records, count
	}
	var label []byte
	var target [wire.MaxName]byte
	for p := range z.pointersOf(addr) {
		if label == nil {
			label = wire.AppendLabel(make([]byte, 0, 48), Dashed(addr))
			records = slices.Clip(records) // the entry's
		}
		t := append(append(target[:0], label...), *p.service...)
		t = append(append(t, svcLabel...), z.apexes[0].name...)
		records = wire.AppendPacked(records, wire.TypePTR, z.ttl, t)
		count++
	}
	return records, count
}

// hasPointer reports whether an endpoint has the address that a reverse name says.
func (z *Zone) hasPointer(name []byte) bool {
	addr, ok := parseReverse(name)
	if !ok {
		return false
	}
	for range z.pointersOf(addr) {
		return true
	}
	return false
}
