package enginetest

import (
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluicenet/sluice/internal/vm"
)

// quiet is how long silence lasts before it counts.
const quiet = 100 * time.Millisecond

// patience is how long an answer may take. A packet that was lost is sent again
// within it; an emulated processor may stand still for seconds.
var patience = map[bool]time.Duration{false: 5 * time.Second, true: 30 * time.Second}[vm.Guest()]

// How many connections a probe makes: until everybody has answered at most so
// many, for affinity so many, and to check shares so many.
const (
	triesAll    = 120 // that one of four is missed is one in 10¹⁵
	triesSticky = 8
	triesShare  = 120
)

// prober sends the probes of a case and remembers who answered.
type prober struct {
	w      *World
	engine string

	mu     sync.Mutex
	memory map[string]string   // who answered, by name, protocol and family
	open   map[string]net.Conn // kept connections, by client, destination, protocol and family
	limit  chan struct{}
}

func newProber(w *World, engine string) *prober {
	return &prober{w: w, engine: engine, memory: map[string]string{}, open: map[string]net.Conn{}, limit: make(chan struct{}, 16)}
}

// close ends the kept connections.
func (p *prober) close() {
	for _, c := range p.open {
		_ = c.Close()
	}
}

// run does all probes at the same time and returns what went wrong. Those that
// remember who answered come in their order.
func (p *prober) run(probes []Probe) []error {
	var mu sync.Mutex
	var failures []error
	var group sync.WaitGroup
	do := func(probe Probe, protocol string, family int) {
		if err := p.one(probe, protocol, family); err != nil {
			mu.Lock()
			failures = append(failures, fmt.Errorf("line %d: %s (%s, IPv%d): %w", probe.Line, probe.Text, protocol, family, err))
			mu.Unlock()
		}
	}
	for i, probe := range probes {
		probe := probe.of(p.engine)
		ordered := probe.Stay != "" || probe.Move != ""
		if ordered && slices.ContainsFunc(probes[:i], func(o Probe) bool { return o.Stay != "" || o.Move != "" }) {
			group.Wait()
		}
		for _, protocol := range probe.Protocols {
			for _, family := range probe.Families {
				group.Go(func() { do(probe, protocol, family) })
			}
		}
	}
	group.Wait()
	return failures
}

// one does one probe.
func (p *prober) one(probe Probe, protocol string, family int) error {
	to, err := p.w.destination(probe.To, family)
	if err != nil {
		return err
	}
	h := p.w.hosts[probe.Client]
	if h == nil {
		return fmt.Errorf("nobody is called %q", probe.Client)
	}
	suffix := fmt.Sprintf(" %s %d", protocol, family)
	if probe.Kind != "probe" {
		if protocol == "sctp" {
			return nil // only new associations are made
		}
		at := probe.Client + " " + probe.To + suffix
		p.mu.Lock()
		conn := p.open[at]
		p.mu.Unlock()
		if probe.Kind == "open" {
			if conn, err = h.dial(protocol, to, patience); err != nil {
				return err
			}
			p.mu.Lock()
			p.open[at] = conn
			p.mu.Unlock()
		}
		if conn == nil {
			return fmt.Errorf("no connection is open")
		}
		return p.again(probe, conn, family, suffix)
	}
	ask := func(timeout time.Duration) outcome {
		p.limit <- struct{}{}
		defer func() { <-p.limit }()
		return h.ask(protocol, to, timeout)
	}
	if probe.Expected[0].By == Silence {
		if got := h.ask(protocol, to, quiet); got.by != Silence && got.by != denied {
			return fmt.Errorf("got %s", got.by)
		}
		return nil
	}
	return p.collect(probe, family, suffix, ask)
}

// again asks on a kept connection. UDP tells an ICMP error of an earlier packet
// first.
func (p *prober) again(probe Probe, conn net.Conn, family int, suffix string) error {
	timeout := patience
	if probe.Expected[0].By == Silence {
		timeout = quiet
	}
	got := exchange(conn, timeout)
	for range 5 {
		if got.by != Refused || probe.Expected[0].By == Refused {
			break
		}
		got = exchange(conn, timeout)
	}
	if err := p.check(probe, got, family); err != nil {
		return err
	}
	return p.remember(probe, got.by, suffix)
}

// collect connects until everybody who should has answered.
func (p *prober) collect(probe Probe, family int, suffix string, ask func(time.Duration) outcome) error {
	seen := map[string]int{}
	tries := triesAll
	switch {
	case probe.Share:
		tries = triesShare
	case probe.Stay != "" || probe.Move != "":
		tries = triesSticky
	case probe.Eventually:
		tries = 30
	}
	for i := range tries {
		if probe.Eventually && i > 0 {
			time.Sleep(1100 * time.Millisecond)
		}
		got := ask(patience)
		if err := p.check(probe, got, family); err != nil {
			return err
		}
		if err := p.remember(probe, got.by, suffix); err != nil {
			return err
		}
		seen[got.by]++
		if len(seen) == len(probe.Expected) && !probe.Share && probe.Stay == "" && probe.Move == "" {
			return nil
		}
	}
	if probe.Stay != "" || probe.Move != "" {
		return nil
	}
	if len(seen) != len(probe.Expected) {
		return fmt.Errorf("only %v answered", seen)
	}
	return shares(probe.Expected, seen, tries)
}

// check compares one outcome.
func (p *prober) check(probe Probe, got outcome, family int) error {
	if !slices.ContainsFunc(probe.Expected, func(a Answer) bool {
		return a.By == got.by || got.by == denied && (a.By == Refused || a.By == Silence)
	}) {
		return fmt.Errorf("got %s", got.by)
	}
	if got.source == "" {
		return nil
	}
	var want []string
	switch {
	case probe.From == "node", probe.From == "kept" && probe.Client == "node":
		// The kernel is free to choose among the node's addresses.
		want = []string{p.w.hosts["node"].addr(family).String(), addresses["node2nd"].of(family).String()}
	case probe.From == "kept":
		want = []string{p.w.hosts[probe.Client].addr(family).String()}
	}
	if want != nil && !slices.Contains(want, got.source) {
		return fmt.Errorf("%s saw the source %s, want %s", got.by, got.source, strings.Join(want, " or "))
	}
	return nil
}

// remember checks and keeps who answered, for probes with a memory. Move forgets.
func (p *prober) remember(probe Probe, by, suffix string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if probe.Move != "" {
		old, ok := p.memory[probe.Move+suffix]
		if ok && old == by {
			return fmt.Errorf("%s answered as before", by)
		}
		return nil
	}
	if probe.Stay == "" {
		return nil
	}
	name := probe.Stay + suffix
	if old, ok := p.memory[name]; ok && old != by {
		return fmt.Errorf("%s answered, and %s before", by, old)
	}
	p.memory[name] = by
	return nil
}

// shares compares counts with weights; the bounds are five standard deviations
// away, so that one check in some millions fails by chance.
func shares(expected []Answer, seen map[string]int, tries int) error {
	total := 0
	for _, a := range expected {
		total += a.Weight
	}
	var wrong []string
	for _, a := range expected {
		p := float64(a.Weight) / float64(total)
		mean, deviation := p*float64(tries), math.Sqrt(float64(tries)*p*(1-p))
		if n := float64(seen[a.By]); math.Abs(n-mean) > 5*deviation+1 {
			wrong = append(wrong, fmt.Sprintf("%s answered %d of %d, expected about %.0f", a.By, seen[a.By], tries, mean))
		}
	}
	if wrong != nil {
		return fmt.Errorf("%s", strings.Join(wrong, ", "))
	}
	return nil
}
