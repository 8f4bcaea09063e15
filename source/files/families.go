package files

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/source"
)

// request is what a Service asks of the API server and the model does not keep.
type request struct {
	policy      corev1.IPFamilyPolicy
	noNodePorts bool
}

func requestOf(o *source.Object) request {
	s, ok := o.API.(*corev1.Service)
	if !ok {
		return request{}
	}
	var r request
	if s.Spec.IPFamilyPolicy != nil {
		r.policy = *s.Spec.IPFamilyPolicy
	}
	r.noNodePorts = s.Spec.AllocateLoadBalancerNodePorts != nil && !*s.Spec.AllocateLoadBalancerNodePorts
	return r
}

func sameRequest(a, b *source.Object) bool { return requestOf(a) == requestOf(b) }

// slim drops of the API's object what nothing here reads any more.
func slim(o *source.Object) {
	s, ok := o.API.(*corev1.Service)
	if !ok {
		o.API = nil
		return
	}
	o.API = &corev1.Service{Spec: corev1.ServiceSpec{
		IPFamilyPolicy: s.Spec.IPFamilyPolicy, AllocateLoadBalancerNodePorts: s.Spec.AllocateLoadBalancerNodePorts,
	}}
}

// familiesOf returns a Service's families by the API server's rules
// (pkg/registry/core/service/storage/alloc.go): what is asked for by address
// or by name comes first, the policy says whether the other family is added,
// and a headless Service without a selector has all.
func (a *allocator) familiesOf(h *holder) []corev1.IPFamily {
	s := h.object.Value.(*model.Service)
	if s.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var have []corev1.IPFamily
	for _, c := range a.cidrs {
		if f := familyOf(c); !slices.Contains(have, f) {
			have = append(have, f)
		}
	}
	policy := requestOf(h.object).policy
	families := slices.Clone(s.Families)
	switch policy {
	case corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack:
	default:
		if policy != "" {
			h.invalid("spec.ipFamilyPolicy", "SingleStack, PreferDualStack or RequireDualStack", string(policy))
		}
		switch {
		case len(families) == 2 || len(s.ClusterIPs) == 2:
			policy = corev1.IPFamilyPolicyRequireDualStack
		case s.Headless && len(s.Selector) == 0 && len(families) == 0:
			policy = corev1.IPFamilyPolicyPreferDualStack
		default:
			policy = corev1.IPFamilyPolicySingleStack
		}
	}
	for i, f := range families {
		// An address that is given stands for itself.
		if !slices.Contains(have, f) && i >= len(s.ClusterIPs) {
			h.invalid(fmt.Sprintf("spec.ipFamilies[%d]", i), "a family of which there are addresses for Services", string(f))
		}
	}
	if len(families) == 0 {
		families = have[:min(len(have), 1)]
	}
	if policy == corev1.IPFamilyPolicySingleStack {
		if len(families) > 1 {
			h.invalid("spec.ipFamilyPolicy", "PreferDualStack or RequireDualStack where there are two families", string(policy))
		}
		return families[:min(len(families), 1)]
	}
	families = slices.Clone(families)
	for _, f := range have {
		if !slices.Contains(families, f) {
			families = append(families, f)
		}
	}
	if policy == corev1.IPFamilyPolicyRequireDualStack && len(families) < 2 {
		h.invalid("spec.ipFamilyPolicy", "SingleStack or PreferDualStack where Services have addresses of one family", string(policy))
	}
	return families
}

// invalid reports a field of the Service's that is passed over.
func (h *holder) invalid(field, expected, found string) {
	h.problems = append(h.problems, problem(h.object.Key, source.ReasonInvalid, source.FieldError{
		Field: field, Expected: expected, Found: fmt.Sprintf("%q", found),
	}))
}

func familyOf(p netip.Prefix) corev1.IPFamily {
	if p.Addr().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}
