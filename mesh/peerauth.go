package mesh

import (
	"fmt"
	"maps"
	"slices"
	"time"

	security "istio.io/api/security/v1"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// peerAuth is a PeerAuthentication read once. An empty mode inherits.
type peerAuth struct {
	key        model.Key
	generation int64
	created    time.Time
	selector   map[string]string
	mode       route.MTLSMode
	ports      map[uint16]route.MTLSMode
	ignored    []string
}

func readPeerAuth(pa *istiosecurity.PeerAuthentication, root bool) (*peerAuth, *refusal) {
	out := &peerAuth{
		key:        model.PeerAuthentications.Key(pa),
		generation: pa.Generation,
		created:    pa.CreationTimestamp.Time,
		selector:   pa.Spec.GetSelector().GetMatchLabels(),
		ports:      map[uint16]route.MTLSMode{},
	}
	if root && len(out.selector) > 0 {
		return nil, unsupported("selector: a policy of the root namespace holds for the whole mesh")
	}
	var bad *refusal
	if out.mode, bad = readMode("mtls.mode", pa.Spec.Mtls); bad != nil {
		return nil, bad
	}
	for _, port := range slices.Sorted(maps.Keys(pa.Spec.PortLevelMtls)) {
		at := fmt.Sprintf("portLevelMtls[%d]", port)
		if port == 0 || port > 65535 {
			return nil, invalid("%s: expected a port", at)
		}
		mode, bad := readMode(at+".mode", pa.Spec.PortLevelMtls[port])
		if bad != nil {
			return nil, bad
		}
		if len(out.selector) == 0 {
			// Istio takes ports only together with a selector.
			out.ignored = append(out.ignored, at+" (needs a selector)")
		} else if mode != "" {
			out.ports[uint16(port)] = mode
		}
	}
	return out, nil
}

func readMode(at string, m *security.PeerAuthentication_MutualTLS) (route.MTLSMode, *refusal) {
	switch m.GetMode() {
	case security.PeerAuthentication_MutualTLS_UNSET:
		return "", nil
	case security.PeerAuthentication_MutualTLS_DISABLE:
		return route.Disable, nil
	case security.PeerAuthentication_MutualTLS_PERMISSIVE:
		return route.Permissive, nil
	case security.PeerAuthentication_MutualTLS_STRICT:
		return route.Strict, nil
	}
	return "", invalid("%s: unknown mode %d", at, m.GetMode())
}

// peerPolicies holds the PeerAuthentications that could be read, by namespace,
// the oldest first.
type peerPolicies struct {
	roots []string // root namespaces
	byNS  map[string][]*peerAuth
}

func (p *peerPolicies) isRoot(ns string) bool { return slices.Contains(p.roots, ns) }

// remove takes a policy out and returns it, nil if it was not there.
func (p *peerPolicies) remove(key model.Key) *peerAuth {
	list := p.byNS[key.Namespace]
	for i, pa := range list {
		if pa.key == key {
			p.byNS[key.Namespace] = slices.Delete(slices.Clone(list), i, i+1)
			return pa
		}
	}
	return nil
}

func (p *peerPolicies) put(pa *peerAuth) {
	list := append(slices.Clone(p.byNS[pa.key.Namespace]), pa)
	slices.SortFunc(list, func(a, b *peerAuth) int { return older(a.created, b.created, a.key, b.key) })
	p.byNS[pa.key.Namespace] = list
}

// rival returns the older policy that stands in the place of this one, or nil.
// Policies with selectors compete only where they select the same workload, so
// only equal selectors are called a conflict.
func (p *peerPolicies) rival(pa *peerAuth) *peerAuth {
	for _, other := range p.byNS[pa.key.Namespace] {
		if other == pa {
			return nil
		}
		if maps.Equal(other.selector, pa.selector) {
			return other
		}
	}
	return nil
}

// modes are how a workload takes connections of the mesh.
type modes struct {
	def   route.MTLSMode
	ports map[uint16]route.MTLSMode
}

func (m modes) of(port uint16) route.MTLSMode {
	if mode, ok := m.ports[port]; ok {
		return mode
	}
	return m.def
}

// of resolves the policies of a workload as Istio does: the whole mesh's, then
// the namespace's, then the oldest that selects the workload, each over the one
// before; PERMISSIVE where nothing is said.
func (p *peerPolicies) of(pod *model.Pod) modes {
	out := modes{def: route.Permissive}
	over := func(mode route.MTLSMode) {
		if mode != "" {
			out.def = mode
		}
	}
	for _, root := range p.roots {
		if pa := first(p.byNS[root], func(pa *peerAuth) bool { return len(pa.selector) == 0 }); pa != nil {
			over(pa.mode)
			break
		}
	}
	if p.isRoot(pod.Namespace) {
		return out
	}
	own := p.byNS[pod.Namespace]
	if pa := first(own, func(pa *peerAuth) bool { return len(pa.selector) == 0 }); pa != nil {
		over(pa.mode)
	}
	if pa := first(own, func(pa *peerAuth) bool { return len(pa.selector) > 0 && matches(pa.selector, pod.Labels) }); pa != nil {
		over(pa.mode)
		out.ports = pa.ports
	}
	return out
}

func first(list []*peerAuth, take func(*peerAuth) bool) *peerAuth {
	if i := slices.IndexFunc(list, take); i >= 0 {
		return list[i]
	}
	return nil
}

// matches reports whether labels hold all of want.
func matches(want, labels map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
