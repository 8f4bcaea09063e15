package zone

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

const (
	inAddrArpa = "\x07in-addr\x04arpa\x00"
	ip6Arpa    = "\x03ip6\x04arpa\x00"
)

// Zone is what the cluster's names resolve to at one moment. It never changes.
type Zone struct {
	tree     tree
	pointers pointerTree
	apexes   []apex // the cluster's, then in-addr.arpa and ip6.arpa
	pods     PodMode
	ttl      uint32
	serial   uint32
	ready    bool
	model    *model.Snapshot
}

// apex is the top of a zone with its packed SOA record.
type apex struct {
	name    []byte
	soa     []byte
	reverse bool
}

// Status says what a zone knows of a name.
type Status uint8

// What [Zone.Lookup] finds.
const (
	Elsewhere Status = iota // the name is not of this zone
	NotReady                // the source has not delivered everything yet
	Success                 // there are records
	NoData                  // the name exists without records of that type
	NXDomain                // the name does not exist
	Alias                   // the records are one CNAME that leads to Target
)

// Answer is the result of a look-up. Its slices are the zone's.
type Answer struct {
	Status  Status
	Records []byte // packed, see [wire.Reply]
	Count   int
	// Near are those of the addresses that the answer is to begin with, again.
	Near      []byte
	NearCount int
	Target    []byte // of an Alias: the name it leads to, in lower case
	SOA       []byte // packed, for negative answers
	Apex      int    // length of the name of the zone that the name is in
	// Reverse says that the name is of a tree that others have a part in: one
	// that does not exist here may exist elsewhere.
	Reverse bool
}

func (p *Planner) newZone(t tree, pointers pointerTree, s *model.Snapshot, serial uint32) *Zone {
	kinds := []model.KindID{model.KindService, model.KindEndpointSlice, model.KindNamespace}
	if p.Pods == PodsVerified {
		kinds = append(kinds, model.KindPod)
	}
	z := &Zone{tree: t, pointers: pointers, pods: p.Pods, ttl: p.ttl, serial: serial, ready: s.Synced(kinds...), model: s}
	for _, name := range p.apexes {
		z.apexes = append(z.apexes, apex{name: name, soa: soa(name, p.ttl, serial)})
	}
	for _, name := range []string{inAddrArpa, ip6Arpa} {
		z.apexes = append(z.apexes, apex{[]byte(name), soa([]byte(name), p.ttl, serial), true})
	}
	return z
}

// soa packs the SOA record as CoreDNS has it. Its last number is for how long a
// name's absence may be kept (RFC 2308 §4).
func soa(apex []byte, ttl, serial uint32) []byte {
	data := below(apex, "ns", "dns")
	data = append(data, below(apex, "hostmaster")...)
	for _, n := range []uint32{serial, 7200, 1800, 86400, ttl} {
		data = binary.BigEndian.AppendUint32(data, n)
	}
	return wire.AppendPacked(nil, wire.TypeSOA, min(ttl, 300), data)
}

// Revision returns the revision of the model that the zone was made of.
func (z *Zone) Revision() uint64 { return z.model.Revision() }

// Model returns the snapshot that the zone was made of.
func (z *Zone) Model() *model.Snapshot { return z.model }

// Ready reports whether the source has delivered everything that the zone is
// made of. Before that no name can be said not to exist.
func (z *Zone) Ready() bool { return z.ready }

// Serial returns the zone's serial number: the Unix time of its last change.
func (z *Zone) Serial() uint32 { return z.serial }

// Len returns how many names exist, without those that are made of endpoints'
// addresses.
func (z *Zone) Len() int { return z.tree.size }

// Lookup finds the records of a name, in wire form and lower case. It allocates
// only for names of verified Pods, and for addresses of endpoints.
func (z *Zone) Lookup(name []byte, typ uint16) Answer {
	top := z.top(name)
	if top == nil {
		return Answer{}
	}
	a := Answer{SOA: top.soa, Apex: len(top.name), Reverse: top.reverse}
	if !z.ready {
		a.Status = NotReady
		return a
	}
	e := z.tree.get(name)
	if e == nil && !top.reverse {
		e = z.getWithoutUnderscores(name, len(top.name))
	}
	switch {
	case e == nil && !top.reverse && z.lookupDashed(&a, name, typ):
	case e == nil && !top.reverse:
		z.lookupPod(&a, name, top.name, typ)
	case e == nil && !z.hasPointer(name):
		a.Status = NXDomain
	default:
		z.lookupEntry(&a, e, name, typ)
	}
	return a
}

// lookupEntry answers for a name that exists. e is nil for the reverse name of an
// endpoint's address that has nothing else.
func (z *Zone) lookupEntry(a *Answer, e *entry, name []byte, typ uint16) {
	a.Status = NoData
	switch {
	case typ >= typeEndpointPTR && typ <= typeNearAAAA: // no records that a client may see
		return
	case typ == wire.TypeSOA && len(name) == a.Apex:
		a.Status, a.Records, a.Count = Success, a.SOA, 1
		return
	case typ == wire.TypePTR && a.Reverse:
		if e != nil {
			a.Records, a.Count = e.get(wire.TypePTR)
		}
		if a.Count > 0 { // a Service's address has one name
			a.Records, a.Count = a.Records[:wire.PackedLen(a.Records)], 1
		} else {
			a.Records, a.Count = z.endpointPointers(e, name)
		}
	case e == nil:
		return
	default:
		a.Records, a.Count = e.get(typ)
		if near := nearType(typ); near != 0 && a.Count > 1 {
			a.Near, a.NearCount = e.get(near)
		}
	}
	if a.Count > 0 {
		a.Status = Success
		return
	}
	// RFC 1034 §3.6.2: an alias answers for every type. CoreDNS makes an
	// exception for SRV, and has clients that rely on it.
	if typ == wire.TypeSRV || e == nil {
		return
	}
	if a.Records, a.Count = e.get(wire.TypeCNAME); a.Count > 0 {
		a.Status, a.Target = Alias, a.Records[wire.Pointer+10:]
	}
}

// getWithoutUnderscores finds port.protocol.service.namespace.svc, whose
// underscores CoreDNS does not insist on.
func (z *Zone) getWithoutUnderscores(name []byte, apexLen int) *entry {
	svc := len(name) - apexLen - len("\x03svc")
	if svc <= 0 || string(name[svc:svc+4]) != "\x03svc" {
		return nil
	}
	var labels [4]int
	n, off := 0, 0
	for ; off < svc && n < len(labels); off += 1 + int(name[off]) {
		labels[n] = off
		n++
	}
	if n != len(labels) || off != svc || len(name)+2 > wire.MaxName {
		return nil
	}
	var buf [wire.MaxName + 2]byte
	full := buf[:0]
	for i := range 2 {
		label := name[labels[i]:labels[i+1]]
		if label[1] == '_' {
			full = append(full, label...)
			continue
		}
		if label[0] == wire.MaxLabel {
			return nil
		}
		full = append(full, label[0]+1, '_')
		full = append(full, label[1:]...)
	}
	return z.tree.get(append(full, name[labels[2]:]...))
}

// lookupPod answers address.namespace.pod, of which the zone keeps no records.
func (z *Zone) lookupPod(a *Answer, name, apex []byte, typ uint16) {
	a.Status = NXDomain
	if z.pods == PodsDisabled {
		return
	}
	label, ns := name[1:1+int(name[0])], wire.Parent(name)
	pod := len(ns) - len(apex) - len("\x03pod")
	if pod <= 0 || string(ns[pod:pod+4]) != "\x03pod" || 1+int(ns[0]) != pod || z.tree.get(ns) == nil {
		return
	}
	addr, ok := undash(label)
	if !ok {
		return
	}
	if z.pods == PodsVerified {
		if _, ok := podOf(z.model, string(ns[1:pod]), addr); !ok {
			return
		}
	}
	a.Status = NoData
	if typ == addrType(addr) {
		a.Status, a.Count = Success, 1
		a.Records = wire.AppendPacked(nil, typ, z.ttl, addr.AsSlice())
	}
}

// podOf returns a Pod of the namespace that has the address and has not ended.
// Unlike for what an address alone says, Pods on their host's network count:
// CoreDNS, too, asks only whether the namespace has one with that address
// (plugin/kubernetes, findPods).
func podOf(s *model.Snapshot, namespace string, addr netip.Addr) (*model.Pod, bool) {
	ip := addr.String()
	for pod := range model.PodsByIP.Find(s, ip) {
		if pod.Namespace == namespace {
			return pod, true
		}
	}
	for pod := range model.HostPodsByIP.Find(s, namespace+"/"+ip) {
		return pod, true
	}
	return nil, false
}

// undash reads an address from a label as CoreDNS does: three single dashes are
// IPv4's dots, anything else IPv6's colons.
func undash(label []byte) (netip.Addr, bool) {
	s := string(label)
	if strings.Count(s, "-") == 3 && !strings.Contains(s, "--") {
		addr, err := netip.ParseAddr(strings.ReplaceAll(s, "-", "."))
		return addr, err == nil && addr.Is4()
	}
	addr, err := netip.ParseAddr(strings.ReplaceAll(s, "-", ":"))
	return addr.Unmap(), err == nil && addr.Zone() == ""
}
