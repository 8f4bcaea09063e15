package zone

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

// SchemaVersion is the version of the Kubernetes DNS specification that the zone
// follows; dns-version.<zone> says it (specification §2.2).
const SchemaVersion = "1.1.0"

// builder makes the records of one object of the model. It is pure.
type builder struct {
	Options
	apexes [][]byte
	ttl    uint32
}

// record is one packed record of a name.
type record struct {
	name string // wire form
	typ  uint16
	rr   []byte
}

// pointer is one PTR record that an object asks for. Several objects may ask for
// one of the same address.
type pointer struct {
	addr   netip.Addr
	target string // wire form
	typ    uint16 // wire.TypePTR, typeEndpointPTR or typeDashedPTR
}

// record is the packed PTR record.
func (p pointer) record(ttl uint32) record {
	return record{typ: p.typ, rr: wire.AppendPacked(make([]byte, 0, wire.Pointer+10+len(p.target)), wire.TypePTR, ttl, []byte(p.target))}
}

// records is all that one object puts into the zone.
type records struct {
	sets     []record // sorted, without duplicates
	pointers []pointer
	holds    []string // names that exist even without records
	finding  Finding
}

func (r *records) add(name []byte, typ uint16, ttl uint32, data []byte) {
	if len(name) <= wire.MaxName {
		r.sets = append(r.sets, record{string(name), typ, wire.AppendPacked(make([]byte, 0, wire.Pointer+10+len(data)), typ, ttl, data)})
	}
}

func (r *records) addAddr(name []byte, ttl uint32, addr netip.Addr) {
	r.add(name, addrType(addr), ttl, addr.AsSlice())
}

// addDashed adds the record of an endpoint whose name is made of its address.
func (r *records) addDashed(owner []byte, ttl uint32, addr netip.Addr) {
	typ := addrType(addr)
	r.sets = append(r.sets, record{string(owner), dashedType(typ), wire.AppendPacked(make([]byte, 0, dashedLen(typ)), typ, ttl, addr.AsSlice())})
}

func (r *records) finish() *records {
	slices.SortFunc(r.sets, compareRecords)
	r.sets = slices.CompactFunc(r.sets, func(a, b record) bool { return compareRecords(a, b) == 0 })
	slices.SortFunc(r.pointers, comparePointers)
	r.pointers = slices.Compact(r.pointers)
	return r
}

func compareRecords(a, b record) int {
	if c := strings.Compare(a.name, b.name); c != 0 {
		return c
	}
	if a.typ != b.typ {
		return int(a.typ) - int(b.typ)
	}
	return bytes.Compare(a.rr, b.rr)
}

func comparePointers(a, b pointer) int {
	if c := a.addr.Compare(b.addr); c != 0 {
		return c
	}
	if a.typ != b.typ {
		return int(a.typ) - int(b.typ)
	}
	return strings.Compare(a.target, b.target)
}

func addrType(addr netip.Addr) uint16 {
	if addr.Is4() {
		return wire.TypeA
	}
	return wire.TypeAAAA
}

// below returns the name of some labels below apex.
func below(apex []byte, labels ...string) []byte {
	name := make([]byte, 0, 96)
	for _, l := range labels {
		name = wire.AppendLabel(name, l)
	}
	return append(name, apex...)
}

// existing is what the object of a namespace puts into the zone.
func (b *builder) existing(s *model.Snapshot, ns string) *records {
	if _, ok := model.Namespaces.Get(s, "", ns); !ok || !b.exposed(s, ns) {
		return &records{}
	}
	return b.namespace(ns)
}

// namespace says that a namespace exists.
func (b *builder) namespace(ns string) *records {
	r := &records{}
	for _, apex := range b.apexes {
		r.holds = append(r.holds, string(below(apex, ns, "svc")))
		if b.Pods != PodsDisabled {
			r.holds = append(r.holds, string(below(apex, ns, "pod")))
		}
	}
	return r
}

// service makes all that a Service and its EndpointSlices put into the zone. A
// directory of manifests need not have the Namespace's object, so a Service
// makes its namespace exist too.
func (b *builder) service(s *model.Snapshot, name model.Name) *records {
	svc, ok := model.Services.Get(s, name.Namespace, name.Name)
	if !ok {
		return &records{}
	}
	r := &records{}
	if b.exposed(s, name.Namespace) { // else all there is of it is a name server
		r = b.namespace(name.Namespace)
	}
	if b.hides(s, svc) {
		return r
	}
	for i, apex := range b.apexes {
		owner := below(apex, svc.Name, svc.Namespace, "svc")
		switch {
		case svc.Type == corev1.ServiceTypeExternalName:
			b.external(r, svc, owner)
		case svc.Headless:
			b.headless(r, s, svc, owner, i == 0)
		case len(svc.ClusterIPs) > 0:
			b.clusterIP(r, s, svc, owner, i == 0)
		}
	}
	return r.finish()
}

// external makes the CNAME of an ExternalName Service (specification §2.5).
func (b *builder) external(r *records, svc *model.Service, owner []byte) {
	key := model.Services.Key(svc)
	if _, err := netip.ParseAddr(svc.ExternalName); err == nil {
		r.finding = Finding{key, "ExternalNameIsAddress", "spec.externalName " + svc.ExternalName +
			" is an address: expected a DNS name; the Service's name does not resolve (a Service without selector, with an EndpointSlice, can name an address)"}
		return
	}
	target, err := wire.ParseName(svc.ExternalName)
	if err != nil || len(target) == 1 {
		r.finding = Finding{key, "ExternalNameInvalid", "spec.externalName: expected a DNS name, found " + strings.ToValidUTF8(svc.ExternalName, "?")}
		return
	}
	r.add(owner, wire.TypeCNAME, b.ttl, wire.AppendLower(nil, target))
}

// clusterIP makes the records of a Service with addresses (§2.3), and the names
// of its endpoints, which CoreDNS has too.
func (b *builder) clusterIP(r *records, s *model.Snapshot, svc *model.Service, owner []byte, reverse bool) {
	// CoreDNS shares 100 among the addresses and ports together.
	all := weight(len(svc.ClusterIPs) * len(svc.Ports))
	for _, ip := range svc.ClusterIPs {
		r.addAddr(owner, b.ttl, ip)
		if reverse {
			r.pointers = append(r.pointers, pointer{ip, string(owner), wire.TypePTR})
		}
	}
	for _, p := range svc.Ports {
		r.add(owner, wire.TypeSRV, b.ttl, srv(all, p.Port, owner))
		name, ok := portName(p.Name, p.Protocol, owner)
		if !ok {
			continue
		}
		for _, ip := range svc.ClusterIPs {
			r.addAddr(name, b.ttl, ip)
		}
		r.add(name, wire.TypeSRV, b.ttl, srv(weight(len(svc.ClusterIPs)), p.Port, owner))
	}
	full := b.hasAddressLikeHostname(s, svc)
	for ep := range b.endpoints(s, svc) {
		b.endpoint(r, ep, owner, reverse, full)
	}
}

// headless makes the records of a Service without address (§2.4): without a
// ready endpoint there are none.
func (b *builder) headless(r *records, s *model.Snapshot, svc *model.Service, owner []byte, reverse bool) {
	type target struct {
		port   uint16
		name   string
		target string
	}
	srvs := map[target]bool{}
	counts := map[string]int{} // records that share the weight, by owner
	seen := map[endpointPort]bool{}
	full, near := b.hasAddressLikeHostname(s, svc), b.nearest(s, svc)
	for ep := range b.endpoints(s, svc) {
		r.addAddr(owner, b.ttl, ep.addr)
		if near[ep.ep] {
			r.addNear(owner, b.ttl, ep)
		}
		host := b.endpoint(r, ep, owner, reverse, full)
		for _, p := range ep.slice.Ports {
			if host == "" || p.Port == 0 || seen[endpointPort{ep.addr, p.Name, p.Protocol, p.Port}] {
				continue
			}
			seen[endpointPort{ep.addr, p.Name, p.Protocol, p.Port}] = true
			srvs[target{p.Port, string(owner), host}] = true
			counts[string(owner)]++
			if name, ok := portName(p.Name, p.Protocol, owner); ok {
				r.addAddr(name, b.ttl, ep.addr)
				srvs[target{p.Port, string(name), host}] = true
				counts[string(name)]++
			}
		}
	}
	for t := range srvs {
		r.add([]byte(t.name), wire.TypeSRV, b.ttl, srv(weight(counts[t.name]), t.port, []byte(t.target)))
	}
}

type endpointPort struct {
	addr     netip.Addr
	name     string
	protocol corev1.Protocol
	port     uint16
}

// endpoint makes the name of one endpoint below its Service's and returns it;
// empty if it were too long. A name that is made of the address takes only the
// record, with the Service's, unless full is set.
func (b *builder) endpoint(r *records, ep endpointAddr, owner []byte, reverse, full bool) string {
	host := b.hostname(ep)
	name := append(wire.AppendLabel(make([]byte, 0, 96), host), owner...)
	if len(name) > wire.MaxName {
		return ""
	}
	dashed := !full && host == Dashed(ep.addr)
	if dashed {
		r.addDashed(owner, b.ttl, ep.addr)
	} else {
		r.addAddr(name, b.ttl, ep.addr)
	}
	switch { // reverse names lead to the first zone
	case reverse && dashed:
		service := owner[:len(owner)-len(svcLabel)-len(b.apexes[0])]
		r.pointers = append(r.pointers, pointer{ep.addr, string(service), typeDashedPTR})
	case reverse:
		r.pointers = append(r.pointers, pointer{ep.addr, string(name), typeEndpointPTR})
	}
	return string(name)
}

type endpointAddr struct {
	addr  netip.Addr
	slice *model.EndpointSlice
	ep    *model.Endpoint
}

// endpoints yields each address of each ready endpoint. A Service that tolerates
// unready ones has all of them.
func (b *builder) endpoints(s *model.Snapshot, svc *model.Service) func(func(endpointAddr) bool) {
	return func(yield func(endpointAddr) bool) {
		if b.Filter.NoEndpoints {
			return
		}
		for slice := range model.SlicesByService.Find(s, svc.Namespace+"/"+svc.Name) {
			for i := range slice.Endpoints {
				ep := &slice.Endpoints[i]
				if !ep.Ready && !svc.PublishNotReady {
					continue
				}
				if ep.Addr.IsValid() && !yield(endpointAddr{ep.Addr.Unmap(), slice, ep}) {
					return
				}
				for _, a := range ep.MoreAddrs() {
					if a.IsValid() && !yield(endpointAddr{a.Unmap(), slice, ep}) {
						return
					}
				}
			}
		}
	}
}

// hostname returns the label of an endpoint, as CoreDNS makes it where the
// endpoint has none.
func (b *builder) hostname(ep endpointAddr) string {
	if h := ep.ep.Hostname(); h != "" && len(h) <= wire.MaxLabel && !strings.Contains(h, ".") {
		return strings.ToLower(h)
	}
	if p := ep.ep.Pod; b.EndpointPodNames && p != "" && len(p) <= wire.MaxLabel && !strings.Contains(p, ".") {
		return strings.ToLower(p)
	}
	return Dashed(ep.addr)
}

// Dashed returns an address as a label: with dashes, and a zero after a last one
// because no label of a host may end with it.
func Dashed(addr netip.Addr) string {
	s := strings.NewReplacer(".", "-", ":", "-").Replace(addr.WithZone("").String())
	if strings.HasSuffix(s, "-") {
		s += "0"
	}
	return s
}

// portName returns _port._protocol below a Service's name. Unnamed ports have
// none (§2.3.2).
func portName(port string, protocol corev1.Protocol, owner []byte) ([]byte, bool) {
	if port == "" || len(port) >= wire.MaxLabel {
		return nil, false
	}
	if protocol == "" {
		protocol = corev1.ProtocolTCP
	}
	name := wire.AppendLabel(make([]byte, 0, 96), "_"+strings.ToLower(port))
	name = wire.AppendLabel(name, "_"+strings.ToLower(string(protocol)))
	return append(name, owner...), true
}

func srv(weight, port uint16, target []byte) []byte {
	data := binary.BigEndian.AppendUint16(make([]byte, 0, 6+len(target)), 0)
	data = binary.BigEndian.AppendUint16(data, weight)
	data = binary.BigEndian.AppendUint16(data, port)
	return append(data, target...)
}

// weight shares 100 among n records, as CoreDNS does.
func weight(n int) uint16 { return uint16(max(1, 100/max(1, n))) }

// system makes what the zone has of itself: its version, its name server and the
// names that all others are below.
func (b *builder) system(s *model.Snapshot) *records {
	r := &records{}
	for _, apex := range b.apexes {
		r.holds = append(r.holds, string(apex), string(below(apex, "svc")), string(below(apex, "pod")))
		version := wire.AppendLabel(nil, SchemaVersion) // a character-string has a label's form
		r.add(below(apex, "dns-version"), wire.TypeTXT, b.ttl, version)
		ns := below(apex, "ns", "dns")
		named := false
		for _, addr := range b.nameservers(s) {
			r.addAddr(ns, b.ttl, addr.Unmap())
			for svc := range model.ServicesByIP.Find(s, addr.Unmap().String()) {
				named = true
				r.add(apex, wire.TypeNS, b.ttl, below(apex, svc.Name, svc.Namespace, "svc"))
			}
		}
		if !named {
			r.add(apex, wire.TypeNS, b.ttl, ns)
		}
	}
	return r.finish()
}

// nameservers returns the addresses under which clients reach this server.
func (b *builder) nameservers(s *model.Snapshot) []netip.Addr {
	svc, ok := model.Services.Get(s, b.Service.Namespace, b.Service.Name)
	if !ok {
		return b.Nameservers
	}
	return slices.Concat(b.Nameservers, svc.ClusterIPs)
}
