package main

import (
	"context"
	"net/netip"
	"net/url"
	"slices"

	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/proxy/intercept"
)

// tracingInterception has traces say where the node's name server answers before a
// Service does. captured are the addresses that are intercepted at the moment.
func tracingInterception(trace admin.Asker, captured func() []netip.Addr) admin.Asker {
	return func(ctx context.Context, q url.Values) (any, error) {
		answer, err := trace(ctx, q)
		if t, ok := answer.(traced); ok && intercepts(t, captured()) {
			t.Explanation = "this node's name server answers, as long as it is alive; otherwise: " + t.Explanation
			return t, err
		}
		return answer, err
	}
}

func intercepts(t traced, captured []netip.Addr) bool {
	return t.Destination.Port() == intercept.Port && (t.Protocol == "udp" || t.Protocol == "tcp") &&
		slices.Contains(captured, t.Destination.Addr())
}
