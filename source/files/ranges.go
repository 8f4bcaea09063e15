package files

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/source"
)

// inRange refuses the Services that ask for an address or a node port outside
// of the ranges, as the API server does: one that claims the node's own address
// would take its traffic.
func (r *reader) inRange(objects []source.Object, problems []source.Problem) ([]source.Object, []source.Problem) {
	var kept []source.Object
	for _, o := range objects {
		s, ok := o.Value.(*model.Service)
		if !ok {
			kept = append(kept, o)
			continue
		}
		errs := r.outside(s)
		for _, err := range errs {
			problems = append(problems, source.Problem{
				Line: o.Line, Object: o.Key.String(), Key: o.Key, HasKey: true, Reason: source.ReasonInvalid, Err: err,
			})
		}
		if len(errs) == 0 {
			kept = append(kept, o)
		}
	}
	return kept, problems
}

func (r *reader) outside(s *model.Service) []source.FieldError {
	var out []source.FieldError
	for i, ip := range s.ClusterIPs {
		if !slices.ContainsFunc(r.cidrs, func(p netip.Prefix) bool { return p.Contains(ip) }) {
			out = append(out, source.FieldError{Field: fmt.Sprintf("spec.clusterIPs[%d]", i), Expected: "in " + r.ranges() + " (proxy.serviceCIDRs)", Found: ip.String()})
		}
	}
	for i, p := range s.Ports {
		if p.NodePort != 0 && (p.NodePort < nodePortMin || p.NodePort > nodePortMax) {
			out = append(out, source.FieldError{
				Field:    fmt.Sprintf("spec.ports[%d].nodePort", i),
				Expected: fmt.Sprintf("a number from %d to %d", nodePortMin, nodePortMax), Found: fmt.Sprint(p.NodePort),
			})
		}
	}
	return out
}

func (r *reader) ranges() string {
	var out []string
	for _, p := range r.cidrs {
		out = append(out, p.String())
	}
	return strings.Join(out, " or ")
}
