package localhost

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluicenet/sluice/proxy"
)

// picker chooses backends by their weights.
type picker struct {
	mu     sync.Mutex // guards all below
	target *target
	total  uint64 // of the weights
	// pinned is the backend that affinity holds to until a time. All clients
	// have one address, so all of them are held to it.
	pinned netip.AddrPort
	until  time.Time
}

// set replaces the target. A backend that is gone is held to no longer.
func (p *picker) set(t *target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.target == nil || p.target.affinity != t.affinity || !has(t.backends, p.pinned) {
		p.pinned = netip.AddrPort{}
	}
	p.target, p.total = t, 0
	for _, b := range t.backends {
		p.total += uint64(b.Weight)
	}
}

func has(backends []proxy.Backend, addr netip.AddrPort) bool {
	return slices.ContainsFunc(backends, func(b proxy.Backend) bool { return b.AddrPort == addr })
}

// pick returns the backend of a new connection.
func (p *picker) pick(now time.Time) netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.target.affinity > 0 && p.pinned.IsValid() && now.Before(p.until) {
		p.until = now.Add(p.target.affinity)
		return p.pinned
	}
	chosen := p.target.backends[0].AddrPort
	n := rand.Uint64N(max(p.total, 1))
	for _, b := range p.target.backends {
		if n < uint64(b.Weight) {
			chosen = b.AddrPort
			break
		}
		n -= uint64(b.Weight)
	}
	if p.target.affinity > 0 {
		p.pinned, p.until = chosen, now.Add(p.target.affinity)
	}
	return chosen
}
