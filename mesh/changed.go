package mesh

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/model"
)

// dependency is what of a Service a unit depends on.
type dependency uint8

const (
	onDefinition dependency = 1 << iota // that it exists, its ports and subsets
	onEndpoints
)

// touch marks the units that depend on a Service in this way.
func (p *Planner) touch(svc model.Name, what dependency) {
	p.dirty.units[unitKey{service: svc}] = struct{}{}
	for key, on := range p.usedBy[svc] {
		if on&what != 0 {
			p.dirty.units[key] = struct{}{}
		}
	}
}

func (p *Planner) serviceChanged(up model.Update, key model.Key) {
	name := model.Name{Namespace: key.Namespace, Name: key.Name}
	p.touch(name, onDefinition|onEndpoints)
	if p.conf.SplitsOnly {
		return
	}
	// The protocol of a workload's port is that of the Services that name it.
	old, _ := model.Services.Get(up.Old, key.Namespace, key.Name)
	svc, _ := model.Services.Get(up.New, key.Namespace, key.Name)
	if old != nil && svc != nil && slices.Equal(old.Ports, svc.Ports) {
		return
	}
	for slice := range model.SlicesByService.Find(up.New, name.String()) {
		p.touchPods(slice)
	}
}

func (p *Planner) touchPods(slice *model.EndpointSlice) {
	for i := range slice.Endpoints {
		p.touchWorkload(podKey(slice, &slice.Endpoints[i]))
	}
}

// touchWorkload marks the Pods that a key of podSlices means.
func (p *Planner) touchWorkload(key model.Name) {
	addr, is := strings.CutPrefix(key.Name, "/")
	if !is {
		p.dirty.workloads[key] = struct{}{}
		return
	}
	for pod := range podsByAddr(p.snap, key.Namespace, addr) {
		p.dirty.workloads[model.Name{Namespace: pod.Namespace, Name: pod.Name}] = struct{}{}
	}
}

func (p *Planner) sliceChanged(up model.Update, key model.Key) {
	name := model.Name{Namespace: key.Namespace, Name: key.Name}
	old, _ := model.EndpointSlices.Get(up.Old, key.Namespace, key.Name)
	next, _ := model.EndpointSlices.Get(up.New, key.Namespace, key.Name)
	pods := map[model.Name]int{} // 1: in old, 2: in new, 3: in both
	for i, s := range []*model.EndpointSlice{old, next} {
		if s == nil {
			continue
		}
		if s.Service != "" {
			p.touch(model.Name{Namespace: s.Namespace, Name: s.Service}, onEndpoints)
		}
		for j := range s.Endpoints {
			pods[podKey(s, &s.Endpoints[j])] |= i + 1
		}
	}
	samePorts := old != nil && next != nil && old.Service == next.Service && slices.Equal(old.Ports, next.Ports)
	for pod, in := range pods {
		set := p.podSlices[pod]
		switch {
		case in&2 == 0:
			if delete(set, name); len(set) == 0 {
				delete(p.podSlices, pod)
			}
		case set == nil:
			p.podSlices[pod] = map[model.Name]struct{}{name: {}}
		default:
			set[name] = struct{}{}
		}
		if in == 3 && samePorts {
			continue
		}
		p.touchWorkload(pod)
	}
}

func (p *Planner) podChanged(up model.Update, key model.Key) {
	old, _ := model.Pods.Get(up.Old, key.Namespace, key.Name)
	next, _ := model.Pods.Get(up.New, key.Namespace, key.Name)
	if old != nil && next != nil && samePod(old, next) {
		return
	}
	p.dirty.workloads[model.Name{Namespace: key.Namespace, Name: key.Name}] = struct{}{}
	for _, pod := range []*model.Pod{old, next} {
		if pod != nil {
			p.touchServicesOf(pod)
		}
	}
}

// samePod reports whether two versions of a Pod are the same to the mesh.
func samePod(a, b *model.Pod) bool {
	return maps.Equal(a.Labels, b.Labels) && a.ServiceAccount == b.ServiceAccount &&
		HasSidecar(a) == HasSidecar(b) && slices.Equal(a.IPs, b.IPs) && a.UID == b.UID &&
		a.HostNetwork == b.HostNetwork && a.Terminated == b.Terminated
}

// touchServicesOf marks what has the Pod among its endpoints.
func (p *Planner) touchServicesOf(pod *model.Pod) {
	for slice := range p.slicesOf(pod) {
		if s, ok := model.EndpointSlices.Get(p.snap, slice.Namespace, slice.Name); ok && s.Service != "" {
			p.touch(model.Name{Namespace: s.Namespace, Name: s.Service}, onEndpoints)
		}
	}
}

func (p *Planner) virtualServiceChanged(key model.Key) {
	old := p.virtual[key]
	vs, exists := model.VirtualServices.Get(p.snap, key.Namespace, key.Name)
	next := old
	delete(p.refused, key)
	if !exists {
		next = nil
	} else if read, bad := readVirtualService(vs, p.conf.ClusterDomain); bad != nil {
		p.refused[key] = bad
	} else {
		next = read
	}
	p.dirty.reports[key] = struct{}{}
	if next == old {
		return
	}
	if next == nil {
		delete(p.virtual, key)
	} else {
		p.virtual[key] = next
	}
	for _, v := range []*virtualService{old, next} {
		if v == nil {
			continue
		}
		for _, host := range v.hosts {
			p.rehost(host, old, next)
		}
	}
}

// rehost puts next in the place of old among the VirtualServices of a host.
func (p *Planner) rehost(host string, old, next *virtualService) {
	list := slices.DeleteFunc(slices.Clone(p.byHost[host]), func(v *virtualService) bool { return v == old || v == next })
	if next != nil && slices.Contains(next.hosts, host) {
		list = append(list, next)
		slices.SortFunc(list, func(a, b *virtualService) int { return older(a.created, b.created, a.key, b.key) })
	}
	if len(list) == 0 {
		delete(p.byHost, host)
	} else {
		p.byHost[host] = list
	}
	for _, v := range list {
		p.dirty.reports[v.key] = struct{}{} // who wins may have changed
	}
	p.touchHost(host)
}

func (p *Planner) destinationRuleChanged(key model.Key) {
	old := p.destRules[key]
	dr, exists := model.DestinationRules.Get(p.snap, key.Namespace, key.Name)
	next := old
	delete(p.refused, key)
	if !exists {
		next = nil
	} else if read, bad := readDestinationRule(dr, p.conf.ClusterDomain); bad != nil {
		p.refused[key] = bad
	} else {
		next = read
	}
	p.dirty.reports[key] = struct{}{}
	if next == old {
		return
	}
	delete(p.destRules, key)
	if next != nil {
		p.destRules[key] = next
	}
	for _, d := range []*destinationRule{old, next} {
		if d == nil {
			continue
		}
		list := slices.DeleteFunc(slices.Clone(p.byTarget[d.service]), func(o *destinationRule) bool { return o == old || o == next })
		if next != nil && next.service == d.service {
			list = append(list, next)
			slices.SortFunc(list, func(a, b *destinationRule) int {
				return cmp.Or(compareBool(b.key.Namespace == d.service.Namespace, a.key.Namespace == d.service.Namespace),
					older(a.created, b.created, a.key, b.key))
			})
		}
		if len(list) == 0 {
			delete(p.byTarget, d.service)
		} else {
			p.byTarget[d.service] = list
		}
		for _, o := range list {
			p.dirty.reports[o.key] = struct{}{}
		}
		p.touch(d.service, onDefinition|onEndpoints)
	}
}

// ruleOf returns the DestinationRule of a Service, or nil.
func (p *Planner) ruleOf(svc model.Name) *destinationRule {
	if list := p.byTarget[svc]; len(list) > 0 {
		return list[0]
	}
	return nil
}

func (p *Planner) peerAuthChanged(key model.Key) {
	old := p.peers.remove(key)
	pa, exists := model.PeerAuthentications.Get(p.snap, key.Namespace, key.Name)
	delete(p.refused, key)
	next := old
	if !exists {
		next = nil
	} else if read, bad := readPeerAuth(pa, p.peers.isRoot(key.Namespace)); bad != nil {
		p.refused[key] = bad
	} else {
		next = read
	}
	p.dirty.reports[key] = struct{}{}
	if next != nil {
		p.peers.put(next)
	}
	for _, other := range p.peers.byNS[key.Namespace] {
		p.dirty.reports[other.key] = struct{}{}
	}
	if next == old {
		return
	}
	if p.peers.isRoot(key.Namespace) {
		for name := range p.workloads {
			p.dirty.workloads[name] = struct{}{}
		}
		return
	}
	for pod := range model.Pods.In(p.snap, key.Namespace) {
		for _, pa := range []*peerAuth{old, next} {
			if pa != nil && matches(pa.selector, pod.Labels) {
				p.dirty.workloads[model.Name{Namespace: pod.Namespace, Name: pod.Name}] = struct{}{}
			}
		}
	}
}
