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
// is looked at every settleEvery. What takes longer is cut.
const (
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
	// The rules come first: without them, nothing is led to the servers. The maps
	// stay until no packet is on its way through the rules: to the kernel, what a
	// transaction deletes is gone at once for rules that began before it, and then
	// they refuse what they do not find.
	if err := e.removal(flushTable); err != nil {
		return err
	}
	if err := e.settle(ctx, mine); err != nil {
		return err
	}
	if err := e.removal(deleteTable); err != nil {
		return err
	}
	for _, id := range mine {
		if err := e.deleteServer(id); err != nil {
			return err
		}
	}
	return e.kernel.deleteLink()
}

// removal does something in each family's table that is there.
func (e *Engine) removal(do func(*nfnl.Messages, proxy.Family)) error {
	for _, family := range []proxy.Family{proxy.IPv4, proxy.IPv6} {
		m := &nfnl.Messages{}
		m.BeginBatch()
		do(m, family)
		if err := e.filter.Commit(m); err != nil && !missing(err) {
			return fmt.Errorf("ipvs: remove table %s: %w", tableName, unsupported(err))
		}
	}
	return nil
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
