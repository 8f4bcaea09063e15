package iptables

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// table is one of iptables' tables.
type table uint8

const (
	nat table = iota
	filter
)

func (t table) String() string { return [...]string{"nat", "filter"}[t] }

// prefix begins the names of all our chains.
const prefix = "SLUICE-"

// Chains that are there whatever is planned. ADDRESSES, NODEPORTS and HEALTH are
// sets, to which Services add; the others depend on the node alone.
const (
	chainServices    = prefix + "SERVICES"
	chainAddresses   = prefix + "ADDRESSES"
	chainNodePorts   = prefix + "NODEPORTS"
	chainMasquerade  = prefix + "MASQUERADE" // marks what does not come from Pods
	chainPostrouting = prefix + "POSTROUTING"
	chainInput       = prefix + "INPUT"
	chainForward     = prefix + "FORWARD"
	chainOutput      = prefix + "OUTPUT"
	chainFirewall    = prefix + "FIREWALL"
	chainHealth      = prefix + "HEALTH"
	chainReject      = prefix + "REJECT"
)

// ref names a chain.
type ref struct {
	table table
	name  string
}

// jumps are the rules of built-in chains that lead to ours.
var jumps = [...]member{
	{ref{nat, "PREROUTING"}, "-j " + chainServices},
	{ref{nat, "OUTPUT"}, "-j " + chainServices},
	{ref{nat, "POSTROUTING"}, "-j " + chainPostrouting},
	{ref{filter, "INPUT"}, "-j " + chainInput},
	{ref{filter, "FORWARD"}, "-j " + chainForward},
	{ref{filter, "OUTPUT"}, "-j " + chainOutput},
}

// hashLength is that of the hashes in names: they have 80 bits. A chain's name has
// at most 28 characters.
const hashLength = 16

// portID is what names of a port's chains depend on.
type portID struct {
	service  model.Name
	protocol proxy.Protocol
	port     uint16
}

// hashed returns the name of a chain: its kind, and a hash of the port and of
// what else the chain belongs to. The kinds are SVC, EXT, LBI and NPT for
// frontends of the four kinds, SVS for sources that may connect, TC and TL to the
// backends of a traffic policy, TP to a single Pod. A chain leads to those alone
// whose names sort after its own: see section.text.
func (id portID) hashed(kind string, more ...[]byte) string {
	h := sha256.New()
	for _, part := range append([][]byte{[]byte(kind), []byte(id.service.Namespace), []byte(id.service.Name),
		{byte(id.protocol)}, binary.BigEndian.AppendUint16(nil, id.port)}, more...) {
		_, _ = h.Write(part)
		_, _ = h.Write([]byte{0})
	}
	return prefix + kind + "-" + base32.StdEncoding.EncodeToString(h.Sum(nil)[:10])
}

// endpointName returns the name of an endpoint's chain, and of its list of clients.
func (id portID) endpointName(a netip.AddrPort) string {
	return id.hashed("TP", a.Addr().AsSlice(), binary.BigEndian.AppendUint16(nil, a.Port()))
}

// hop is a rule on the way to a leaf: it is in the chain, and leads on.
type hop struct{ chain, rule string }

// addressPath returns the way to the leaf for an address, and the leaf. The last
// byte of addresses is the one that differs most.
func addressPath(a netip.Addr) (hops []hop, leaf string) {
	b := a.AsSlice()
	last := b[len(b)-1]
	low := prefix + "A-" + strconv.FormatUint(uint64(last&15), 16)
	leaf = fmt.Sprintf("%sA-%02x", prefix, last)
	return []hop{
		{chainAddresses, "-d " + masked(a, last&15, 15) + " -j " + low},
		{low, "-d " + masked(a, last, 255) + " -j " + leaf},
	}, leaf
}

// masked is an address of which the last byte counts alone, and the mask for it.
func masked(a netip.Addr, value, mask byte) string {
	b, m := make([]byte, a.BitLen()/8), make([]byte, a.BitLen()/8)
	b[len(b)-1], m[len(m)-1] = value, mask
	va, _ := netip.AddrFromSlice(b)
	vm, _ := netip.AddrFromSlice(m)
	return va.String() + "/" + vm.String()
}

// portRange is how many NodePorts share a leaf.
const portRange = 64

// portPath is addressPath for NodePorts.
func portPath(p proxy.Protocol, port uint16) (hops []hop, leaf string) {
	name := strings.ToLower(p.String())
	from := int(port) / portRange * portRange
	leaf = fmt.Sprintf("%sN-%s-%d", prefix, name, from)
	return []hop{{chainNodePorts, fmt.Sprintf("-p %s -m %s --dport %d:%d -j %s", name, name, from, from+portRange-1, leaf)}}, leaf
}
