package dns

import (
	"context"
	"encoding/hex"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/wire"
)

// probeAgain is when a server that asked us is tried again.
const probeAgain = 30 * time.Second

// probes are names that nobody else can know. One that comes back as a query
// proves that the server it was sent to asks us, directly or by others.
type probes struct {
	active atomic.Int32 // spares queries the lock
	mu     sync.Mutex   // guards names
	names  map[string]chan struct{}
}

// begin makes a name; back is closed when it is asked for.
func (p *probes) begin() (name []byte, back chan struct{}) {
	var random [16]byte
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	name = append(wire.AppendLabel(nil, hex.EncodeToString(random[:])), "\x0csluice-probe\x00"...)
	back = make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.names == nil {
		p.names = map[string]chan struct{}{}
	}
	p.names[string(name)] = back
	p.active.Add(1)
	return name, back
}

func (p *probes) end(name []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.names, string(name))
	p.active.Add(-1)
}

// seen reports whether name is a probe, and takes note.
func (p *probes) seen(name []byte) bool {
	if p.active.Load() == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	back, ok := p.names[string(name)]
	if !ok {
		return false
	}
	select {
	case <-back:
	default:
		close(back)
	}
	return true
}

// probeLoops finds out once whether a server that is forwarded to asks us. One
// that does is not asked until it does not any more: queries to it would go round
// until they time out.
func (s *Server) probeLoops(ctx context.Context) error {
	var g errgroup.Group
	known := map[forward.Server]bool{}
	for {
		now := map[forward.Server]bool{}
		for _, u := range s.forward.Stats() {
			now[u.Server] = true
			if known[u.Server] {
				continue
			}
			g.Go(func() error {
				for s.probe(ctx, u.Server) {
					select {
					case <-time.After(probeAgain):
					case <-ctx.Done():
						return nil
					}
				}
				return nil
			})
		}
		known = now
		select {
		case <-s.forward.Changed():
		case <-ctx.Done():
			return g.Wait()
		}
	}
}

// probe reports whether the server asks us.
func (s *Server) probe(ctx context.Context, server forward.Server) bool {
	name, back := s.probes.begin()
	defer s.probes.end(name)
	was := s.looped(server)
	s.forward.Probe(ctx, server, forward.Question{Name: name, Type: wire.TypeHINFO})
	loops := false
	select {
	case <-back:
		loops = true
	default:
	}
	if ctx.Err() != nil || loops == was {
		return loops
	}
	s.forward.Looped(server, loops)
	if loops {
		err := &forward.LoopError{Upstream: server.Addr, Why: "forwards to this server"}
		s.Log.Error("dns: upstream not used", "err", err)
	} else {
		s.Log.Info("dns: upstream used again", "upstream", server.String())
	}
	return loops
}

func (s *Server) looped(server forward.Server) bool {
	for _, u := range s.forward.Stats() {
		if u.Server == server {
			return u.Looped
		}
	}
	return false
}
