package ingress

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/route"
)

// state is what a planner has handed out so far: the world as an applier would
// have made it.
type state struct {
	resources map[route.Ref]route.Change
	reports   map[model.Key]status.Report
	groups    map[route.Group]GroupChange
}

func newState() *state {
	return &state{map[route.Ref]route.Change{}, map[model.Key]status.Report{}, map[route.Group]GroupChange{}}
}

func (s *state) apply(r Result) {
	for _, c := range r.Changes {
		if c.Resource == nil {
			delete(s.resources, c.Ref)
		} else {
			s.resources[c.Ref] = c
		}
	}
	for _, rep := range r.Reports {
		if rep.Gone {
			delete(s.reports, rep.Key)
		} else {
			s.reports[rep.Key] = rep.Report
		}
	}
	for _, g := range r.Groups {
		if g.Gone {
			delete(s.groups, g.Group)
		} else {
			s.groups[g.Group] = g
		}
	}
}

// String is the state as goldens have it.
func (s *state) String() string {
	var b strings.Builder
	for _, g := range slices.Sorted(maps.Keys(s.groups)) {
		fmt.Fprintf(&b, "group %s ports %v\n", g, s.groups[g].Ports)
	}
	for _, ref := range slices.SortedFunc(maps.Keys(s.resources), compareRefs) {
		c := s.resources[ref]
		fmt.Fprintf(&b, "\n%s\n", ref)
		for _, o := range c.Origins {
			fmt.Fprintf(&b, "  from %s\n", o)
		}
		fields(&b, reflect.ValueOf(c.Resource).Elem(), "  ")
	}
	for _, key := range slices.SortedFunc(maps.Keys(s.reports), compareKeys) {
		fmt.Fprintf(&b, "\nstatus of %s\n", key)
		reportText(&b, s.reports[key])
	}
	return b.String()
}

// fields writes the fields of a struct that are not zero, a list with one line
// for each element.
func fields(b *strings.Builder, v reflect.Value, indent string) {
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		switch {
		case f.IsZero():
		case f.Kind() == reflect.Pointer && f.Elem().Kind() == reflect.Struct:
			fmt.Fprintf(b, "%s%s:\n", indent, name)
			fields(b, f.Elem(), indent+"  ")
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			fmt.Fprintf(b, "%s%s:\n", indent, name)
			for j := range f.Len() {
				fmt.Fprintf(b, "%s- %s\n", indent, compact(f.Index(j)))
			}
		default:
			fmt.Fprintf(b, "%s%s: %s\n", indent, name, compact(f))
		}
	}
}

// compact writes a value in one line, without the fields that are zero.
func compact(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case []byte:
		return fmt.Sprintf("%d bytes, sha256 %x…", len(x), sha256.Sum256(x))[:len("000 bytes, sha256 00000000")] + "…"
	case netip.Addr, netip.AddrPort, time.Duration:
		return fmt.Sprint(x)
	}
	switch v.Kind() {
	case reflect.Pointer:
		return compact(v.Elem())
	case reflect.Struct:
		var parts []string
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() {
				parts = append(parts, v.Type().Field(i).Name+": "+compact(f))
			}
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case reflect.Slice:
		var parts []string
		for i := range v.Len() {
			parts = append(parts, compact(v.Index(i)))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.String:
		return fmt.Sprintf("%q", v.String())
	}
	return fmt.Sprint(v.Interface())
}

func reportText(b *strings.Builder, r status.Report) {
	conditionsText(b, "  ", r.Conditions)
	switch v := r.Value.(type) {
	case gatewayv1.GatewayClassStatus:
		fmt.Fprintf(b, "  %d features\n", len(v.SupportedFeatures))
	case gatewayv1.GatewayStatus:
		if !reflect.DeepEqual(v.Conditions, r.Conditions) {
			b.WriteString("  the status has other conditions than the report\n")
		}
		for _, a := range v.Addresses {
			fmt.Fprintf(b, "  address %s\n", a.Value)
		}
		for _, l := range v.Listeners {
			var kinds []string
			for _, k := range l.SupportedKinds {
				kinds = append(kinds, string(k.Kind))
			}
			fmt.Fprintf(b, "  listener %s: %v, %d attached\n", l.Name, kinds, l.AttachedRoutes)
			conditionsText(b, "    ", l.Conditions)
		}
	case gatewayv1.HTTPRouteStatus:
		for _, p := range v.Parents {
			ref := string(p.ParentRef.Name)
			if p.ParentRef.SectionName != nil {
				ref += " section " + string(*p.ParentRef.SectionName)
			}
			if p.ParentRef.Port != nil {
				ref += fmt.Sprintf(" port %d", *p.ParentRef.Port)
			}
			fmt.Fprintf(b, "  parent %s\n", ref)
			conditionsText(b, "    ", p.Conditions)
		}
	case networkingv1.IngressStatus:
		for _, in := range v.LoadBalancer.Ingress {
			fmt.Fprintf(b, "  address %s\n", cmp.Or(in.IP, in.Hostname))
		}
	}
}

func conditionsText(b *strings.Builder, indent string, cs []metav1.Condition) {
	for _, c := range cs {
		fmt.Fprintf(b, "%s%s=%s %s", indent, c.Type, c.Status, c.Reason)
		if c.ObservedGeneration != 0 {
			fmt.Fprintf(b, " (generation %d)", c.ObservedGeneration)
		}
		if c.Message != "" {
			fmt.Fprintf(b, ": %s", c.Message)
		}
		b.WriteByte('\n')
	}
}
