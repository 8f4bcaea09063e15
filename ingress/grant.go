package ingress

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
)

// reference is from an object to one that may be in another namespace.
type reference struct {
	fromKind      gatewayv1.Kind // of the group gateway.networking.k8s.io
	fromNamespace string
	toKind        gatewayv1.Kind // of the core group
	to            model.Name
}

// permitted reports whether a reference stays in its namespace or some
// ReferenceGrant there allows it (ReferenceGrantSpec).
func (p *Planner) permitted(r reference) bool {
	if r.fromNamespace == r.to.Namespace {
		return true
	}
	for g := range model.ReferenceGrants.In(p.snap, r.to.Namespace) {
		if grantFrom(g, r) && grantTo(g, r) {
			return true
		}
	}
	return false
}

func grantFrom(g *gatewayv1.ReferenceGrant, r reference) bool {
	for _, f := range g.Spec.From {
		if f.Group == gatewayv1.GroupName && f.Kind == r.fromKind && string(f.Namespace) == r.fromNamespace {
			return true
		}
	}
	return false
}

func grantTo(g *gatewayv1.ReferenceGrant, r reference) bool {
	for _, t := range g.Spec.To {
		if t.Group == "" && t.Kind == r.toKind && (t.Name == nil || *t.Name == "" || string(*t.Name) == r.to.Name) {
			return true
		}
	}
	return false
}
