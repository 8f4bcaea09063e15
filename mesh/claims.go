package mesh

import (
	"cmp"
	"reflect"
	"slices"
	"time"

	"github.com/sluicenet/sluice/route"
)

// claims are the resources that units ask for. Two may ask for the same: two
// Services with one address, by mistake or because the address passed from one
// to the other, or a host that turns out to be a Service's. Then one of them
// has it, always the same one, and the next takes its place when it goes.
type claims struct {
	of      map[route.Ref]*claimed
	touched map[route.Ref]struct{} // in this call of the planner
}

type claimed struct {
	all       []claim // the one that counts first
	published output
}

type claim struct {
	unit    unitKey
	created time.Time
	out     output
}

func newClaims() claims {
	return claims{of: map[route.Ref]*claimed{}}
}

// compareClaims puts Services before hosts, and the oldest Service first.
func compareClaims(a, b claim) int {
	return cmp.Or(
		cmp.Compare(a.unit.host, b.unit.host),
		a.created.Compare(b.created),
		cmp.Compare(a.unit.service.Namespace, b.unit.service.Namespace),
		cmp.Compare(a.unit.service.Name, b.unit.service.Name))
}

func (c *claims) put(ref route.Ref, next claim) {
	at := c.of[ref]
	if at == nil {
		at = &claimed{}
		c.of[ref] = at
	}
	at.all = slices.DeleteFunc(at.all, func(o claim) bool { return o.unit == next.unit })
	at.all = append(at.all, next)
	slices.SortFunc(at.all, compareClaims)
	c.touched[ref] = struct{}{}
}

func (c *claims) remove(ref route.Ref, unit unitKey) {
	at := c.of[ref]
	at.all = slices.DeleteFunc(at.all, func(o claim) bool { return o.unit == unit })
	c.touched[ref] = struct{}{}
}

// flush returns what has to be published because of what was put and removed.
func (c *claims) flush() []route.Change {
	var out []route.Change
	for ref := range c.touched {
		at := c.of[ref]
		if len(at.all) == 0 {
			delete(c.of, ref)
			if at.published.res != nil {
				out = append(out, route.Remove(ref.Group, ref.Kind, ref.ID))
			}
			continue
		}
		next := at.all[0].out
		if at.published.res != nil && slices.Equal(at.published.origins, next.origins) && reflect.DeepEqual(at.published.res, next.res) {
			continue
		}
		at.published = next
		out = append(out, route.Set(ref.Group, next.res, next.origins...))
	}
	return out
}
