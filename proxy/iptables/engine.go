package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
)

// Options of [New]. The zero value programs the namespace that the process is in,
// with the variant of iptables that the machine uses.
type Options struct {
	Variant Variant
	// NetNS is a descriptor of the network namespace to program; 0: the
	// process's. It is needed during New only.
	NetNS int
	// MasqueradeMark is the bit of the packet mark for what POSTROUTING is to
	// masquerade; 0: 0x4000, kube-proxy's default.
	MasqueradeMark uint32
	// ForwardInvalid leaves alone packets that connection tracking cannot place.
	// Otherwise they are dropped where they would be forwarded, because they
	// would reach a client from the backend's own address, which answers with a
	// reset (kubernetes/kubernetes#74839). It is for nodes whose connection
	// tracking is liberal with TCP.
	ForwardInvalid bool
	// Intercept, if not nil, stands around everything that changes rules, and
	// may fail it before or after it is done.
	Intercept func(do func() error) error
	Log       *slog.Logger
}

// Engine is the [proxy.Engine] on iptables.
type Engine struct {
	options  Options
	log      *slog.Logger
	variant  Variant
	netns    int
	kernel   kernel
	random   bool // masquerading can choose ports at random
	others   []*commands
	families []*family
	canary   *canary
	// programs are those of the variant, for what anybody may ask at any time.
	programs   *commands
	counts     counters
	ruleCounts [len(families)]ruleCounts

	// What the kernel has, as far as we made it. It is valid after a successful
	// Sync, until something fails.
	valid bool
	plan  *proxy.Plan
	looks share // looking at all rules, without what is written for it
	// repaired tells that the last look found something to repair.
	repaired bool
	stepped  time.Time // the end of the last Apply
}

// family is what is known of one family.
type family struct {
	proxy.Family
	rules *ruleset
	found *listing // by the probe, for the first Sync
	// printed are chains that this version of iptables prints in other words
	// than ours.
	printed map[ref]words
}

// New returns an engine. It programs nothing yet. The error is a
// [*proxy.UnsupportedError] where the machine has no iptables.
func New(o Options) (*Engine, error) {
	if o.MasqueradeMark == 0 {
		o.MasqueradeMark = 1 << 14
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{options: o, log: o.Log, netns: -1}
	if o.NetNS != 0 {
		fd, err := unix.FcntlInt(uintptr(o.NetNS), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("iptables: network namespace: %w", err)
		}
		e.netns = fd
	}
	if err := e.find(); err != nil {
		_ = e.Close()
		return nil, err
	}
	e.canary = newCanary(e.variant, e.netns)
	return e, nil
}

// Close implements [proxy.Engine].
func (e *Engine) Close() error {
	e.counts.stop()
	if e.canary != nil {
		e.canary.close()
	}
	if e.netns >= 0 {
		_ = unix.Close(e.netns)
		e.netns = -1
	}
	return nil
}

// Variant returns the variant that the engine uses.
func (e *Engine) Variant() Variant { return e.variant }

func (e *Engine) renderer(f proxy.Family, node *proxy.Node) renderer {
	return renderer{family: f, node: node, mark: e.options.MasqueradeMark, randomFully: e.random, keepInvalid: e.options.ForwardInvalid}
}

// each calls f for every family, as [forFamilies] does.
func (e *Engine) each(f func(*family) error) error {
	errs := forFamilies(func(fam proxy.Family) error {
		i := slices.IndexFunc(e.families, func(have *family) bool { return have.Family == fam })
		if i < 0 {
			return nil
		}
		if err := f(e.families[i]); err != nil {
			return fmt.Errorf("iptables: %s: %w", fam, err)
		}
		return nil
	})
	return errors.Join(errs[:]...)
}

// Sync implements [proxy.Engine]. It lists what the kernel has.
func (e *Engine) Sync(ctx context.Context, plan *proxy.Plan) error {
	first := e.plan == nil
	e.valid = false
	if err := checkInterfaces(plan.Node.PodInterfaces); err != nil {
		return err
	}
	if w, ok := e.canary.sense.(*watch); ok {
		w.deaf()
		defer w.listen()
	}
	e.canary.begin()
	e.canary.forget() // what is changed after this, the lists need not show
	if err := e.probe(ctx); err != nil {
		return err
	}
	e.plan = plan
	if _, err := e.reconcile(ctx); err != nil {
		return err
	}
	e.valid = true
	if first {
		// What an engine of the other variant made has had its successor now.
		for _, c := range e.others {
			if err := removeAll(ctx, c); err != nil {
				e.log.Warn("cannot remove the rules of the other variant of iptables", "error", err)
			}
		}
	}
	return nil
}

// checkInterfaces refuses names that would be something else in a rule.
func checkInterfaces(names []string) error {
	for _, n := range names {
		if n == "" || len(n) > unix.IFNAMSIZ || strings.ContainsAny(n, " \t\n\"'\\/!") {
			return fmt.Errorf("iptables: %q is no name of an interface", n)
		}
	}
	return nil
}

// reconcile makes the kernel match the plan, whatever is there, and reports
// whether that took anything. The canary has begun before.
func (e *Engine) reconcile(ctx context.Context) (changed bool, err error) {
	dormant := false
	if w, ok := e.canary.sense.(*watch); ok {
		if dormant, err = w.wake(ctx, e.families); err != nil {
			return dormant, err
		}
	}
	if dormant {
		e.log.Warn("somebody had made tables of iptables dormant")
	}
	var written atomic.Bool
	var looking atomic.Int64
	err = e.each(func(f *family) error {
		start := time.Now()
		found := f.found
		if f.found = nil; found == nil {
			var err error
			if found, err = list(ctx, e.kernel, f.Family); err != nil {
				return err
			}
		}
		f.rules = newRuleset(e.renderer(f.Family, &e.plan.Node))
		s := f.rules.compare(found, e.plan.Services(), f.printed)
		// Not the writing, nor waiting for others to do that: it is no reason
		// to look less often.
		looking.Store(max(looking.Load(), int64(time.Since(start))))
		if !s.empty() {
			written.Store(true)
		}
		return e.write(ctx, f, s)
	})
	e.looks.done(time.Duration(looking.Load()))
	e.canary.end()
	return dormant || written.Load(), err
}

// write gives a step to iptables-restore.
func (e *Engine) write(ctx context.Context, f *family, s *step) error {
	c := &e.ruleCounts[slices.Index(families[:], f.Family)]
	var wrote [2]int
	if !s.empty() {
		text := s.text()
		if err := e.restore(ctx, f.Family, text); err != nil {
			return err
		}
		wrote = rulesIn(text)
	}
	for t, n := range f.rules.size() {
		c.total[t].Store(int64(n))
		c.last[t].Store(int64(wrote[t]))
	}
	c.known.Store(true)
	return nil
}

// list reads what the kernel has of ours.
func list(ctx context.Context, k kernel, f proxy.Family) (*listing, error) {
	l := &listing{chains: map[ref][]string{}}
	for _, t := range [...]table{nat, filter} {
		out, err := k.save(ctx, f, t, false)
		if err != nil {
			return nil, err
		}
		if err := l.parse(t, out); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Apply implements [proxy.Engine].
func (e *Engine) Apply(ctx context.Context, changes proxy.Changes) error {
	if !e.valid {
		return errors.New("iptables: Apply without a successful Sync before")
	}
	e.valid = false
	if err := checkInterfaces(changes.New.Node.PodInterfaces); err != nil {
		return err
	}
	old := e.plan
	e.plan = changes.New
	e.canary.begin()
	err := e.each(func(f *family) error {
		return e.write(ctx, f, e.change(f, old, changes))
	})
	if err != nil {
		return err
	}
	e.canary.end()
	e.valid, e.stepped = true, time.Now()
	return nil
}

// change returns the step of a family.
func (e *Engine) change(f *family, old *proxy.Plan, changes proxy.Changes) *step {
	before, after := f.rules.renderer, e.renderer(f.Family, &changes.New.Node)
	was, is := before.static(), after.static()
	f.rules.renderer = after
	d := f.rules.begin()
	if before.sameServices(&after) {
		for _, c := range changes.Services {
			d.remove(before.service(c.Old))
			d.add(after.service(c.New))
		}
	} else {
		for s := range old.Services() {
			d.remove(before.service(s))
		}
		for s := range changes.New.Services() {
			d.add(after.service(s))
		}
	}
	s := d.step()
	for r, rules := range is {
		if !slices.Equal(was[r], rules) {
			s.write[r] = rules
		}
	}
	return s
}

// sameServices reports whether what Services' chains depend on of the node is
// the same.
func (r *renderer) sameServices(o *renderer) bool {
	return slices.Equal(r.pods(), o.pods()) && r.node.KnowsPods(r.family) == o.node.KnowsPods(o.family)
}

// Render returns all rules of a plan for one family, as iptables-save prints
// them.
func Render(plan *proxy.Plan, f proxy.Family, o Options) string {
	if o.MasqueradeMark == 0 {
		o.MasqueradeMark = 1 << 14
	}
	e := &Engine{options: o, random: true}
	s := newRuleset(e.renderer(f, &plan.Node))
	chains := s.static()
	d := s.begin()
	for service := range plan.Services() {
		c := s.service(service)
		d.count(c, 1)
		for _, t := range c.chains {
			chains[ref{nat, t.name}] = t.rules
		}
	}
	var b bytes.Buffer
	s.print(&b, chains)
	return b.String()
}

var (
	_ proxy.Engine  = (*Engine)(nil)
	_ proxy.Tracer  = (*Engine)(nil)
	_ proxy.Counter = (*Engine)(nil)

	_ prometheus.Collector = (*Engine)(nil)
)
