package ipvs

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// setID numbers the sets and maps of a table.
type setID uint8

const (
	setServices setID = iota
	setNodePorts
	setMarks
	setNodePortMarks
	setNodePortOutsideMarks
	setServerMarks
	setMasqueradeMarks
	setHairpin
	setSources
	setAddresses
	setExternalAddresses
	setOldAddresses
	setOpenPorts
	setPods
	setNodePortAddresses
	setServiceCIDRs
	setCount
)

// fieldKind is one of nft's data types.
type fieldKind uint8

const (
	address fieldKind = iota
	protocolField
	portField
	markField
)

// setSpec describes a set or map.
type setSpec struct {
	name     string
	key      []fieldKind
	verdict  bool // a map to verdicts
	mark     bool // a map to marks
	interval bool
}

var specs = [setCount]setSpec{
	setServices:             {name: "services", key: []fieldKind{address, protocolField, portField}, verdict: true},
	setNodePorts:            {name: "nodeports", key: []fieldKind{protocolField, portField}, verdict: true},
	setMarks:                {name: "address-marks", key: []fieldKind{address, protocolField, portField}, mark: true},
	setNodePortMarks:        {name: "nodeport-marks", key: []fieldKind{protocolField, portField}, mark: true},
	setNodePortOutsideMarks: {name: "nodeport-outside-marks", key: []fieldKind{protocolField, portField}, mark: true},
	setServerMarks:          {name: "server-marks", key: []fieldKind{markField}},
	setMasqueradeMarks:      {name: "masquerade-marks", key: []fieldKind{markField}},
	setHairpin:              {name: "hairpin", key: []fieldKind{address, address}},
	setSources:              {name: "sources", key: []fieldKind{address, protocolField, portField, address}, interval: true},
	setAddresses:            {name: "addresses", key: []fieldKind{address}},
	setExternalAddresses:    {name: "external-addresses", key: []fieldKind{address}},
	setOldAddresses:         {name: "old-addresses", key: []fieldKind{address}},
	setOpenPorts:            {name: "open-ports", key: []fieldKind{portField}},
	setPods:                 {name: "pods", key: []fieldKind{address}, interval: true},
	setNodePortAddresses:    {name: "nodeport-addresses", key: []fieldKind{address}, interval: true},
	setServiceCIDRs:         {name: "service-cidrs", key: []fieldKind{address}, interval: true},
}

// ofNode are the sets that hold the node's networks. They are written as a whole.
var ofNode = []setID{setPods, setNodePortAddresses, setServiceCIDRs}

func (s *setSpec) isMap() bool { return s.verdict || s.mark }

// size returns the length of a field in bytes; keys pad it to a multiple of 4.
func (f fieldKind) size(family proxy.Family) int {
	switch {
	case f == address && family == proxy.IPv6:
		return 16
	case f == protocolField:
		return 1
	case f == portField:
		return 2
	}
	return 4
}

// datatype returns nft's number of the data type.
func (f fieldKind) datatype(family proxy.Family) uint32 {
	switch {
	case f == address && family == proxy.IPv6:
		return 8 // ipv6_addr
	case f == address:
		return 7 // ipv4_addr
	case f == protocolField:
		return 12 // inet_proto
	case f == portField:
		return 13 // inet_service
	}
	return 19 // mark
}

func padded(n int) int { return (n + 3) &^ 3 }

// place is a set of one family's table.
type place struct {
	family proxy.Family
	set    setID
}

// elementKey identifies an element. The key is as the kernel has it; that of a
// range is the first followed by the last.
type elementKey struct {
	place
	key string
}

// element is an element with its data: a chain's name, [verdictDrop] or
// [verdictAccept] of verdicts, the four bytes of marks, otherwise nothing.
type element struct {
	elementKey
	data string
}

// Verdicts that are no chain.
const (
	verdictDrop   = "drop"
	verdictAccept = "accept"
)

func appendAddr(b []byte, a netip.Addr) []byte { return append(b, a.AsSlice()...) }

func appendPort(b []byte, p proxy.Protocol, port uint16) []byte {
	return append(b, byte(p), 0, 0, 0, byte(port>>8), byte(port), 0, 0)
}

// frontendKey returns the key of a frontend in the maps.
func frontendKey(f proxy.FrontendKey) string {
	b := make([]byte, 0, 24)
	if f.Addr.IsValid() {
		b = appendAddr(b, f.Addr)
	}
	return string(appendPort(b, f.Protocol, f.Port))
}

// parseFrontend is the reverse of frontendKey.
func parseFrontend(family proxy.Family, key string) (proxy.FrontendKey, bool) {
	f := proxy.FrontendKey{Family: family}
	if len(key) < 8 {
		return f, false
	}
	if addr := key[:len(key)-8]; addr != "" {
		a, ok := netip.AddrFromSlice([]byte(addr))
		if !ok {
			return f, false
		}
		f.Addr = a
	}
	key = key[len(key)-8:]
	f.Protocol, f.Port = proxy.Protocol(key[0]), uint16(key[4])<<8|uint16(key[5])
	return f, true
}

func markData(mark uint32) string { return string(binary.NativeEndian.AppendUint32(nil, mark)) }

// bounds returns the first and the last address of a prefix.
func bounds(p netip.Prefix) (first, last netip.Addr) {
	p = p.Masked()
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ = netip.AddrFromSlice(b)
	return p.Addr(), last
}

// outermost returns the prefixes of a family that no other one contains.
func outermost(list []netip.Prefix, family proxy.Family) []netip.Prefix {
	var out []netip.Prefix
	for i, p := range list {
		if proxy.FamilyOf(p.Addr()) != family {
			continue
		}
		inside := false
		for j, o := range list {
			inside = inside || i != j && o.Overlaps(p) && (o.Bits() < p.Bits() || o.Bits() == p.Bits() && j < i)
		}
		if !inside {
			out = append(out, p.Masked())
		}
	}
	return out
}

// createSet appends the message that makes a set, or finds it there.
func createSet(m *nfnl.Messages, at place) {
	s := &specs[at.set]
	kind, size := uint32(0), 0
	for _, f := range s.key {
		kind = kind<<6 | f.datatype(at.family)
		size += padded(f.size(at.family))
	}
	flags := uint32(0)
	if s.isMap() {
		flags |= unix.NFT_SET_MAP
	}
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
		if len(s.key) > 1 {
			flags |= flagSetConcat
		}
	}
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, netfilterFamily(at.family))
	m.String(unix.NFTA_SET_TABLE, tableName)
	m.String(unix.NFTA_SET_NAME, s.name)
	m.Uint32(unix.NFTA_SET_FLAGS, flags)
	m.Uint32(unix.NFTA_SET_KEY_TYPE, kind)
	if len(s.key) == 1 {
		size = s.key[0].size(at.family)
	}
	m.Uint32(unix.NFTA_SET_KEY_LEN, uint32(size))
	switch {
	case s.verdict:
		m.Uint32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		m.Uint32(unix.NFTA_SET_DATA_LEN, 16)
	case s.mark:
		m.Uint32(unix.NFTA_SET_DATA_TYPE, markField.datatype(at.family))
		m.Uint32(unix.NFTA_SET_DATA_LEN, 4)
	}
	m.Uint32(unix.NFTA_SET_ID, 1)
	m.Bytes(unix.NFTA_SET_USERDATA, s.userdata())
	if s.interval && len(s.key) > 1 {
		desc := m.Nest(unix.NFTA_SET_DESC)
		concat := m.Nest(attrDescConcat)
		for _, f := range s.key {
			part := m.Nest(unix.NFTA_LIST_ELEM)
			m.Uint32(unix.NFTA_SET_DESC_SIZE, uint32(f.size(at.family)))
			m.End(part)
		}
		m.End(concat)
		m.End(desc)
	}
	m.Finish()
}

// userdata returns what nft keeps with a set: the byte order of its key and data,
// without which it would print marks the wrong way round.
func (s *setSpec) userdata() []byte {
	const host, network = 1, 2
	order := byte(0)
	if len(s.key) == 1 {
		order = network
		if s.key[0] == markField {
			order = host
		}
	}
	u := []byte{0, 4, order, 0, 0, 0}
	if s.mark {
		u = append(u, 1, 4, host, 0, 0, 0)
	}
	return u
}

// Attributes and flags that package unix lacks.
const (
	flagSetConcat  = 0x80
	attrDescConcat = 2
	attrElemKeyEnd = 10
)

// maxElements is how many bytes of elements a message has: they are an attribute,
// which has 16 bits for its size.
const maxElements = 40 << 10

// putElements appends messages that add or delete elements of one set.
func putElements(m *nfnl.Messages, at place, elements []element, deletion bool) {
	kind, flags := unix.NFT_MSG_NEWSETELEM, uint16(unix.NLM_F_CREATE)
	if deletion {
		kind, flags = unix.NFT_MSG_DELSETELEM, 0
	}
	for len(elements) > 0 {
		m.Begin(unix.NFNL_SUBSYS_NFTABLES, kind, flags, netfilterFamily(at.family))
		m.String(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
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

// put appends the element to a list. For a deletion the key is enough.
func (e *element) put(m *nfnl.Messages, deletion bool) {
	spec := &specs[e.set]
	key, last := e.key, ""
	if spec.interval {
		key, last = e.key[:len(e.key)/2], e.key[len(e.key)/2:]
	}
	item := m.Nest(unix.NFTA_LIST_ELEM)
	putData(m, unix.NFTA_SET_ELEM_KEY, key)
	if last != "" && len(spec.key) > 1 {
		putData(m, attrElemKeyEnd, last)
	}
	switch {
	case deletion || !spec.isMap():
	case spec.verdict:
		data := m.Nest(unix.NFTA_SET_ELEM_DATA)
		putVerdict(m, e.data)
		m.End(data)
	default:
		putData(m, unix.NFTA_SET_ELEM_DATA, e.data)
	}
	m.End(item)
	if last == "" || len(spec.key) > 1 {
		return
	}
	// A set of plain ranges has the end of each as an element of its own, the
	// first key after it, and none if there is no key after it.
	if a, ok := netip.AddrFromSlice([]byte(last)); ok && a.Next().IsValid() {
		item = m.Nest(unix.NFTA_LIST_ELEM)
		putData(m, unix.NFTA_SET_ELEM_KEY, string(a.Next().AsSlice()))
		m.Uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
		m.End(item)
	}
}

func putData(m *nfnl.Messages, kind uint16, value string) {
	n := m.Nest(kind)
	m.Text(unix.NFTA_DATA_VALUE, value)
	m.End(n)
}

func putVerdict(m *nfnl.Messages, to string) {
	v := m.Nest(unix.NFTA_DATA_VERDICT)
	switch to {
	case verdictDrop:
		m.Uint32(unix.NFTA_VERDICT_CODE, 0)
	case verdictAccept:
		m.Uint32(unix.NFTA_VERDICT_CODE, 1)
	default:
		m.Uint32(unix.NFTA_VERDICT_CODE, uint32(0xffffffff&int64(unix.NFT_GOTO)))
		m.String(unix.NFTA_VERDICT_CHAIN, to)
	}
	m.End(v)
}

// flushSet appends the message that empties a set.
func flushSet(m *nfnl.Messages, at place) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELSETELEM, 0, netfilterFamily(at.family))
	m.String(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
	m.String(unix.NFTA_SET_ELEM_LIST_SET, specs[at.set].name)
	m.Finish()
}

// parseElements calls each for the elements in an answer. Plain ranges come with
// the first key alone, and what only ends one is left out.
func parseElements(at place, body []byte, each func(element)) {
	for kind, v := range nfnl.Attributes(body[4:]) {
		if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		for _, item := range nfnl.Attributes(v) {
			e, last, end := element{elementKey: elementKey{place: at}}, "", false
			for kind, v := range nfnl.Attributes(item) {
				switch kind {
				case unix.NFTA_SET_ELEM_KEY:
					e.key = dataValue(v)
				case attrElemKeyEnd:
					last = dataValue(v)
				case unix.NFTA_SET_ELEM_DATA:
					e.data = dataValue(v)
				case unix.NFTA_SET_ELEM_FLAGS:
					end = len(v) == 4 && binary.BigEndian.Uint32(v)&unix.NFT_SET_ELEM_INTERVAL_END != 0
				}
			}
			if e.key += last; !end {
				each(e)
			}
		}
	}
}

// dataValue returns the value of nested data, or where a verdict goes.
func dataValue(b []byte) string {
	for kind, v := range nfnl.Attributes(b) {
		switch kind {
		case unix.NFTA_DATA_VALUE:
			return string(v)
		case unix.NFTA_DATA_VERDICT:
			to := verdictDrop
			for kind, v := range nfnl.Attributes(v) {
				switch {
				case kind == unix.NFTA_VERDICT_CHAIN && len(v) > 0:
					return string(v[:len(v)-1])
				case kind == unix.NFTA_VERDICT_CODE && len(v) == 4 && binary.BigEndian.Uint32(v) == 1:
					to = verdictAccept
				}
			}
			return to
		}
	}
	return ""
}

// spellElement returns an element as nft prints it.
func spellElement(e element) string {
	spec := &specs[e.set]
	key, last := e.key, ""
	if spec.interval && len(spec.key) > 1 {
		key, last = e.key[:len(e.key)/2], e.key[len(e.key)/2:]
	}
	var parts []string
	for _, f := range spec.key {
		size := f.size(e.family)
		part := f.spell(key[:size])
		if last != "" {
			if end := f.spell(last[:size]); end != part {
				part += "-" + end
			}
			last = last[min(padded(size), len(last)):]
		}
		parts = append(parts, part)
		key = key[min(padded(size), len(key)):]
	}
	out := strings.Join(parts, " . ")
	switch {
	case spec.mark && len(e.data) == 4:
		out += " : " + markField.spell(e.data)
	case spec.verdict && (isChain(e.data) || e.data == chainRefuse):
		out += " : goto " + e.data
	case spec.verdict:
		out += " : " + e.data
	}
	return out
}

// spell returns a value as nft prints it.
func (f fieldKind) spell(value string) string {
	switch f {
	case address:
		a, _ := netip.AddrFromSlice([]byte(value))
		return a.String()
	case protocolField:
		return proxy.Protocol(value[0]).String()
	case portField:
		return strconv.Itoa(int(value[0])<<8 | int(value[1]))
	}
	return fmt.Sprintf("0x%08x", nativeUint32(value))
}
