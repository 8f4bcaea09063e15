package nftables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// Options of [New]. The zero value programs the namespace that the process is in.
type Options struct {
	// NetNS is a descriptor of the network namespace to program; 0: the
	// process's. It is needed during New only.
	NetNS int
	// MasqueradeMark is the bit of the packet mark for what postrouting is to
	// masquerade; 0: 0x4000, kube-proxy's default.
	MasqueradeMark uint32
	// Traffic counts the packets and bytes of whole connections for each frontend,
	// too, at the price of a look-up for every packet of theirs, which
	// BenchmarkTraffic measures. Connections always count.
	Traffic bool
	// Intercept, if not nil, is called for every transaction, which is done by
	// do. It may fail that, in tests.
	Intercept func(do func() error) error
	Log       *slog.Logger
}

// Engine is the [proxy.Engine] on nf_tables.
type Engine struct {
	mark     uint32
	traffic  bool
	log      *slog.Logger
	table    string
	sock     kernel
	families []proxy.Family
	// questions is a socket for those whom any goroutine may ask, one at a time.
	questions kernel
	asking    sync.Mutex
	// budget is how many bytes a transaction should have. It may become
	// larger by the rules of a chain or one more element.
	budget int

	// What the kernel has, as far as we made it. It is valid after a
	// successful Sync, until something fails.
	valid    bool
	node     proxy.Node
	services map[model.Name]serviceState
	shared   map[elementKey]int // by how many Services' parts an element is wanted
	chains   map[chainKey]*chain
	// garbage is slots that nothing points at any more, with their data.
	garbage map[elementKey]string
	rested  time.Time // the last time that something became garbage

	drift   drift
	monitor monitor // nil: there is none
	sweep   sweep
}

// kernel is the netlink socket; [*nfnl.Socket] is one.
type kernel interface {
	Commit(m *nfnl.Messages) error
	Try(m *nfnl.Messages) error
	Ask(ctx context.Context, m *nfnl.Messages, each func(nfnl.Message)) error
	Limit() int
	Close()
}

type elementKey struct {
	place
	key string
}

type chainKey struct {
	family proxy.Family
	name   string
}

// chain is a chain for frontends, and how many there are. Without any it is
// garbage.
type chain struct {
	spec chainSpec
	uses int
}

// New returns an engine. It programs nothing yet. The error is a
// [*proxy.UnsupportedError] where the kernel has no nf_tables or denies them.
func New(o Options) (*Engine, error) {
	if o.NetNS == 0 {
		o.NetNS = -1
	}
	if o.MasqueradeMark == 0 {
		o.MasqueradeMark = 1 << 14
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s, err := nfnl.Dial(o.NetNS)
	if err != nil {
		return nil, unsupported(err)
	}
	questions, err := nfnl.Dial(o.NetNS)
	if err != nil {
		s.Close()
		return nil, unsupported(err)
	}
	sweeps, err := nfnl.Dial(o.NetNS)
	if err != nil {
		s.Close()
		questions.Close()
		return nil, unsupported(err)
	}
	var k kernel = s
	if o.Intercept != nil {
		k = intercepted{s, o.Intercept}
	}
	e := newEngine(k, questions, o)
	e.sweep.open = func(m *nfnl.Messages) (portions, error) { return sweeps.List(m) }
	e.sweep.close = sweeps.Close
	if m, err := nfnl.DialMonitor(o.NetNS, s); err != nil {
		e.log.Warn("changes of others to nftables are found by looking only", "error", err)
	} else {
		e.monitor = m
	}
	return e, nil
}

func newEngine(k, questions kernel, o Options) *Engine {
	return &Engine{mark: o.MasqueradeMark, traffic: o.Traffic, log: o.Log, table: tableName, sock: k, questions: questions, budget: k.Limit() / 4}
}

// Close implements [proxy.Engine].
func (e *Engine) Close() error {
	e.asking.Lock()
	defer e.asking.Unlock()
	e.questions.Close()
	e.sock.Close()
	if e.monitor != nil {
		e.monitor.Close()
	}
	if e.sweep.close != nil {
		e.sweep.close()
	}
	return nil
}

// rules returns the writer of a family's rules.
func (e *Engine) rules(family proxy.Family) rules {
	return rules{family: family, mark: e.mark, pods: len(ofFamily(e.node.Pods, family)) > 0, interfaces: e.node.PodInterfaces,
		traffic: e.traffic, restricted: len(ofFamily(e.node.NodePorts, family)) > 0}
}

// Sync implements [proxy.Engine]. It lists what the kernel has.
func (e *Engine) Sync(ctx context.Context, plan *proxy.Plan) error {
	e.valid = false
	e.deaf()
	if err := e.probeFamilies(); err != nil {
		return err
	}
	if err := e.makeWay(ctx, plan); err != nil {
		return err
	}
	spare, err := e.hasTables(ctx, spareName)
	if err != nil {
		return err
	}
	// As long as the spare table serves, ours is not attached before it is whole.
	err = e.fill(ctx, plan, spare)
	if err != nil {
		return err
	}
	if err := e.listen(ctx); err != nil {
		return err
	}
	e.valid = true
	return nil
}

// fill makes the table match the plan, whatever of its layout is there.
func (e *Engine) fill(ctx context.Context, plan *proxy.Plan, attachLast bool) error {
	generation, err := e.generation(ctx)
	if err != nil {
		return fmt.Errorf("nftables: %w", unsupported(err))
	}
	if _, err := e.wake(ctx); err != nil {
		return err
	}
	found, err := e.list(ctx)
	if err != nil {
		return err
	}
	e.drift = drift{generation: generation, looked: e.drift.looked, took: e.drift.took}
	e.node = plan.Node
	e.services = make(map[model.Name]serviceState, plan.Len())
	e.shared = map[elementKey]int{}
	e.chains = map[chainKey]*chain{}
	e.garbage = map[elementKey]string{}
	for _, k := range found.chains {
		e.chains[k] = &chain{}
	}
	c, err := e.compare(ctx, found, func(yield func(wanted) bool) {
		for s := range plan.Services() {
			if !yield(wanted{plan: s}) {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	if len(found.tables) > 0 {
		e.sweepAll()
	}
	return e.write(ctx, c, attachLast)
}

// write makes a change of elements, and all rules anew.
func (e *Engine) write(ctx context.Context, c *change, attachLast bool) error {
	m := e.transaction()
	for _, family := range e.families {
		if err := e.rules(family).define(m); err != nil {
			return err
		}
		e.putRanges(m, family)
	}
	if attachLast {
		c.last = func(m *batch) error {
			if err := e.attach(m); err != nil {
				return err
			}
			e.dropSpare(m)
			return nil
		}
	} else if err := e.attach(m); err != nil {
		return err
	}
	for k, ch := range e.chains {
		if ch.uses > 0 {
			c.chains = append(c.chains, k)
		}
	}
	return c.commit(ctx, m)
}

func (e *Engine) attach(m *batch) error {
	for _, family := range e.families {
		if err := e.rules(family).attach(m); err != nil {
			return err
		}
	}
	return nil
}

// Apply implements [proxy.Engine].
func (e *Engine) Apply(ctx context.Context, changes proxy.Changes) error {
	if !e.valid {
		return errors.New("nftables: Apply without a successful Sync before")
	}
	e.valid = false
	c := change{engine: e}
	m := e.transaction()
	if err := e.changeNode(m, &c, changes.New.Node); err != nil {
		return err
	}
	old := map[elementKey]string{}
	keep := func(el element) {
		k := elementKey{el.place, el.key}
		if specs[el.set].shared {
			e.shared[k]--
		}
		old[k] = el.data
	}
	for _, s := range changes.Services {
		e.services[s.Name].elements(keep, e.release)
	}
	for _, s := range changes.Services {
		next := e.services[s.Name].next(s.New, e.traffic)
		next.elements(func(el element) { e.renew(&c, el, old) }, func(family proxy.Family, spec chainSpec) { e.use(family, spec, &c) })
		if next == nil {
			delete(e.services, s.Name)
		} else {
			e.services[s.Name] = next
		}
	}
	for k, data := range old {
		if specs[k.set].shared {
			if e.shared[k] > 0 {
				continue
			}
			delete(e.shared, k)
		}
		c.remove(k, data)
	}
	if err := c.commit(ctx, m); err != nil {
		if e.sweeping() && errors.Is(err, unix.EEXIST) {
			// A slot is there that an earlier process did not remove.
			return e.Sync(ctx, changes.New)
		}
		return err
	}
	e.valid = true
	return nil
}

// renew adds an element to a change, if it is not there already.
func (e *Engine) renew(c *change, el element, old map[elementKey]string) {
	k := elementKey{el.place, el.key}
	if specs[el.set].shared {
		_, had := old[k]
		e.shared[k]++
		if !had && e.shared[k] == 1 {
			c.add(el, false)
		}
		return
	}
	data, had := old[k]
	delete(old, k)
	if !had {
		if data, had = e.garbage[k]; had {
			delete(e.garbage, k)
		}
	}
	if !had || data != el.data {
		c.add(el, had)
	}
}

// use counts a frontend that goes to a chain, and the chains that this one goes
// to. New chains become part of the change.
func (e *Engine) use(family proxy.Family, spec chainSpec, c *change) {
	for _, s := range append(spec.needs(), spec) {
		name := s.verdict()
		if name == chainRefuse || name == verdictDrop {
			continue
		}
		k := chainKey{family, name}
		if e.chains[k] == nil {
			e.chains[k] = &chain{}
		}
		ch := e.chains[k]
		ch.spec = s
		if ch.uses++; ch.uses == 1 && c != nil {
			c.chains = append(c.chains, k)
		}
	}
}

// release is the reverse of use.
func (e *Engine) release(family proxy.Family, spec chainSpec) {
	for _, s := range append(spec.needs(), spec) {
		if ch := e.chains[chainKey{family, s.verdict()}]; ch != nil {
			if ch.uses--; ch.uses == 0 {
				e.rested = time.Now()
			}
		}
	}
}

// Cleanup implements [proxy.Engine].
func (e *Engine) Cleanup(ctx context.Context) error {
	e.valid = false
	for _, do := range [...]func(*batch, proxy.Family){flushTable, deleteTable} {
		found := false
		for _, table := range [...]string{spareName, tableName} {
			for _, family := range [...]proxy.Family{proxy.IPv4, proxy.IPv6} {
				m := &batch{table: table}
				m.BeginBatch()
				do(m, family)
				err := explain(m, e.sock.Commit(&m.Messages))
				if err != nil && !missing(err) {
					return fmt.Errorf("nftables: remove table %s of %s: %w", table, family, unsupported(err))
				}
				found = found || err == nil
			}
		}
		if !found {
			return nil
		}
		if err := leave(ctx); err != nil {
			return err
		}
	}
	return nil
}

// leave waits until no packet is on its way any more through rules that are gone.
// Only then their sets may go: to the kernel, what a transaction deletes of a map
// is gone at once, also for rules that a packet was in before, and then they refuse
// what they do not find.
func leave(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(50 * time.Millisecond):
		return nil
	}
}

// missing reports whether an object, or its whole family, is not there.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}
