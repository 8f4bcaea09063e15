package forward

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

// table is whom to ask at one moment. It never changes.
type table struct {
	zones     []Zone // as in the options
	stubs     []stub // longest zone first, without those that have no servers
	upstreams []*upstream
}

// stub is the servers of one zone.
type stub struct {
	zone     []byte
	index    int // in the table's zones
	servers  []*upstream
	policy   Policy
	turn     *atomic.Uint32 // of RoundRobin
	timeout  time.Duration
	attempts int
}

func (f *Forwarder) newTable(zones []Zone) (*table, error) {
	t := &table{zones: zones}
	old := f.table.Load()
	for i, z := range zones {
		name, err := wire.ParseName(z.Name)
		if err != nil && z.Name != "" {
			return nil, fmt.Errorf("zone to forward: %w", err)
		}
		if z.Name == "" {
			name = []byte{0}
		}
		s := stub{zone: wire.AppendLower(nil, name), index: i, policy: z.Policy, turn: &atomic.Uint32{}, timeout: z.Timeout, attempts: z.Attempts}
		if s.timeout == 0 {
			s.timeout = f.Timeout
		}
		if s.attempts == 0 {
			s.attempts = f.Attempts
		}
		for _, server := range z.Servers {
			if err := checkSelf(server.Addr, f.Self, ""); err != nil {
				return nil, err
			}
		}
		for _, server := range z.Servers {
			u := t.upstream(server)
			if u == nil && old != nil {
				u = old.upstream(server)
			}
			if u == nil {
				u = newUpstream(f, server)
			}
			if t.upstream(server) == nil {
				t.upstreams = append(t.upstreams, u)
			}
			s.servers = append(s.servers, u)
		}
		if len(s.servers) > 0 {
			t.stubs = append(t.stubs, s)
		}
	}
	slices.SortStableFunc(t.stubs, func(a, b stub) int { return len(b.zone) - len(a.zone) })
	return t, nil
}

func (t *table) upstream(s Server) *upstream {
	for _, u := range t.upstreams {
		if u.Server == s {
			return u
		}
	}
	return nil
}

func (t *table) find(name []byte) *stub {
	for i := range t.stubs {
		if wire.InZone(name, t.stubs[i].zone) {
			return &t.stubs[i]
		}
	}
	return nil
}

// order returns the servers to ask, in the policy's order, and those that did not
// answer lately, both without those that would ask us.
func (s *stub) order() (up, down []*upstream) {
	n := len(s.servers)
	all := make([]*upstream, 2*n)
	up, down = all[:0:n], all[n:n]
	first := 0
	switch s.policy {
	case RoundRobin:
		first = int((s.turn.Add(1) - 1) % uint32(n))
	case Random:
		first = rand.IntN(n)
	}
	for i := range n {
		switch u := s.servers[(first+i)%n]; {
		case u.looped.Load():
		case u.down.Load():
			down = append(down, u)
		default:
			up = append(up, u)
		}
	}
	if s.policy == Random && len(up) > 2 { // or a dead one's load goes to its neighbour
		rand.Shuffle(len(up)-1, func(i, j int) { up[i+1], up[j+1] = up[j+1], up[i+1] })
	}
	return up, down
}
