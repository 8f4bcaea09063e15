package mesh

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/sluicenet/sluice/route"
)

// outbound counts what the outbound listener has to know of all Services.
type outbound struct {
	http      map[uint16]int
	tcp       map[uint16]map[netip.AddrPort]int
	changed   bool
	published *route.Listener
}

func newOutbound() outbound {
	return outbound{http: map[uint16]int{}, tcp: map[uint16]map[netip.AddrPort]int{}, changed: true}
}

// swap takes a unit's ports out and the next version's in.
func (o *outbound) swap(old, next *unit) {
	if slices.Equal(old.ports, next.ports) && slices.Equal(old.tcp, next.tcp) {
		return
	}
	o.changed = true
	for _, port := range next.ports {
		o.http[port]++
	}
	for _, vip := range next.tcp {
		if o.tcp[vip.Port()] == nil {
			o.tcp[vip.Port()] = map[netip.AddrPort]int{}
		}
		o.tcp[vip.Port()][vip]++
	}
	for _, port := range old.ports {
		if o.http[port]--; o.http[port] == 0 {
			delete(o.http, port)
		}
	}
	for _, vip := range old.tcp {
		set := o.tcp[vip.Port()]
		if set[vip]--; set[vip] == 0 {
			if delete(set, vip); len(set) == 0 {
				delete(o.tcp, vip.Port())
			}
		}
	}
}

// planOutbound plans the listener that all sidecars share. It changes only
// when a port becomes, or ceases to be, one on which HTTP is spoken, or is
// used for both HTTP and TCP.
func (p *Planner) planOutbound() {
	if !p.outbound.changed {
		return
	}
	p.outbound.changed = false
	out := &route.Outbound{
		Port:          OutboundPort,
		HTTPPorts:     slices.Sorted(maps.Keys(p.outbound.http)),
		Space:         Space,
		ServiceRanges: p.conf.ServiceCIDRs,
	}
	for _, port := range out.HTTPPorts {
		out.TCPServices = slices.AppendSeq(out.TCPServices, maps.Keys(p.outbound.tcp[port]))
	}
	slices.SortFunc(out.TCPServices, netip.AddrPort.Compare)
	next := &route.Listener{Name: OutboundListener, Outbound: out}
	if p.outbound.published != nil && reflect.DeepEqual(p.outbound.published, next) {
		return
	}
	p.outbound.published = next
	p.res.Changes = append(p.res.Changes, route.Set(route.MeshGroup, next))
}
