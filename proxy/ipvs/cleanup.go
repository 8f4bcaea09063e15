package ipvs

import (
	"context"
	"fmt"
	"time"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// What an engine that takes over has not yet begun to translate, IPVS has still to
// bring to its end: a request under way has settleTime, and whether all have ended
// is looked at every settleEvery. What takes longer is cut. Before that, packets
// that passed the first hooks before the other engine was there have inFlight to
// pass the last: on a busy machine they wait in the queue of an interface.
const (
	inFlight    = time.Second
	settleTime  = 2 * time.Second
	settleEvery = 50 * time.Millisecond
)

// Cleanup implements [proxy.Engine]. A virtual server is ours if its address is
// bound on our interface or its mark is in our table; if both are gone already,
// what is left of ours cannot be told from other people's, and stays.
func (e *Engine) Cleanup(ctx context.Context) error {
	e.reset()
	families := e.families
	e.families = []proxy.Family{proxy.IPv4, proxy.IPv6}
	f, err := e.look(ctx)
	e.families = families
	if err != nil {
		return err
	}
	var mine []serverID
	for id := range f.servers {
		if e.made[id] || f.mine(id, e.options.ExcludeCIDRs) {
			mine = append(mine, id)
		}
	}
	if len(mine) > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(inFlight):
		}
	}
	// The rules come first: without them, nothing is led to the servers.
	for _, family := range []proxy.Family{proxy.IPv4, proxy.IPv6} {
		m := &nfnl.Messages{}
		m.BeginBatch()
		deleteTable(m, family)
		if err := e.filter.Commit(m); err != nil && !missing(err) {
			return fmt.Errorf("ipvs: remove table %s: %w", tableName, unsupported(err))
		}
	}
	if err := e.settle(ctx, mine); err != nil {
		return err
	}
	for _, id := range mine {
		if err := e.deleteServer(id); err != nil {
			return err
		}
	}
	return e.kernel.deleteLink()
}

// settle waits until connections have ended that are about to. UDP has none that
// end.
func (e *Engine) settle(ctx context.Context, servers []serverID) error {
	for until := time.Now().Add(settleTime); len(servers) > 0 && time.Now().Before(until); {
		// One that has just begun counts from its handshake's end only.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(settleEvery):
		}
		var busy []serverID
		for _, id := range servers {
			if id.protocol == proxy.UDP {
				continue
			}
			list, err := e.kernel.destinations(id)
			if err != nil && !missingObject(err) {
				return err
			}
			for _, d := range list {
				if d.active > 0 {
					busy = append(busy, id)
					break
				}
			}
		}
		servers = busy
	}
	return nil
}
