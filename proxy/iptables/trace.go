package iptables

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// Trace implements [proxy.Tracer]. It lists the chains that a packet of the
// connection passes, one after the other, and asks the kernel for the node's
// addresses. A client that is remembered is not looked up.
func (e *Engine) Trace(ctx context.Context, d proxy.Decision) (proxy.Observed, error) {
	family := proxy.FamilyOf(d.Destination.Addr())
	asleep := map[table]bool{}
	for _, t := range [...]table{nat, filter} {
		var err error
		if asleep[t], err = e.asleep(ctx, family, t); err != nil {
			return proxy.Observed{}, fmt.Errorf("iptables: trace: %w", err)
		}
	}
	w := walker{
		decision: d, packet: packet{source: d.Source, destination: d.Destination, protocol: strings.ToLower(d.Protocol.String())},
		chains: map[ref][]string{},
		list: func(r ref) ([]string, error) {
			if asleep[r.table] {
				return nil, nil // its chains are not asked
			}
			return e.listChain(ctx, family, r)
		},
	}
	err := nfnl.InNamespace(e.netns, func() error {
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				w.packet.local = append(w.packet.local, p.Addr())
			}
		}
		return err
	})
	if err == nil {
		err = w.walk()
	}
	if err != nil {
		return proxy.Observed{}, fmt.Errorf("iptables: trace: %w", err)
	}
	return w.observed, nil
}

// listChain returns the rules of a chain; one that is not there has none.
func (e *Engine) listChain(ctx context.Context, f proxy.Family, r ref) ([]string, error) {
	out, err := e.kernel.list(ctx, f, r)
	if err != nil {
		if strings.Contains(err.Error(), "No chain/target/match by that name") || strings.Contains(err.Error(), "is incompatible") {
			return nil, nil
		}
		return nil, err
	}
	var rules []string
	for line := range strings.Lines(string(out)) {
		if rule, ok := strings.CutPrefix(strings.TrimSpace(line), "-A "+r.name+" "); ok {
			rules = append(rules, plain(rule))
		}
	}
	return rules, nil
}

// walker follows a packet through the chains.
type walker struct {
	decision proxy.Decision
	packet   packet
	list     func(ref) ([]string, error)
	chains   map[ref][]string
	observed proxy.Observed

	refused bool // the last chain was left because of the source
	failed  error
}

// way is how a part of all packets came to a rule.
type way struct {
	share  float64
	marked bool
}

// end is how a way ends.
type end uint8

const (
	goesOn end = iota // with the next rule of the chain that led there
	accepted
	translated
	rejected
	dropped
)

// walk asks the nat table and then, for what that does not translate, the filter
// table.
func (w *walker) walk() error {
	hook := "PREROUTING"
	if w.packet.fromNode() {
		hook = "OUTPUT"
	}
	w.follow(ref{nat, hook}, &way{share: 1}, true)
	o := &w.observed
	if len(o.Choices) > 0 {
		o.Action = proxy.ToCluster
		if p := w.decision.Port; p != nil && !sameBackends(p.Cluster, o.Choices) && sameBackends(p.Local, o.Choices) {
			o.Action = proxy.ToLocal
		}
		w.masquerade()
		return w.failed
	}
	switch {
	case hook == "OUTPUT":
	case w.packet.toNode():
		hook = "INPUT"
	default:
		hook = "FORWARD"
	}
	found := o.Found
	switch w.follow(ref{filter, hook}, &way{share: 1}, true) {
	case rejected:
		o.Action, o.Miss = proxy.Reject, proxy.UnknownPort
	case dropped:
		o.Action, o.Miss, o.Refused = proxy.Drop, proxy.Unallocated, found && w.refused
	default:
		found = false
	}
	if o.Found = found; found {
		o.Miss = proxy.NotOurs
	}
	return w.failed
}

func sameBackends(backends []proxy.Backend, choices []proxy.Choice) bool {
	return len(backends) == len(choices) && !slices.ContainsFunc(backends, func(b proxy.Backend) bool {
		return !slices.ContainsFunc(choices, func(c proxy.Choice) bool { return c.AddrPort == b.AddrPort })
	})
}

// masquerade takes the marks off again where no rule heeds them.
func (w *walker) masquerade() {
	heeded := false
	for _, r := range w.rules(ref{nat, "POSTROUTING"}) {
		heeded = heeded || r == "-j "+chainPostrouting
	}
	heeded = heeded && slices.ContainsFunc(w.rules(ref{nat, chainPostrouting}), func(r string) bool { return strings.HasPrefix(r, "-j MASQUERADE") })
	for i := range w.observed.Choices {
		w.observed.Choices[i].Masquerade = w.observed.Choices[i].Masquerade && heeded
	}
}

func (w *walker) rules(r ref) []string {
	rules, ok := w.chains[r]
	if !ok {
		var err error
		if rules, err = w.list(r); err != nil && w.failed == nil {
			w.failed = err
		}
		w.chains[r] = rules
	}
	return rules
}

// follow takes packets through a chain. Of a built-in chain, only what leads to
// ours counts.
func (w *walker) follow(at ref, s *way, builtin bool) end {
	for _, text := range w.rules(at) {
		if builtin && !leadsToUs(text) {
			continue
		}
		r := parseRule(text)
		if !r.matches(&w.packet) || s.share == 0 {
			continue
		}
		if !builtin && r.single() && leaf(at.name) && at.table == nat {
			w.observed.Found = true
		}
		w.observed.Rules = append(w.observed.Rules, "-A "+at.name+" "+text)
		taken := &way{s.share * r.probability, s.marked}
		e := w.target(at, r, taken)
		if r.probability < 1 {
			s.share -= taken.share
			if e == goesOn {
				s.share += taken.share
			}
			continue
		}
		if e != goesOn {
			return e
		}
		if r.target == "RETURN" {
			return goesOn
		}
		*s = *taken
	}
	return goesOn
}

func leaf(chain string) bool {
	return strings.HasPrefix(chain, prefix+"N-") || strings.HasPrefix(chain, prefix+"A-") && len(chain) == len(prefix)+4
}

// target does what a rule says.
func (w *walker) target(at ref, r rule, s *way) end {
	switch r.target {
	case "ACCEPT":
		// The chain that asks for the source has another one for those who may.
		w.refused = slices.ContainsFunc(w.rules(at), func(t string) bool { return strings.Contains(t, "-j "+prefix+"SVS-") })
		return accepted
	case "DROP":
		return dropped
	case "REJECT":
		return rejected
	case "MARK":
		s.marked = s.marked || r.set != 0
		return goesOn
	case "DNAT":
		w.choose(r.to, s)
		return translated
	}
	if !strings.HasPrefix(r.target, prefix) {
		return goesOn
	}
	return w.follow(ref{at.table, r.target}, s, false)
}

func (w *walker) choose(to netip.AddrPort, s *way) {
	for i := range w.observed.Choices {
		if c := &w.observed.Choices[i]; c.AddrPort == to {
			c.Probability += s.share
			c.Masquerade = c.Masquerade || s.marked
			return
		}
	}
	w.observed.Choices = append(w.observed.Choices, proxy.Choice{Backend: proxy.Backend{AddrPort: to}, Probability: s.share, Masquerade: s.marked})
}
