package iptables

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicenet/sluice/proxy"
)

// countCache keeps what was counted last, because counts are listed with all
// rules.
type countCache struct {
	mu     sync.Mutex
	counts map[proxy.FrontendKey]uint64
	at     time.Time
	took   time.Duration
}

// Count implements [proxy.Counter]. It counts connections alone: the nat table
// sees the first packet of each. Counting takes a twentieth of the time at the
// most; who asks more often gets the same again.
func (e *Engine) Count(ctx context.Context, each func(proxy.FrontendKey, proxy.Traffic)) error {
	c := &e.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil || time.Since(c.at) >= lookShare*c.took {
		start := time.Now()
		counts := map[proxy.FrontendKey]uint64{}
		commands, ok := e.kernel.(*commands)
		if !ok {
			return nil
		}
		for _, f := range families {
			if _, ok := commands.programs[f]; !ok {
				continue
			}
			out, err := e.kernel.save(ctx, f, nat, true)
			if err == nil {
				err = eachLine(out, func(string) {}, func(chain, rule string, packets uint64) {
					if key, ok := frontendOf(f, chain, rule); ok && packets > 0 {
						counts[key] += packets
					}
				})
			}
			if err != nil {
				return fmt.Errorf("iptables: count: %w", err)
			}
		}
		c.counts, c.at, c.took = counts, start, time.Since(start)
	}
	for key, n := range c.counts {
		each(key, proxy.Traffic{Connections: n})
	}
	return nil
}

// frontendOf tells which frontend a rule of a leaf finds.
func frontendOf(f proxy.Family, chain, rule string) (proxy.FrontendKey, bool) {
	key := proxy.FrontendKey{Family: f}
	nodePort := strings.HasPrefix(chain, prefix+"N-")
	if !nodePort && (!strings.HasPrefix(chain, prefix+"A-") || len(chain) != len(prefix)+4) {
		return key, false
	}
	words := strings.Fields(rule)
	for i := 0; i+1 < len(words); i += 2 {
		switch value := words[i+1]; words[i] {
		case "-d":
			p, err := netip.ParsePrefix(value)
			if err != nil || !p.IsSingleIP() {
				return key, false
			}
			key.Addr = p.Addr()
		case "-p":
			for _, p := range [...]proxy.Protocol{proxy.TCP, proxy.UDP, proxy.SCTP} {
				if strings.EqualFold(p.String(), value) {
					key.Protocol = p
				}
			}
		case "--dport":
			port, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				return key, false
			}
			key.Port = uint16(port)
		case "-m":
			// A match is one word, its options come next.
		}
	}
	return key, key.Protocol != 0 && key.Port != 0 && key.Addr.IsValid() != nodePort
}
