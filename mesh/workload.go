package mesh

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// workload is a Pod with a sidecar.
//
// A change of its mode takes up to three steps, because its clients cannot
// change in the same moment as itself: first it takes both mutual TLS and
// plaintext, then its clients change to what it will take, then it takes only
// that. Each step waits until the proxies acknowledged the one before.
type workload struct {
	uid       string
	desired   *route.Inbound
	published *route.Inbound
	clients   acceptance // what clients were told
	waiting   phase
	since     time.Time // when this control plane first saw it wait
}

type phase uint8

const (
	idle       phase = iota
	forServer        // to take both
	forClients       // to change
)

// acceptance says to which ports clients speak mutual TLS.
type acceptance struct {
	def   bool
	ports map[uint16]bool // those that differ from def
}

func (a acceptance) of(port uint16) bool {
	if v, ok := a.ports[port]; ok {
		return v
	}
	return a.def
}

// acceptanceOf is what an inbound listener takes in the end.
func acceptanceOf(in *route.Inbound) acceptance {
	a := acceptance{def: in.Default != route.Disable}
	for _, p := range in.Ports {
		if takes := p.Mode != route.Disable; takes != a.def {
			if a.ports == nil {
				a.ports = map[uint16]bool{}
			}
			a.ports[p.Port] = takes
		}
	}
	return a
}

func modeOf(in *route.Inbound, port uint16) route.MTLSMode {
	for _, p := range in.Ports {
		if p.Port == port {
			return p.Mode
		}
	}
	return in.Default
}

// planWorkload plans the inbound listener of a Pod.
func (p *Planner) planWorkload(name model.Name) {
	pod, ok := model.Pods.Get(p.snap, name.Namespace, name.Name)
	w := p.workloads[name]
	if !ok || !HasSidecar(pod) {
		if w != nil {
			delete(p.workloads, name)
			delete(p.staged, name)
			p.res.Changes = append(p.res.Changes, route.Remove(route.WorkloadGroup(name.Namespace, name.Name), route.KindListener, InboundListener))
		}
		return
	}
	desired := p.inbound(pod)
	if w == nil || w.uid != pod.UID {
		// A new Pod: nobody talks to it yet. Its endpoints count only once it
		// is ready, which an injected sidecar is before its application.
		p.workloads[name] = &workload{uid: pod.UID, desired: desired, clients: acceptanceOf(desired)}
		delete(p.staged, name)
		p.publish(name, p.workloads[name], desired)
		p.touchServicesOf(pod)
		return
	}
	w.desired = desired
	p.step(name, w, time.Time{}, func(route.Group) bool { return false })
}

// inbound returns what a Pod's sidecar should take in the end.
func (p *Planner) inbound(pod *model.Pod) *route.Inbound {
	type spoken struct {
		proto    route.Protocol
		declared bool
	}
	ports := map[uint16]spoken{}
	for name := range p.slicesOf(pod) {
		slice, ok := model.EndpointSlices.Get(p.snap, name.Namespace, name.Name)
		if !ok || slice.Service == "" {
			continue
		}
		svc, _ := model.Services.Get(p.snap, slice.Namespace, slice.Service)
		for _, sp := range slice.Ports {
			if sp.Protocol != corev1.ProtocolTCP && sp.Protocol != "" {
				continue
			}
			proto, declared := servicePortProtocol(svc, sp.Name)
			if proto == route.HTTP2 {
				proto = route.HTTP
			}
			// Where Services differ, one that says TCP is obeyed before one
			// that says HTTP: TCP carries HTTP, not the other way round.
			was, had := ports[sp.Port]
			if !had || declared && (!was.declared || proto == route.TCP) {
				ports[sp.Port] = spoken{proto, declared}
			}
		}
	}
	mode := p.peers.of(pod)
	in := &route.Inbound{Port: InboundPort, Default: mode.def}
	for port, s := range ports {
		in.Ports = append(in.Ports, route.InboundPort{Port: port, Protocol: s.proto, Mode: mode.of(port)})
	}
	for port, m := range mode.ports {
		if _, named := ports[port]; !named && m != mode.def {
			in.Ports = append(in.Ports, route.InboundPort{Port: port, Protocol: route.TCP, Mode: m})
		}
	}
	slices.SortFunc(in.Ports, func(a, b route.InboundPort) int { return cmp.Compare(a.Port, b.Port) })
	return in
}

func servicePortProtocol(svc *model.Service, name string) (route.Protocol, bool) {
	if svc != nil {
		for _, p := range svc.Ports {
			if isTCP(p) && p.Name == name {
				return portProtocol(p)
			}
		}
	}
	return route.TCP, false
}

func (p *Planner) publish(name model.Name, w *workload, in *route.Inbound) {
	if w.published != nil && reflect.DeepEqual(w.published, in) {
		return
	}
	w.published = in
	p.res.Changes = append(p.res.Changes, route.Set(route.WorkloadGroup(name.Namespace, name.Name),
		&route.Listener{Name: InboundListener, Inbound: in},
		model.Key{Kind: model.KindPod, Namespace: name.Namespace, Name: name.Name}))
}

// step takes the next step of a workload's change, if it is its time.
func (p *Planner) step(name model.Name, w *workload, now time.Time, acknowledged func(route.Group) bool) {
	want := acceptanceOf(w.desired)
	both, differs := bothWays(w.desired, w.clients, want)
	late := !now.IsZero() && !w.since.IsZero() && now.Sub(w.since) >= p.conf.Patience
	switch {
	case !differs:
		if w.waiting == forClients && !late && !acknowledged(route.MeshGroup) {
			// What is published takes both; a mode that changed meanwhile
			// can wait for the clients, too.
			break
		}
		w.waiting, w.since = idle, time.Time{}
		w.clients = want // the same, in the terms of the newest ports
		p.publish(name, w, w.desired)
	case w.waiting != forServer || !takesBoth(w.published, w.clients, want):
		w.waiting, w.since = forServer, time.Time{}
		p.publish(name, w, both)
	case late || acknowledged(route.WorkloadGroup(name.Namespace, name.Name)):
		w.waiting, w.since = forClients, time.Time{}
		w.clients = want
		if pod, ok := model.Pods.Get(p.snap, name.Namespace, name.Name); ok {
			p.touchServicesOf(pod)
		}
	}
	if w.waiting == idle {
		delete(p.staged, name)
		return
	}
	if w.since.IsZero() {
		w.since = now
	}
	p.staged[name] = struct{}{}
}

// bothWays is the desired listener with every port PERMISSIVE at which clients
// will change, and whether there is one.
func bothWays(desired *route.Inbound, was, want acceptance) (*route.Inbound, bool) {
	out := *desired
	out.Ports = slices.Clone(desired.Ports)
	differs := was.def != want.def
	if differs {
		out.Default = route.Permissive
	}
	seen := map[uint16]bool{}
	for i, p := range out.Ports {
		seen[p.Port] = true
		if was.of(p.Port) != want.of(p.Port) {
			out.Ports[i].Mode, differs = route.Permissive, true
		}
	}
	// A port that had a mode of its own and has none any more.
	for _, port := range slices.Sorted(maps.Keys(was.ports)) {
		if !seen[port] && was.of(port) != want.of(port) {
			out.Ports = append(out.Ports, route.InboundPort{Port: port, Protocol: route.TCP, Mode: route.Permissive})
			differs = true
		}
	}
	slices.SortFunc(out.Ports, func(a, b route.InboundPort) int { return cmp.Compare(a.Port, b.Port) })
	return &out, differs
}

// takesBoth reports whether a listener takes both where clients will change.
func takesBoth(in *route.Inbound, was, want acceptance) bool {
	if was.def != want.def && in.Default != route.Permissive {
		return false
	}
	for _, ports := range []map[uint16]bool{was.ports, want.ports} {
		for port := range ports {
			if was.of(port) != want.of(port) && modeOf(in, port) != route.Permissive {
				return false
			}
		}
	}
	return true
}

// Waiting reports whether a change waits for proxies; then [Planner.Advance]
// should be called when they have moved on.
func (p *Planner) Waiting() bool { return len(p.staged) > 0 }

// Advance takes the steps that had to wait until proxies acknowledged the ones
// before. progress must know of all that was published.
func (p *Planner) Advance(now time.Time, progress func(route.Group) route.Progress) Result {
	p.begin()
	known := map[route.Group]bool{}
	acknowledged := func(g route.Group) bool {
		done, ok := known[g]
		if !ok {
			at := progress(g)
			done = at.Proxies > 0 && at.Current == at.Proxies
			known[g] = done
		}
		return done
	}
	for name := range maps.Clone(p.staged) {
		p.step(name, p.workloads[name], now, acknowledged)
	}
	return p.settle()
}
