package intercept

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// tableName is the name of our table in either family.
const tableName = "sluice-dns"

// The sets that are there whoever is current. A seat has two more.
const (
	setAlive    = "alive"    // intercepted addresses whose server answers
	setProber   = "prober"   // where the current process asks from
	setClients  = "clients"  // by a server's address the one that its clients know
	setFallback = "fallback" // addresses that go to the ordinary endpoints
)

func setServers(seat int) string     { return fmt.Sprintf("servers-%d", seat) }
func setConnections(seat int) string { return fmt.Sprintf("connections-%d", seat) }

// maxConnections bounds how many connections are remembered, per seat and family.
// Further ones go to the ordinary endpoints.
const maxConnections = 1 << 16

// set describes a set or map of addresses.
type set struct {
	name       string
	isMap      bool // to addresses
	timeout    bool // elements have one
	dynamic    bool // the packet path adds elements
	size       uint32
	connection bool // the key is a connection's source, its port, and the destination
}

// commonSets are the sets without those of seats.
var commonSets = []set{
	{name: setAlive, timeout: true, dynamic: true, size: 64},
	{name: setProber},
	{name: setClients, isMap: true},
	{name: setFallback, timeout: true},
}

func seatSets(seat int) []set {
	return []set{
		{name: setServers(seat), isMap: true},
		{name: setConnections(seat), timeout: true, dynamic: true, connection: true, size: maxConnections},
	}
}

// nft's numbers of data types.
const (
	typeIPv4    = 7
	typeIPv6    = 8
	typeService = 13
)

func addrType(f proxy.Family) uint32 {
	if f == proxy.IPv6 {
		return typeIPv6
	}
	return typeIPv4
}

func addrLen(f proxy.Family) uint32 {
	if f == proxy.IPv6 {
		return 16
	}
	return 4
}

// What nft keeps in the user data of a set.
const (
	udataKeyByteOrder  = 0
	udataDataByteOrder = 1
	byteOrderBig       = 2
)

// create appends the message that makes the set, or finds it there.
func (s set) create(m *nfnl.Messages, f proxy.Family) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, nfFamily(f))
	m.String(unix.NFTA_SET_TABLE, tableName)
	m.String(unix.NFTA_SET_NAME, s.name)
	var flags uint32
	if s.isMap {
		flags |= unix.NFT_SET_MAP
	}
	if s.timeout {
		flags |= unix.NFT_SET_TIMEOUT
	}
	if s.dynamic {
		flags |= unix.NFT_SET_EVAL
	}
	m.Uint32(unix.NFTA_SET_FLAGS, flags)
	kind, length, order := addrType(f), addrLen(f), uint32(byteOrderBig)
	if s.connection {
		kind, length, order = kind<<12|typeService<<6|kind, 2*length+4, 0
	}
	m.Uint32(unix.NFTA_SET_KEY_TYPE, kind)
	m.Uint32(unix.NFTA_SET_KEY_LEN, length)
	if s.isMap {
		m.Uint32(unix.NFTA_SET_DATA_TYPE, addrType(f))
		m.Uint32(unix.NFTA_SET_DATA_LEN, addrLen(f))
	}
	m.Uint32(unix.NFTA_SET_ID, 1)
	udata := tlv(udataKeyByteOrder, order)
	if s.isMap {
		udata = append(udata, tlv(udataDataByteOrder, byteOrderBig)...)
	}
	m.Bytes(unix.NFTA_SET_USERDATA, udata)
	if s.size > 0 {
		desc := m.Nest(unix.NFTA_SET_DESC)
		m.Uint32(unix.NFTA_SET_DESC_SIZE, s.size)
		m.End(desc)
	}
	m.Finish()
}

func tlv(t byte, v uint32) []byte {
	return binary.LittleEndian.AppendUint32([]byte{t, 4}, v)
}

// deleteSet appends the message that removes a set that is there.
func deleteSet(m *nfnl.Messages, f proxy.Family, name string) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELSET, 0, nfFamily(f))
	m.String(unix.NFTA_SET_TABLE, tableName)
	m.String(unix.NFTA_SET_NAME, name)
	m.Finish()
}

// element is an element of a set of addresses.
type element struct {
	key     netip.Addr
	data    netip.Addr    // of maps
	timeout time.Duration // 0: none
}

// flushSet appends the message that empties a set.
func flushSet(m *nfnl.Messages, f proxy.Family, name string) {
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_DELSETELEM, 0, nfFamily(f))
	m.String(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
	m.String(unix.NFTA_SET_ELEM_LIST_SET, name)
	m.Finish()
}

// fill appends the messages after which a set has these elements.
func fill(m *nfnl.Messages, f proxy.Family, name string, elements []element) {
	flushSet(m, f, name)
	if len(elements) == 0 {
		return
	}
	m.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, nfFamily(f))
	m.String(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
	m.String(unix.NFTA_SET_ELEM_LIST_SET, name)
	list := m.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	for _, e := range elements {
		item := m.Nest(unix.NFTA_LIST_ELEM)
		putAddr(m, unix.NFTA_SET_ELEM_KEY, e.key)
		if e.data.IsValid() {
			putAddr(m, unix.NFTA_SET_ELEM_DATA, e.data)
		}
		if e.timeout > 0 {
			m.Uint64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(e.timeout/time.Millisecond))
		}
		m.End(item)
	}
	m.End(list)
	m.Finish()
}

func putAddr(m *nfnl.Messages, kind uint16, a netip.Addr) {
	n := m.Nest(kind)
	m.Bytes(unix.NFTA_DATA_VALUE, a.AsSlice())
	m.End(n)
}

// parseElements calls each for the elements in an answer.
func parseElements(body []byte, each func(element)) {
	for kind, v := range nfnl.Attributes(body[4:]) {
		if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			continue
		}
		for _, item := range nfnl.Attributes(v) {
			var e element
			for kind, v := range nfnl.Attributes(item) {
				switch kind {
				case unix.NFTA_SET_ELEM_KEY:
					e.key = addrValue(v)
				case unix.NFTA_SET_ELEM_DATA:
					e.data = addrValue(v)
				case unix.NFTA_SET_ELEM_TIMEOUT:
					if len(v) == 8 {
						e.timeout = time.Duration(binary.BigEndian.Uint64(v)) * time.Millisecond
					}
				}
			}
			each(e)
		}
	}
}

func addrValue(b []byte) netip.Addr {
	for kind, v := range nfnl.Attributes(b) {
		if kind == unix.NFTA_DATA_VALUE {
			a, _ := netip.AddrFromSlice(v)
			return a
		}
	}
	return netip.Addr{}
}

func nfFamily(f proxy.Family) byte {
	if f == proxy.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}
