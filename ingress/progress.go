package ingress

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// groupStatus is what the proxies of a group have acknowledged.
type groupStatus struct {
	proxies int
	// generation is that of the Gateway when all proxies last had all that
	// was published. Later changes of routes do not take Programmed back:
	// only a new generation of the Gateway, a rejection or the last proxy's
	// end does. It is -1 before the first time.
	generation int64
	listener   string // why a listener or a secret was rejected
}

// Progress takes in how far the proxies of a group are, and returns the reports
// that change by it.
func (p *Planner) Progress(pr route.Progress) Result {
	gw, class := p.groupOwner(pr.Group)
	if gw == nil && class == nil {
		return Result{} // of the time before the group went
	}
	st := p.groups[pr.Group]
	if st == nil {
		st = &groupStatus{generation: -1}
		p.groups[pr.Group] = st
	}
	was := *st
	st.proxies, st.listener = pr.Proxies, ""
	for _, r := range pr.Rejected {
		if r.Ref.Kind == route.KindListener || r.Ref.Kind == route.KindSecret {
			st.listener = r.Ref.Kind.String() + " " + r.Ref.ID + ": " + r.Reason
		}
	}
	if pr.Proxies > 0 && pr.Current == pr.Proxies {
		st.generation = 0
		if gw != nil {
			st.generation = gw.obj.Generation
		}
	}
	if *st != was {
		if gw != nil {
			p.dirty.reports[gw.key] = struct{}{}
		}
		if class != nil {
			for key := range class.users {
				p.dirty.reports[key] = struct{}{}
			}
		}
	}
	p.setRejections(pr.Group, pr.Rejected)
	return p.plan()
}

func (p *Planner) groupOwner(g route.Group) (*gateway, *ingressClass) {
	id, ok := strings.CutPrefix(string(g), "gateway/")
	ns, name, cut := strings.Cut(id, "/")
	switch {
	case !ok || !cut:
		return nil, nil
	case ns == "":
		return nil, p.classes[name]
	}
	return p.gateways[model.Name{Namespace: ns, Name: name}], nil
}

// rejection is a refused resource and the objects on which that is reported.
type rejection struct {
	ref      route.Ref
	culprits []model.Key
}

func (p *Planner) forgetRejections(g route.Group) { p.setRejections(g, nil) }

// setRejections replaces what the proxies of a group refuse.
func (p *Planner) setRejections(g route.Group, next []route.Rejection) {
	for _, r := range p.rejected[g] {
		for _, key := range r.culprits {
			p.dirty.reports[key] = struct{}{}
			if delete(p.rejects[key], r.ref); len(p.rejects[key]) == 0 {
				delete(p.rejects, key)
			}
		}
	}
	delete(p.rejected, g)
	for _, r := range next {
		keys := p.culprits(r)
		p.rejected[g] = append(p.rejected[g], rejection{r.Ref, keys})
		for _, key := range keys {
			p.dirty.reports[key] = struct{}{}
			if p.rejects[key] == nil {
				p.rejects[key] = map[route.Ref]string{}
			}
			p.rejects[key][r.Ref] = fmt.Sprintf("%s %s: %s", r.Ref.Kind, r.Ref.ID, r.Reason)
		}
	}
}

// culprits returns the objects on which a rejection is reported: the routes
// that the resource comes of, or that use the Service that it comes of.
func (p *Planner) culprits(r route.Rejection) []model.Key {
	keys := map[model.Key]struct{}{}
	for _, key := range r.Origins {
		switch key.Kind {
		case model.KindHTTPRoute, model.KindIngress:
			keys[key] = struct{}{}
		case model.KindService:
			p.byService.mark(model.Name{Namespace: key.Namespace, Name: key.Name}, keys)
		}
	}
	return slices.SortedFunc(maps.Keys(keys), compareKeys)
}

// rejectedIn returns what the proxies of a group said of an object's resources;
// empty: nothing.
func (p *Planner) rejectedIn(g route.Group, key model.Key) string {
	var reasons []string
	for ref, reason := range p.rejects[key] {
		if ref.Group == g {
			reasons = append(reasons, reason)
		}
	}
	slices.Sort(reasons)
	return strings.Join(reasons, "; ")
}

// programmed says how far the proxies of a Gateway are.
func (p *Planner) programmed(gw *gateway) (ok bool, reason gatewayv1.GatewayConditionReason, message string) {
	st := p.groups[gw.group]
	switch {
	case gw.refused != nil || len(gw.ports) == 0:
		return false, gatewayv1.GatewayReasonInvalid, "no listener can be programmed"
	case gw.place.Pending != "":
		return false, gatewayv1.GatewayReasonAddressNotAssigned, gw.place.Pending
	case st == nil || st.proxies == 0:
		return false, gatewayv1.GatewayReasonPending, "no proxy is connected"
	case st.listener != "":
		return false, reasonRejected, st.listener
	case st.generation != gw.obj.Generation:
		return false, gatewayv1.GatewayReasonPending, "not all proxies have acknowledged the configuration"
	}
	return true, gatewayv1.GatewayReasonProgrammed, fmt.Sprintf("acknowledged by %d of %d proxies", st.proxies, st.proxies)
}

// reasonRejected is our own reason of Programmed: False.
const reasonRejected = "Rejected"
