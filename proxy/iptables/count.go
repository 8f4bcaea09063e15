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

// Bounds of reading counters.
const (
	// countShare is which part of the time reading takes at most.
	countShare = 20
	// countPatience is how long who asks waits for what is being read, and then
	// gets what was read before.
	countPatience = 250 * time.Millisecond
	// countLimit is how long reading may take.
	countLimit = 2 * time.Minute
)

// counters are what the rules have counted, as it was read last. To read them is
// to list all rules, so that is done in the background, whoever asks.
type counters struct {
	mu          sync.Mutex // guards all below
	connections map[proxy.FrontendKey]uint64
	invalid     total
	read        bool // there is something
	err         error
	cost        share
	reading     chan struct{} // closed at its end; nil: nobody reads
	cancel      context.CancelFunc
	closed      bool
}

// total is a counter that outlives its rules, of both families.
type total struct {
	sum  uint64
	seen [len(families)]uint64
}

func (t *total) see(i int, now uint64) {
	if now < t.seen[i] { // the rule was written anew
		t.seen[i] = 0
	}
	t.sum += now - t.seen[i]
	t.seen[i] = now
}

// Count implements [proxy.Counter]. It counts connections alone: the nat table
// sees the first packet of each, so its rules know nothing of bytes. Attempts
// that are refused count too, and those that are dropped each time that the
// client tries. Counting takes a twentieth of the time at the most; who asks more
// often gets the same again.
func (e *Engine) Count(ctx context.Context, each func(proxy.FrontendKey, proxy.Traffic)) error {
	if err := e.refresh(ctx); err != nil {
		return fmt.Errorf("iptables: count: %w", err)
	}
	e.counts.mu.Lock()
	connections := e.counts.connections // which nobody changes
	e.counts.mu.Unlock()
	for key, n := range connections {
		each(key, proxy.Traffic{Connections: n})
	}
	return nil
}

// refresh has the counters read if it is time, and waits a moment for them, or,
// where there are none yet, as long as the context lets it.
func (e *Engine) refresh(ctx context.Context) error {
	c := &e.counts
	c.mu.Lock()
	if c.reading == nil && !c.closed && c.cost.due(countShare) {
		read, cancel := context.WithTimeout(context.WithoutCancel(ctx), countLimit)
		c.reading, c.cancel = make(chan struct{}), cancel
		go e.readCounters(read)
	}
	reading, read := c.reading, c.read
	c.mu.Unlock()
	if reading != nil {
		patience, cancel := ctx, context.CancelFunc(func() {})
		if read {
			patience, cancel = context.WithTimeout(ctx, countPatience)
		}
		defer cancel()
		select {
		case <-reading:
		case <-patience.Done():
			if !read {
				return ctx.Err()
			}
			return nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// readCounters reads what the rules of both families have counted.
func (e *Engine) readCounters(ctx context.Context) {
	start := time.Now()
	connections, invalid, err := e.readAll(ctx)
	c := &e.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel()
	c.cost.done(time.Since(start))
	if c.err = err; err == nil {
		c.connections, c.read = connections, true
		for i, n := range invalid {
			c.invalid.see(i, n)
		}
	}
	close(c.reading)
	c.reading = nil
}

func (e *Engine) readAll(ctx context.Context) (connections map[proxy.FrontendKey]uint64, invalid [len(families)]uint64, err error) {
	connections = map[proxy.FrontendKey]uint64{}
	for i, f := range families {
		if _, ok := e.programs.programs[f]; !ok {
			continue
		}
		for _, t := range [...]table{nat, filter} {
			out, err := e.programs.save(ctx, f, t, true)
			if err != nil {
				return nil, invalid, err
			}
			err = eachLine(out, func(string) {}, func(chain, rule string, packets uint64) {
				switch key, ok := frontendOf(f, chain, rule); {
				case packets == 0:
				case t == nat && ok:
					connections[key] += packets
				case t == filter && chain == chainForward && rule == dropInvalid:
					invalid[i] += packets
				}
			})
			if err != nil {
				return nil, invalid, err
			}
		}
	}
	return connections, invalid, nil
}

// stop ends reading, and waits for that.
func (c *counters) stop() {
	c.mu.Lock()
	c.closed = true
	reading := c.reading
	if reading != nil {
		c.cancel()
	}
	c.mu.Unlock()
	if reading != nil {
		<-reading
	}
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
