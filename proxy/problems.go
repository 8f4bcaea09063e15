package proxy

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
)

// checkFamilies tells of addresses that the Service has in a family that it is
// not in. They are left alone, as kube-proxy does.
func checkFamilies(svc *model.Service, s *Service) {
	fams := families(svc)
	if len(fams) == 0 {
		return // and no ports either
	}
	check := func(field string, list []netip.Addr) {
		for i, addr := range list {
			if slices.Contains(fams, FamilyOf(addr)) {
				continue
			}
			at := field
			if field != "status.loadBalancer.ingress" { // others of it were left out
				at = fmt.Sprintf("%s[%d]", field, i)
			}
			s.problem("WrongFamily", fmt.Sprintf("%s: expected an address of a family in spec.ipFamilies %v, found %s", at, svc.Families, addr))
		}
	}
	check("spec.clusterIPs", svc.ClusterIPs)
	check("spec.externalIPs", svc.ExternalIPs)
	if svc.Type == corev1.ServiceTypeLoadBalancer {
		check("status.loadBalancer.ingress", svc.LoadBalancerIPs)
		checkSources(svc, s)
	}
}

// checkSources tells of addresses of a load balancer that nobody may use, because
// all source ranges are of the other family. A kube-proxy lets everybody use them.
func checkSources(svc *model.Service, s *Service) {
	if len(svc.SourceRanges) == 0 {
		return
	}
	for i, addr := range svc.LoadBalancerIPs {
		family := FamilyOf(addr)
		same := func(a netip.Addr) bool { return FamilyOf(a) == family }
		if slices.ContainsFunc(svc.LoadBalancerIPs[:i], same) || !slices.Contains(families(svc), family) ||
			slices.ContainsFunc(svc.SourceRanges, func(p netip.Prefix) bool { return same(p.Addr()) }) {
			continue
		}
		s.problem("NoSourceRange", fmt.Sprintf("spec.loadBalancerSourceRanges: expected a range of %s too, since the load balancer has %s, found none, so nobody may use that",
			map[Family]string{IPv4: "IPv4", IPv6: "IPv6"}[family], addr))
	}
}

// enoughProblems is how many problems say enough of a Service. Its conflicts with
// others are told whatever their number.
const enoughProblems = 8

// checkPort tells of a port that none of the Service's EndpointSlices has,
// although they have endpoints.
func (p *Planner) checkPort(snap *model.Snapshot, svc *model.Service, port *model.ServicePort, family Family, proto Protocol, s *Service) {
	if len(s.Problems) >= enoughProblems {
		return
	}
	var first *model.EndpointSlice
	for slice := range p.slicesOf(snap, svc) {
		if slice.IPv6 != (family == IPv6) || len(slice.Endpoints) == 0 {
			continue
		}
		found := false
		portsOf(slice, func(id portID, _ slicePort) { found = found || id == portID{port.Name, family, proto} })
		if found {
			return
		}
		if first == nil {
			first = slice
		}
	}
	if first != nil {
		s.problem("NoEndpointPort", fmt.Sprintf("spec.ports[%s]: expected a port named %q of %s in an EndpointSlice of the Service, found none, though %s has endpoints",
			portText(port), port.Name, port.Protocol, first.Name))
	}
}
