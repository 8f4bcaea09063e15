package nftables

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// place is a set of one family's table.
type place struct {
	family proxy.Family
	set    setID
}

// element is an element of a set, as the kernel has it: key and data are in the
// order of the packet, each part padded to four bytes. Keys of ranges are the
// first key followed by the last; data of verdicts is a chain's name or "drop".
type element struct {
	place
	key, data string
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		v := a.As4()
		return append(b, v[:]...)
	}
	v := a.As16()
	return append(b, v[:]...)
}

// appendPort appends a protocol and a port, as in keys.
func appendPort(b []byte, p proxy.Protocol, port uint16) []byte {
	return append(b, byte(p), 0, 0, 0, byte(port>>8), byte(port), 0, 0)
}

// appendNumber appends a number as the host has it.
func appendNumber(b []byte, n uint32) []byte { return binary.NativeEndian.AppendUint32(b, n) }

func addrPort(a netip.AddrPort) string {
	b := appendAddr(make([]byte, 0, 20), a.Addr())
	return string(append(b, byte(a.Port()>>8), byte(a.Port()), 0, 0))
}

// parseAddrPort is the reverse of addrPort.
func parseAddrPort(s string) (netip.AddrPort, bool) {
	if len(s) != 8 && len(s) != 20 {
		return netip.AddrPort{}, false
	}
	a, ok := netip.AddrFromSlice([]byte(s[:len(s)-4]))
	return netip.AddrPortFrom(a, uint16(s[len(s)-4])<<8|uint16(s[len(s)-3])), ok
}

// put appends the element to a list of elements. For a deletion the key is
// enough.
func (e *element) put(m *batch, deletion bool) {
	spec := &specs[e.set]
	item := m.Nest(unix.NFTA_LIST_ELEM)
	key, last := e.key, ""
	if spec.interval {
		key, last = e.key[:len(e.key)/2], e.key[len(e.key)/2:]
	}
	putData(m, unix.NFTA_SET_ELEM_KEY, key)
	if last != "" && len(spec.key) > 1 {
		putData(m, nftaSetElemKeyEnd, last)
	}
	if !deletion && spec.isMap() {
		if spec.verdict {
			data := m.Nest(unix.NFTA_SET_ELEM_DATA)
			putVerdict(m, e.data)
			m.End(data)
		} else {
			putData(m, unix.NFTA_SET_ELEM_DATA, e.data)
		}
	}
	if count, ok := m.counted[elementKey{e.place, e.key}]; ok && !deletion {
		putCounter(m, count)
	}
	m.End(item)
	if last == "" || len(spec.key) > 1 {
		return
	}
	// A set of plain ranges has the end of each as an element of its own, which
	// is the first key after it, and none if there is no key after it.
	after := netip.Addr{}
	if a, ok := netip.AddrFromSlice([]byte(last)); ok {
		after = a.Next()
	}
	if after.IsValid() {
		item = m.Nest(unix.NFTA_LIST_ELEM)
		putData(m, unix.NFTA_SET_ELEM_KEY, string(appendAddr(nil, after)))
		m.Uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		m.End(item)
	}
}

func putData(m *batch, kind uint16, value string) {
	n := m.Nest(kind)
	m.Text(unix.NFTA_DATA_VALUE, value)
	m.End(n)
}

func putVerdict(m *batch, chain string) {
	v := m.Nest(unix.NFTA_DATA_VERDICT)
	if chain == verdictDrop {
		m.Uint32(unix.NFTA_VERDICT_CODE, 0) // NF_DROP
	} else {
		m.Uint32(unix.NFTA_VERDICT_CODE, uint32(0xffffffff&int64(unix.NFT_GOTO)))
		m.String(unix.NFTA_VERDICT_CHAIN, chain)
	}
	m.End(v)
}

// The elements of one message are an attribute, which has 16 bits for its size.
const maxElements = 40 << 10

// putElements appends messages that add or delete elements of one set.
func putElements(m *batch, at place, elements []element, deletion bool) {
	kind, flags := unix.NFT_MSG_NEWSETELEM, uint16(unix.NLM_F_CREATE)
	if deletion {
		kind, flags = unix.NFT_MSG_DELSETELEM, 0
	}
	for len(elements) > 0 {
		m.Begin(unix.NFNL_SUBSYS_NFTABLES, kind, flags, nfFamily(at.family))
		m.String(unix.NFTA_SET_ELEM_LIST_TABLE, m.table)
		m.String(unix.NFTA_SET_ELEM_LIST_SET, specs[at.set].name)
		list := m.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		for len(elements) > 0 && m.Len()-list < maxElements {
			elements[0].put(m, deletion)
			elements = elements[1:]
		}
		m.End(list)
		m.Finish()
	}
}

// flushElements appends the message that empties a set.
func flushElements(m *batch, at place) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELSETELEM, 0, nfFamily(at.family))
	m.String(unix.NFTA_SET_ELEM_LIST_TABLE, m.table)
	m.String(unix.NFTA_SET_ELEM_LIST_SET, specs[at.set].name)
	m.Finish()
}

// seen is an element as the kernel lists it.
type seen struct {
	element
	count proxy.Traffic
}

// parseElements calls each for the elements in an answer, without those that
// only end a range.
func parseElements(at place, body []byte, each func(seen)) {
	for kind, v := range nfnl.Attributes(body[4:]) {
		if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		for _, item := range nfnl.Attributes(v) {
			e, end := seen{element: element{place: at}}, false
			var last string
			for kind, v := range nfnl.Attributes(item) {
				switch kind {
				case unix.NFTA_SET_ELEM_KEY:
					e.key = dataValue(v)
				case nftaSetElemKeyEnd:
					last = dataValue(v)
				case unix.NFTA_SET_ELEM_DATA:
					e.data = dataValue(v)
				case unix.NFTA_SET_ELEM_EXPR:
					e.count = parseCounter(v)
				case unix.NFTA_SET_ELEM_FLAGS:
					end = len(v) == 4 && binary.BigEndian.Uint32(v)&unix.NFT_SET_ELEM_INTERVAL_END != 0
				}
			}
			e.key += last
			if end {
				// Keys of plain ranges are parsed by pairing, see listRanges.
				e.data = rangeEnd
			}
			each(e)
		}
	}
}

// rangeEnd is the data of an element that only ends a range.
const rangeEnd = "end"

// dataValue returns the value of nested data, or a verdict's chain.
func dataValue(b []byte) string {
	for kind, v := range nfnl.Attributes(b) {
		switch kind {
		case unix.NFTA_DATA_VALUE:
			return string(v)
		case unix.NFTA_DATA_VERDICT:
			for kind, v := range nfnl.Attributes(v) {
				if kind == unix.NFTA_VERDICT_CHAIN && len(v) > 0 {
					return string(v[:len(v)-1])
				}
			}
			return verdictDrop
		}
	}
	return ""
}
