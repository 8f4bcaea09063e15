package zone

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

// typeNearA and typeNearAAAA are of those address records of a Service that
// begin an answer on this node, again. They are of the range for private use and
// never sent.
const (
	typeNearA    = 0xff04
	typeNearAAAA = 0xff05
)

// nearType returns the type of the near ones among the records of a type, 0 if
// there are none such.
func nearType(typ uint16) uint16 {
	switch typ {
	case wire.TypeA:
		return typeNearA
	case wire.TypeAAAA:
		return typeNearAAAA
	}
	return 0
}

// asksForTopology reports whether a Service's clients are to be sent to near
// endpoints: spec.trafficDistribution (KEP-4444), or the annotation of before.
func asksForTopology(svc *model.Service) bool {
	mode := svc.Annotations[corev1.AnnotationTopologyMode]
	return svc.TrafficDistribution != "" || mode == "Auto" || mode == "auto"
}

// nearest returns those endpoints that the Service wants this node's clients to
// use first: those that hints give to the node, else to its zone. Where nobody
// has written hints, they are those on the node or in the zone. Nil is all.
//
// A kube-proxy ignores hints unless all endpoints have them, for it would use no
// others; here the others come after.
func (b *builder) nearest(s *model.Snapshot, svc *model.Service) map[*model.Endpoint]bool {
	if b.Node == "" || !asksForTopology(svc) {
		return nil
	}
	zone := ""
	if node, ok := model.Nodes.Get(s, "", b.Node); ok {
		zone = node.Zone()
	}
	var onNode, inZone, hereNode, hereZone []*model.Endpoint
	for a := range b.endpoints(s, svc) {
		ep := a.ep
		if slices.Contains(ep.ForNodes(), b.Node) {
			onNode = append(onNode, ep)
		}
		if zone != "" && slices.Contains(ep.ForZones(), zone) {
			inZone = append(inZone, ep)
		}
		if ep.Node == b.Node && svc.TrafficDistribution == corev1.ServiceTrafficDistributionPreferSameNode {
			hereNode = append(hereNode, ep)
		}
		if zone != "" && ep.Zone == zone {
			hereZone = append(hereZone, ep)
		}
	}
	for _, some := range [...][]*model.Endpoint{onNode, inZone, hereNode, hereZone} {
		if len(some) > 0 {
			near := make(map[*model.Endpoint]bool, len(some))
			for _, ep := range some {
				near[ep] = true
			}
			return near
		}
	}
	return nil
}

// addNear adds the record of a near address to those of the same name.
func (r *records) addNear(name []byte, ttl uint32, ep endpointAddr) {
	typ, addr := addrType(ep.addr), ep.addr.AsSlice()
	r.sets = append(r.sets, record{string(name), nearType(typ), wire.AppendPacked(nil, typ, ttl, addr)})
}

// movedServices returns the Services that ask for near endpoints, if this node
// has another zone than before.
func (b *builder) movedServices(u model.Update) []model.Name {
	was, _ := model.Nodes.Get(u.Old, "", b.Node)
	is, _ := model.Nodes.Get(u.New, "", b.Node)
	if zoneOf(was) == zoneOf(is) {
		return nil
	}
	var out []model.Name
	for svc := range model.Services.All(u.New) {
		if svc.Headless && asksForTopology(svc) {
			out = append(out, model.Name{Namespace: svc.Namespace, Name: svc.Name})
		}
	}
	return out
}

func zoneOf(n *model.Node) string {
	if n == nil {
		return ""
	}
	return n.Zone()
}
