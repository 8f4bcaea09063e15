package nftables

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
)

// setID numbers the sets and maps of a table.
type setID uint8

const (
	setServices setID = iota
	setSlots
	setNodePorts
	setNodePortSlots
	setChoices
	setBackends
	setNodePortChoices
	setNodePortBackends
	setHairpin
	setSources
	setClusterIPs
	setPods
	setNodePortAddresses
	setServiceCIDRs
	setAffinity
	setTraffic
	setNodePortTraffic
	setCount
)

// setSpec describes a set or map.
type setSpec struct {
	name     string
	key      []field
	data     []field // of a map
	verdict  bool    // the data is a verdict
	counter  bool    // every element counts what it matched
	interval bool
	dynamic  bool // filled by the packet path, with a timeout
	shared   bool // several Services may have an element
	numbered bool // an element for each backend of each frontend
	node     bool // filled from the node's networks, and always written anew
}

// affinitySize bounds how many clients' backends are remembered, per family.
const affinitySize = 1 << 18

// specs are the sets of a table. Affinity needs two steps, because nft cannot
// load a rule that remembers the result of a map look-up: choices give a slot's
// backend a number, which is remembered, and backends give its address. The
// number is held in the packet's priority meanwhile. It is one for the backend
// in a Service's port, so a client is remembered whatever frontend it comes by. The address is the last
// part of the keys of choices, because nft 1.0.6 fails on "meta priority set"
// by a longer key in the other order.
var specs = [setCount]setSpec{
	setServices:          {name: "services", key: []field{daddr, l4proto, dport}, verdict: true, counter: true},
	setSlots:             {name: "slots", key: []field{daddr, l4proto, dport, number}, data: []field{daddr, dport}, numbered: true},
	setNodePorts:         {name: "nodeports", key: []field{l4proto, dport}, verdict: true, counter: true},
	setNodePortSlots:     {name: "nodeport-slots", key: []field{l4proto, dport, number}, data: []field{daddr, dport}, numbered: true},
	setChoices:           {name: "choices", key: []field{l4proto, dport, number, daddr}, data: []field{priority}, numbered: true},
	setBackends:          {name: "backends", key: []field{daddr, l4proto, dport, priority}, data: []field{daddr, dport}, numbered: true},
	setNodePortChoices:   {name: "nodeport-choices", key: []field{l4proto, dport, number}, data: []field{priority}, numbered: true},
	setNodePortBackends:  {name: "nodeport-backends", key: []field{l4proto, dport, priority}, data: []field{daddr, dport}, numbered: true},
	setHairpin:           {name: "hairpin", key: []field{saddr, daddr}, shared: true},
	setSources:           {name: "sources", key: []field{daddr, l4proto, dport, saddr}, interval: true},
	setClusterIPs:        {name: "cluster-ips", key: []field{daddr}, shared: true},
	setPods:              {name: "pods", key: []field{saddr}, interval: true, node: true},
	setNodePortAddresses: {name: "nodeport-addresses", key: []field{daddr}, interval: true, node: true},
	setServiceCIDRs:      {name: "service-cidrs", key: []field{daddr}, interval: true, node: true},
	setAffinity:          {name: "affinity", key: []field{saddr, priority}, dynamic: true},
	setTraffic:           {name: "traffic", key: []field{daddr, l4proto, dport}, counter: true},
	setNodePortTraffic:   {name: "nodeport-traffic", key: []field{l4proto, dport}, counter: true},
}

// isMap reports whether elements have data.
func (s *setSpec) isMap() bool { return s.verdict || s.data != nil }

// keyLen returns the length of the key in bytes.
func keyLen(fields []field, family proxy.Family) int {
	n := 0
	for _, f := range fields {
		n += padded(f.size(family))
	}
	return n
}

// kindOf returns the data type of a concatenation.
func kindOf(fields []field, family proxy.Family) uint32 {
	var kind uint32
	for _, f := range fields {
		kind = kind<<6 | f.kind(family)
	}
	return kind
}

// Attributes that package unix lacks.
const (
	nftaSetExpr        = 0x11
	nftaSetElemKeyEnd  = 10
	nftaSetDescConcat  = 2
	nftSetConcat       = 0x80
	udataKeyByteOrder  = 0
	udataDataByteOrder = 1
	udataKeyTypeof     = 3
	udataDataTypeof    = 4
	udataDataInterval  = 6
	byteOrderHost      = 1
	byteOrderBig       = 2
)

// flags returns the kernel's flags of the set.
func (s *setSpec) flags() (flags uint32) {
	if s.isMap() {
		flags |= unix.NFT_SET_MAP
	}
	if s.interval {
		flags |= unix.NFT_SET_INTERVAL
		if len(s.key) > 1 {
			flags |= nftSetConcat
		}
	}
	if s.dynamic {
		flags |= unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT
	}
	return flags
}

// userdata returns what nft keeps with the set: without the typeof of numbers,
// nft can neither list the map nor load what it listed.
func (s *setSpec) userdata(family proxy.Family) []byte {
	var u []byte
	order := func(t byte, v uint32) { u = append(u, tlv(t, binary.LittleEndian.AppendUint32(nil, v))...) }
	if s.interval && len(s.key) == 1 {
		order(udataKeyByteOrder, byteOrderBig)
	} else {
		order(udataKeyByteOrder, 0)
	}
	if s.isMap() {
		data := uint32(0)
		if len(s.data) == 1 {
			data = byteOrderHost
		}
		order(udataDataByteOrder, data)
	}
	// What nft cannot store of a long concatenation it stores as a type.
	if !s.dynamic {
		u = append(u, tlv(udataKeyTypeof, typeofAll(s.key, family))...)
	}
	if s.isMap() {
		data := expression(exprVerdict, nil)
		if !s.verdict {
			data = typeofAll(s.data, family)
		}
		u = append(u, tlv(udataDataTypeof, data)...)
		order(udataDataInterval, 0)
	}
	return u
}

// create appends the message that makes the set.
func (s *setSpec) create(m *batch, family proxy.Family) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, nfFamily(family))
	m.String(unix.NFTA_SET_TABLE, m.table)
	m.String(unix.NFTA_SET_NAME, s.name)
	m.Uint32(unix.NFTA_SET_FLAGS, s.flags())
	m.Uint32(unix.NFTA_SET_KEY_TYPE, kindOf(s.key, family))
	m.Uint32(unix.NFTA_SET_KEY_LEN, uint32(keyLen(s.key, family)))
	switch {
	case s.verdict:
		m.Uint32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		m.Uint32(unix.NFTA_SET_DATA_LEN, 16)
	case s.data != nil:
		m.Uint32(unix.NFTA_SET_DATA_TYPE, kindOf(s.data, family))
		m.Uint32(unix.NFTA_SET_DATA_LEN, uint32(keyLen(s.data, family)))
	}
	m.Uint32(unix.NFTA_SET_ID, 1)
	m.Bytes(unix.NFTA_SET_USERDATA, s.userdata(family))
	if s.dynamic {
		desc := m.Nest(unix.NFTA_SET_DESC)
		m.Uint32(unix.NFTA_SET_DESC_SIZE, affinitySize)
		m.End(desc)
	}
	if s.interval && len(s.key) > 1 {
		desc := m.Nest(unix.NFTA_SET_DESC)
		concat := m.Nest(nftaSetDescConcat)
		for _, f := range s.key {
			part := m.Nest(unix.NFTA_LIST_ELEM)
			m.Uint32(unix.NFTA_SET_DESC_SIZE, uint32(f.size(family)))
			m.End(part)
		}
		m.End(concat)
		m.End(desc)
	}
	if s.counter {
		e := m.Nest(nftaSetExpr)
		m.String(unix.NFTA_EXPR_NAME, "counter")
		m.End(e)
	}
	m.Finish()
}
