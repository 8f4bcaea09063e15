package nftables

import (
	"fmt"
	"strings"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// Problems implements [proxy.Limited]: of a Service with very many endpoints, the
// clients of only some are remembered.
func (e *Engine) Problems(name model.Name) []proxy.Problem {
	var out []proxy.Problem
	for i := range e.services[name] {
		p := &e.services[name][i]
		slots := max(len(p.cluster), len(p.local))
		if p.plan.Affinity == 0 || slots <= maxSticky {
			continue
		}
		out = append(out, proxy.Problem{Reason: "AffinityIncomplete", Message: fmt.Sprintf(
			"spec.sessionAffinity: port %s/%d (%s) has %d endpoints, counted by their weights; nftables remembers clients of the first %d, and sends those of others to any endpoint each time",
			strings.ToUpper(p.plan.Protocol.String()), p.plan.Port, p.plan.Family, slots, maxSticky)})
	}
	return out
}

var _ proxy.Limited = (*Engine)(nil)
