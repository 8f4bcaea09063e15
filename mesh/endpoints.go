package mesh

import (
	"iter"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/mesh/spiffe"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// podKey names the Pod of an endpoint in podSlices: by its name where the
// slice has it, else by its address, which no Pod has as a name.
func podKey(slice *model.EndpointSlice, ep *model.Endpoint) model.Name {
	if ep.Pod != "" {
		return model.Name{Namespace: slice.Namespace, Name: ep.Pod}
	}
	return addrKey(slice.Namespace, ep.Addr)
}

func addrKey(namespace string, addr netip.Addr) model.Name {
	return model.Name{Namespace: namespace, Name: "/" + addr.String()}
}

// podOf returns the Pod behind an endpoint, or nil. A slice that was written
// by hand may not name its Pods; then the address tells.
func podOf(snap *model.Snapshot, slice *model.EndpointSlice, ep *model.Endpoint) *model.Pod {
	if ep.Pod != "" {
		pod, _ := model.Pods.Get(snap, slice.Namespace, ep.Pod)
		return pod
	}
	return podByAddr(snap, slice.Namespace, ep.Addr.String())
}

func podByAddr(snap *model.Snapshot, namespace, addr string) *model.Pod {
	for pod := range podsByAddr(snap, namespace, addr) {
		return pod
	}
	return nil
}

func podsByAddr(snap *model.Snapshot, namespace, addr string) iter.Seq[*model.Pod] {
	return func(yield func(*model.Pod) bool) {
		for pod := range model.PodsByIP.Find(snap, addr) {
			if pod.Namespace == namespace && !yield(pod) {
				return
			}
		}
	}
}

// slicesOf yields the names of the slices that have the Pod among their
// endpoints.
func (p *Planner) slicesOf(pod *model.Pod) iter.Seq[model.Name] {
	return func(yield func(model.Name) bool) {
		keys := []model.Name{{Namespace: pod.Namespace, Name: pod.Name}}
		for _, ip := range pod.IPs {
			keys = append(keys, addrKey(pod.Namespace, ip))
		}
		for _, key := range keys {
			for slice := range p.podSlices[key] {
				if !yield(slice) {
					return
				}
			}
		}
	}
}

// selection is the part of a Service's endpoints that a cluster holds.
type selection struct {
	svc    model.Name
	port   model.ServicePort
	labels map[string]string // of the Pods; nil: all
	tls    tlsMode
}

// members yields the endpoints of a selection, with the port they have and
// their Pods.
func (p *Planner) members(sel selection) iter.Seq2[member, *model.Pod] {
	return func(yield func(member, *model.Pod) bool) {
		for slice := range model.SlicesByService.Find(p.snap, sel.svc.String()) {
			port, ok := slicePort(slice, sel.port)
			if !ok {
				continue
			}
			for i := range slice.Endpoints {
				ep := &slice.Endpoints[i]
				pod := podOf(p.snap, slice, ep)
				if sel.labels != nil && (pod == nil || !matches(sel.labels, pod.Labels)) {
					continue
				}
				if !yield(member{slice, ep, port}, pod) {
					return
				}
			}
		}
	}
}

type member struct {
	slice *model.EndpointSlice
	ep    *model.Endpoint
	port  uint16
}

func slicePort(slice *model.EndpointSlice, port model.ServicePort) (uint16, bool) {
	for _, sp := range slice.Ports {
		if sp.Name == port.Name && (sp.Protocol == corev1.ProtocolTCP || sp.Protocol == "") {
			return sp.Port, true
		}
	}
	return 0, false
}

// endpoints returns the endpoints of one family that can be used, in order of
// address. What is ready is used; what only ends is drained, unless there is
// nothing else: then it is used while it serves (KEP-1669).
func (p *Planner) endpoints(sel selection, ipv6 bool) []route.Endpoint {
	var ready, ending []route.Endpoint
	for m, pod := range p.members(sel) {
		if m.slice.IPv6 != ipv6 {
			continue
		}
		out := route.Endpoint{
			Addr:   netip.AddrPortFrom(m.ep.Addr, m.port),
			Weight: uint32(max(m.slice.Weight, 0)),
			Mesh:   p.takesMTLS(sel.tls, pod, m.port),
		}
		if m.slice.Weight == 1 {
			out.Weight = 0 // the usual weight, so that the value says less
		}
		switch {
		case m.ep.Ready && m.slice.Weight != 0:
			ready = append(ready, out)
		case m.ep.Serving && (m.ep.Terminating || m.ep.Ready):
			ending = append(ending, out)
		}
	}
	for i := range ending {
		ending[i].Draining = len(ready) > 0
	}
	all := append(ready, ending...)
	slices.SortFunc(all, func(a, b route.Endpoint) int {
		if c := a.Addr.Compare(b.Addr); c != 0 {
			return c
		}
		return compareBool(a.Draining, b.Draining) // of two of one address the ready one stays
	})
	return slices.CompactFunc(all, func(a, b route.Endpoint) bool { return a.Addr == b.Addr })
}

// takesMTLS reports whether clients speak mutual TLS to a port of a Pod.
func (p *Planner) takesMTLS(mode tlsMode, pod *model.Pod, port uint16) bool {
	switch {
	case mode == tlsMutual:
		return true
	case mode == tlsNone || pod == nil:
		return false
	}
	w := p.workloads[model.Name{Namespace: pod.Namespace, Name: pod.Name}]
	return w != nil && w.clients.of(port)
}

// peerIDs adds the identities that servers of a selection may have, whether
// they are ready or not: a cluster should not change because a Pod gets ready.
func (p *Planner) peerIDs(ids map[string]struct{}, sel selection) {
	for _, pod := range p.members(sel) {
		if pod == nil || !HasSidecar(pod) {
			continue
		}
		ids[p.identity(pod)] = struct{}{}
	}
}

func (p *Planner) identity(pod *model.Pod) string {
	return spiffe.ID{TrustDomain: p.conf.TrustDomain, Namespace: pod.Namespace, ServiceAccount: serviceAccount(pod)}.String()
}

// clientMTLS returns how clients of selections prove themselves, nil if no
// server takes it.
func (p *Planner) clientMTLS(sels ...selection) *route.ClientMTLS {
	ids := map[string]struct{}{}
	wanted := false
	for _, sel := range sels {
		if sel.tls == tlsNone {
			continue
		}
		wanted = wanted || sel.tls == tlsMutual
		p.peerIDs(ids, sel)
	}
	if len(ids) == 0 && !wanted {
		return nil
	}
	return &route.ClientMTLS{PeerIDs: sortedKeys(ids), ALPN: route.ALPNMesh}
}
