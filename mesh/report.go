package mesh

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// Types of the conditions of the mesh's objects.
const (
	ConditionAccepted         = "Accepted"
	ConditionPartiallyInvalid = "PartiallyInvalid"
	ConditionResolvedRefs     = "ResolvedRefs"
)

// report says what there is to say of an object.
func (p *Planner) report(key model.Key) {
	if !p.snap.Has(key) {
		p.res.Reports[key] = nil
		return
	}
	r := reporter{key: key}
	switch key.Kind {
	case model.KindVirtualService:
		if vs, ok := model.VirtualServices.Get(p.snap, key.Namespace, key.Name); ok {
			r.generation = vs.Generation
		}
		p.reportVirtualService(&r)
	case model.KindDestinationRule:
		if dr, ok := model.DestinationRules.Get(p.snap, key.Namespace, key.Name); ok {
			r.generation = dr.Generation
		}
		p.reportDestinationRule(&r)
	case model.KindPeerAuthentication:
		if pa, ok := model.PeerAuthentications.Get(p.snap, key.Namespace, key.Name); ok {
			r.generation = pa.Generation
		}
		p.reportPeerAuth(&r)
	}
	p.res.Reports[key] = &status.Report{Conditions: r.conditions}
}

type reporter struct {
	key        model.Key
	generation int64
	conditions []metav1.Condition
}

func (r *reporter) set(kind string, value bool, reason, message string) {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: r.generation}
	if value {
		c.Status = metav1.ConditionTrue
	}
	r.conditions = append(r.conditions, c)
}

// refused reports an object whose newest version could not be read, and
// whether it was so.
func (r *reporter) refused(bad *refusal, hasGood bool) bool {
	if bad == nil {
		return false
	}
	text := bad.text
	if bad.reason == "Unsupported" {
		text += " is not supported"
		if strings.Contains(bad.text, ": ") {
			text = bad.text // says already what is expected
		}
	}
	if hasGood {
		text += "; the version before stays in force"
	}
	r.set(ConditionAccepted, false, bad.reason, text)
	return true
}

// accepted reports an object that is in force, apart from what is in lost.
func (r *reporter) accepted(lost []string, ignored []string) {
	r.set(ConditionAccepted, true, "Accepted", "")
	var parts []string
	if len(ignored) > 0 {
		parts = append(parts, "not supported and without effect: "+strings.Join(ignored, ", "))
	}
	if parts = append(parts, lost...); len(parts) > 0 {
		r.set(ConditionPartiallyInvalid, true, "UnsupportedValue", strings.Join(parts, "; "))
	}
}

func (p *Planner) reportVirtualService(r *reporter) {
	vs := p.virtual[r.key]
	if r.refused(p.refused[r.key], vs != nil) && vs == nil {
		return
	}
	if vs == nil {
		return
	}
	var lost []string
	for _, host := range vs.hosts {
		if winner := p.byHost[host][0]; winner != vs {
			lost = append(lost, fmt.Sprintf("host %q belongs to the older VirtualService %s/%s", host, winner.key.Namespace, winner.key.Name))
		}
	}
	switch {
	case p.refused[r.key] != nil: // said already
	case len(lost) == len(vs.hosts):
		r.set(ConditionAccepted, false, "Conflict", strings.Join(lost, "; "))
		return
	default:
		r.accepted(lost, vs.ignored)
	}
	var all []problem
	for key := range p.unitsOf[r.key] {
		for _, pr := range p.units[key].problems[r.key] {
			if !slices.Contains(all, pr) {
				all = append(all, pr)
			}
		}
	}
	if len(all) == 0 {
		r.set(ConditionResolvedRefs, true, "ResolvedRefs", "")
		return
	}
	slices.SortFunc(all, func(a, b problem) int { return strings.Compare(a.text, b.text) })
	texts := make([]string, len(all))
	for i, pr := range all {
		texts[i] = pr.text
	}
	r.set(ConditionResolvedRefs, false, all[0].reason, strings.Join(texts, "; "))
}

func (p *Planner) reportDestinationRule(r *reporter) {
	dr := p.destRules[r.key]
	if r.refused(p.refused[r.key], dr != nil) || dr == nil {
		return
	}
	if winner := p.ruleOf(dr.service); winner != dr {
		r.set(ConditionAccepted, false, "Conflict",
			fmt.Sprintf("Service %v belongs to the DestinationRule %s/%s", dr.service, winner.key.Namespace, winner.key.Name))
		return
	}
	r.accepted(nil, dr.ignored)
}

func (p *Planner) reportPeerAuth(r *reporter) {
	var pa *peerAuth
	for _, other := range p.peers.byNS[r.key.Namespace] {
		if other.key == r.key {
			pa = other
		}
	}
	if r.refused(p.refused[r.key], pa != nil) || pa == nil {
		return
	}
	if rival := p.peers.rival(pa); rival != nil {
		r.set(ConditionAccepted, false, "Conflict",
			fmt.Sprintf("the older PeerAuthentication %s/%s stands in its place", rival.key.Namespace, rival.key.Name))
		return
	}
	r.accepted(nil, pa.ignored)
}
