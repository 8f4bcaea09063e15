package intercept

import (
	"context"
	"net/netip"
	"slices"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/conntrack"
)

// forget removes, after each change of the rules, the flows of UDP clients that would
// go past the fallback, or to an endpoint that it does not have any more: one who
// keeps a socket renews the flow with every query, whatever the rules say since. It
// does so beside the work of the rules, for a machine may have a million flows.
func (i *Interceptor) forget(ctx context.Context) {
	cleaner := conntrack.New()
	for {
		select {
		case <-ctx.Done():
			return
		case <-i.stale:
		}
		for _, f := range i.families {
			err := cleaner.DeleteUDP(ctx, f, func(to, from netip.AddrPort) bool { return i.shown.Load().strays(f, to, from) })
			if err != nil && ctx.Err() == nil {
				i.failures.Add(1)
				i.Log.Warn("dns: clients that keep their socket may miss the fallback", "family", f, "error", err)
			}
		}
	}
}

// strays reports whether a UDP flow to one of the addresses that have a fallback is
// answered by somebody else than the ordinary endpoints.
func (p *Plan) strays(family proxy.Family, to, from netip.AddrPort) bool {
	n := slices.IndexFunc(p.Families, func(f FamilyPlan) bool { return f.Family == family })
	return n >= 0 && to.Port() == Port && !slices.Contains(p.Families[n].UDP, from) &&
		slices.ContainsFunc(p.Families[n].Fallback, func(a Fallback) bool { return a.Addr == to.Addr() })
}
