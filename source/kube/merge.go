package kube

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// merge is what there is to write to one object.
type merge struct {
	reports    map[string]status.Report // part -> what it says
	controller string
}

// mergers make the new status of an object of each kind from the old one, which
// they leave as it is. They work on the API's JSON, so that what others have
// written there survives even where this program has no type for it.
var mergers = map[model.KindID]func(m merge, old map[string]any) (map[string]any, error){
	model.KindGateway:            merge.gateway,
	model.KindGatewayClass:       merge.gatewayClass,
	model.KindHTTPRoute:          merge.route,
	model.KindIngress:            merge.ingress,
	model.KindVirtualService:     merge.conditions,
	model.KindDestinationRule:    merge.conditions,
	model.KindPeerAuthentication: merge.conditions,
}

// value returns the whole status that a part reports, as JSON.
func value[T any](m merge) (map[string]any, bool, error) {
	for _, part := range slices.Sorted(maps.Keys(m.reports)) {
		v := m.reports[part].Value
		if p, ok := v.(*T); ok && p != nil {
			v = *p
		}
		if t, ok := v.(T); ok {
			out, err := toJSON(t)
			return out, true, err
		}
	}
	return nil, false, nil
}

func toJSON(v any) (map[string]any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("marshal a status: %w", err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("marshal a status: %w", err)
	}
	return out, nil
}

func (m merge) gateway(old map[string]any) (map[string]any, error) {
	ours, ok, err := value[gatewayv1.GatewayStatus](m)
	if !ok || err != nil {
		return old, err
	}
	next := replaceFields(old, ours, "addresses", "listeners", "attachedListenerSets")
	next["conditions"] = mergeConditions(list(old["conditions"]), list(ours["conditions"]))
	var listeners []any
	for _, l := range list(ours["listeners"]) {
		mine, _ := l.(map[string]any)
		before := find(list(old["listeners"]), func(o map[string]any) bool { return o["name"] == mine["name"] })
		mine["conditions"] = mergeConditions(list(before["conditions"]), list(mine["conditions"]))
		listeners = append(listeners, mine)
	}
	if listeners != nil {
		next["listeners"] = listeners
	}
	return next, nil
}

func (m merge) gatewayClass(old map[string]any) (map[string]any, error) {
	ours, ok, err := value[gatewayv1.GatewayClassStatus](m)
	if !ok || err != nil {
		return old, err
	}
	next := replaceFields(old, ours, "supportedFeatures")
	next["conditions"] = mergeConditions(list(old["conditions"]), list(ours["conditions"]))
	return next, nil
}

// route replaces the entries of our controller and keeps the others, in place.
// A route of which nothing is said any more loses ours.
func (m merge) route(old map[string]any) (map[string]any, error) {
	ours, _, err := value[gatewayv1.HTTPRouteStatus](m)
	if err != nil {
		return old, err
	}
	var before, parents []any
	for _, p := range list(old["parents"]) {
		if entry, _ := p.(map[string]any); entry["controllerName"] == m.controller {
			before = append(before, p)
		} else {
			parents = append(parents, p)
		}
	}
	for _, p := range list(ours["parents"]) {
		mine, _ := p.(map[string]any)
		if mine["controllerName"] != m.controller {
			continue
		}
		was := find(before, func(o map[string]any) bool { return sameJSON(o["parentRef"], mine["parentRef"]) })
		mine["conditions"] = mergeConditions(list(was["conditions"]), list(mine["conditions"]))
		parents = append(parents, mine)
	}
	if old == nil && len(parents) == 0 {
		return old, nil
	}
	next := replaceFields(old, nil)
	next["parents"] = append([]any{}, parents...) // never null, which the API refuses
	if sameSet(list(old["parents"]), parents) {
		next["parents"] = old["parents"]
	}
	return next, nil
}

func (m merge) ingress(old map[string]any) (map[string]any, error) {
	ours, ok, err := value[networkingv1.IngressStatus](m)
	if !ok || err != nil {
		return old, err
	}
	return replaceFields(old, ours, "loadBalancer"), nil
}

// conditions is for the kinds whose status is conditions. Where several parts
// report one type, what is false comes first.
func (m merge) conditions(old map[string]any) (map[string]any, error) {
	byType := map[string]metav1.Condition{}
	for _, part := range slices.Sorted(maps.Keys(m.reports)) {
		for _, c := range m.reports[part].Conditions {
			if have, taken := byType[c.Type]; !taken || have.Status == metav1.ConditionTrue && c.Status != metav1.ConditionTrue {
				byType[c.Type] = c
			}
		}
	}
	if len(byType) == 0 {
		return old, nil
	}
	var ours []any
	for _, t := range slices.Sorted(maps.Keys(byType)) {
		c, err := toJSON(byType[t])
		if err != nil {
			return old, err
		}
		ours = append(ours, c)
	}
	next := replaceFields(old, nil)
	next["conditions"] = mergeConditions(list(old["conditions"]), ours)
	return next, nil
}

// replaceFields copies a status with some of its fields as ours has them.
func replaceFields(old, ours map[string]any, fields ...string) map[string]any {
	next := maps.Clone(old)
	if next == nil {
		next = map[string]any{}
	}
	for _, f := range fields {
		if v, ok := ours[f]; ok {
			next[f] = v
		} else {
			delete(next, f)
		}
	}
	return next
}

// mergeConditions puts our conditions among those that are there, by type. One
// that keeps its status keeps the time of its last transition.
func mergeConditions(old, ours []any) []any {
	out := slices.Clone(old)
	for _, c := range ours {
		mine, _ := c.(map[string]any)
		mine = maps.Clone(mine)
		i := slices.IndexFunc(out, func(o any) bool {
			have, _ := o.(map[string]any)
			return have["type"] == mine["type"]
		})
		if t, _ := mine["lastTransitionTime"].(string); t == "" {
			mine["lastTransitionTime"] = metav1.Now().UTC().Format(time.RFC3339)
		}
		if i < 0 {
			out = append(out, mine)
			continue
		}
		have, _ := out[i].(map[string]any)
		if t, ok := have["lastTransitionTime"]; ok && have["status"] == mine["status"] {
			mine["lastTransitionTime"] = t
		}
		out[i] = mine
	}
	if out == nil {
		out = []any{}
	}
	return out
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

func find(in []any, match func(map[string]any) bool) map[string]any {
	for _, v := range in {
		if m, ok := v.(map[string]any); ok && match(m) {
			return m
		}
	}
	return nil
}

// sameSet compares lists without regard to order.
func sameSet(a, b []any) bool {
	if len(a) != len(b) {
		return false
	}
	text := func(in []any) []string {
		var out []string
		for _, v := range in {
			t, err := json.Marshal(v)
			if err != nil {
				return nil
			}
			out = append(out, string(t))
		}
		slices.SortFunc(out, cmp.Compare[string])
		return out
	}
	return slices.Equal(text(a), text(b))
}

// sameJSON compares what was decoded in different ways: numbers may be of
// different types, and an absent map is an empty one.
func sameJSON(a, b any) bool {
	if reflect.DeepEqual(a, b) {
		return true
	}
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	empty := func(t []byte) bool { return string(t) == "null" || string(t) == "{}" }
	return errX == nil && errY == nil && (string(x) == string(y) || empty(x) && empty(y))
}
