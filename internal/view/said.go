package view

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model/status"
)

// statement is a condition and what of its object it is about: a listener, a
// parent; nothing for the object as a whole.
type statement struct {
	metav1.Condition
	about []string
}

// said returns all conditions of a report, those within an API's status too.
func said(r status.Report) []statement {
	var out []statement
	add := func(list []metav1.Condition, about ...string) {
		for _, c := range list {
			out = append(out, statement{c, about})
		}
	}
	add(r.Conditions)
	switch v := r.Value.(type) {
	case gatewayv1.GatewayStatus:
		for _, l := range v.Listeners {
			// That its listeners are not programmed is said of the Gateway.
			for _, c := range l.Conditions {
				if c.Type != string(gatewayv1.ListenerConditionProgrammed) {
					add([]metav1.Condition{c}, "listener", string(l.Name))
				}
			}
		}
	case gatewayv1.HTTPRouteStatus:
		for _, p := range v.Parents {
			add(p.Conditions, "in", parent(p.ParentRef))
		}
	}
	return out
}

// parent names a route's parent: "Gateway shop/web listener https".
func parent(ref gatewayv1.ParentReference) string {
	kind, name := "Gateway", string(ref.Name)
	if ref.Kind != nil {
		kind = string(*ref.Kind)
	}
	if ref.Namespace != nil {
		name = string(*ref.Namespace) + "/" + name
	}
	parts := []string{kind, name}
	if ref.SectionName != nil {
		parts = append(parts, "listener", string(*ref.SectionName))
	}
	return strings.Join(parts, " ")
}

// bad reports whether a condition tells of something wrong. Most are good if
// true; a few are named after what is wrong.
func (s statement) bad() bool {
	switch s.Type {
	case string(gatewayv1.ListenerConditionConflicted), string(gatewayv1.ListenerConditionOverlappingTLSConfig),
		string(gatewayv1.RouteConditionPartiallyInvalid):
		return s.Status == metav1.ConditionTrue
	}
	return s.Status != metav1.ConditionTrue
}
