package ipvs

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// Engine is the [proxy.Engine] on IPVS. It is a [proxy.Tracer] and a
// [proxy.Counter], too.
type Engine struct {
	options  Options
	log      *slog.Logger
	kernel   kernel
	filter   filter
	reader   *reader
	families []proxy.Family
	compiler compiler
	// schedulers are those that the kernel was asked for.
	schedulers map[string]bool

	// made are the virtual servers that this process has made or tried to.
	made map[serverID]bool

	// What the kernel has, as far as we made it. It is valid after a
	// successful Sync, until something fails.
	valid     bool
	node      proxy.Node
	services  map[model.Name]*serviceState
	servers   map[serverID]*server
	elements  map[elementKey]*shared
	chains    map[chainKey]*sharedChain
	addresses map[netip.Addr]*claims
	// local are the machine's addresses on other interfaces. A Service that has
	// one of them only has its ports: it is neither bound nor closed.
	local map[netip.Addr]bool
	// draining are destinations that were taken away, with the time until which
	// they may keep their connections.
	draining map[serverID]map[netip.AddrPort]time.Time
	// retired are virtual servers that no frontend needs, with what they still
	// need for the sake of old connections.
	retired map[serverID]*serviceState

	// budget is how many bytes a transaction should have.
	budget int
	drift  drift
	// frontends says whose traffic a virtual server counts, for other goroutines.
	frontends struct {
		sync.Mutex
		of map[serverID]proxy.FrontendKey
	}
}

// shared is an element that Services may have in common, and how many have it.
type shared struct {
	data string
	uses int
}

// sharedChain is a chain for frontends, and how many Services have such. Without
// any it is garbage.
type sharedChain struct {
	spec chainSpec
	uses int
}

// claims counts the Services that have an address, and the virtual servers that
// only have it for the sake of old connections.
type claims struct {
	uses, external, retired int
}

func newEngine(k kernel, f filter, o Options) *Engine {
	if o.Intercept != nil {
		k, f = intercepted{k, o.Intercept}, interceptedFilter{f, o.Intercept}
	}
	e := &Engine{options: o, log: o.Log, kernel: k, filter: f, budget: f.Limit() / 4, made: map[serverID]bool{}}
	e.reset()
	return e
}

// reset forgets what the engine knows of the kernel.
func (e *Engine) reset() {
	e.valid = false
	e.schedulers = map[string]bool{}
	e.compiler = compiler{scheduler: e.options.Scheduler, available: e.available, marks: newMarks(e.options.Marks), local: e.nodePortAddresses}
	e.services = map[model.Name]*serviceState{}
	e.servers = map[serverID]*server{}
	e.elements = map[elementKey]*shared{}
	e.chains = map[chainKey]*sharedChain{}
	e.addresses = map[netip.Addr]*claims{}
	e.local = map[netip.Addr]bool{}
	e.draining = map[serverID]map[netip.AddrPort]time.Time{}
	e.retired = map[serverID]*serviceState{}
	e.frontends.Lock()
	defer e.frontends.Unlock()
	e.frontends.of = map[serverID]proxy.FrontendKey{}
}

// Close implements [proxy.Engine].
func (e *Engine) Close() error {
	e.kernel.close()
	e.filter.Close()
	if e.reader != nil {
		e.reader.close()
	}
	return nil
}

// rules returns the writer of a family's rules.
func (e *Engine) rules(family proxy.Family) rules {
	return rules{family: family, masquerade: e.options.MasqueradeMark, knowsPods: e.node.KnowsPods(family),
		interfaces: e.node.PodInterfaces, restricted: len(outermost(e.node.NodePorts, family)) > 0}
}

// Sync implements [proxy.Engine]. It lists what the kernel has.
func (e *Engine) Sync(ctx context.Context, plan *proxy.Plan) error {
	e.reset()
	if err := e.probeFamilies(); err != nil {
		return err
	}
	if err := e.kernel.prepare(); err != nil {
		return err
	}
	if !e.available(e.options.Scheduler) {
		return &proxy.UnsupportedError{Engine: "ipvs", Feature: "the kernel has no scheduler " + e.options.Scheduler, Err: unix.ENOENT,
			Remedy: "run \"modprobe ip_vs_" + e.options.Scheduler + "\", or choose another one"}
	}
	found, err := e.look(ctx)
	if err != nil {
		return err
	}
	for k, data := range found.tables.elements {
		e.keepMark(k, data)
	}
	e.node, e.local = plan.Node, found.bound.others
	for s := range plan.Services() {
		state := e.compiler.compile(s)
		e.services[s.Name] = state
		e.acquire(state, nil)
	}
	if err := e.reconcile(ctx, found); err != nil {
		return err
	}
	e.publish(maps.Keys(e.servers))
	e.valid = true
	return nil
}

// keepMark gives a frontend the mark that it had under an earlier process.
func (e *Engine) keepMark(k elementKey, data string) {
	outside := k.set == setNodePortOutsideMarks
	if !outside && k.set != setNodePortMarks && k.set != setMarks || len(data) != 4 {
		return
	}
	if f, ok := parseFrontend(k.family, k.key); ok {
		e.compiler.marks.take(markKey{f, outside}, nativeUint32(data))
	}
}

// available reports whether the kernel has a scheduler, and loads its module.
func (e *Engine) available(scheduler string) bool {
	have, asked := e.schedulers[scheduler]
	if !asked {
		err := e.kernel.tryScheduler(scheduler)
		if have = err == nil; !have {
			e.log.Warn("the kernel lacks a scheduler that a Service asks for",
				"scheduler", scheduler, "error", err, "remedy", "modprobe ip_vs_"+scheduler)
		}
		e.schedulers[scheduler] = have
	}
	return have
}

// Apply implements [proxy.Engine].
func (e *Engine) Apply(ctx context.Context, changes proxy.Changes) error {
	if !e.valid {
		return errors.New("ipvs: Apply without a successful Sync before")
	}
	e.valid = false
	c := newChange(e)
	for _, s := range changes.Services {
		e.release(e.services[s.Name], c)
	}
	for _, s := range changes.Services {
		if state := e.compiler.compile(s.New); state != nil {
			e.services[s.Name] = state
			e.acquire(state, c)
		} else {
			delete(e.services, s.Name)
		}
	}
	if c.changeNode(changes.New.Node); !slices.Equal(changes.Old.Node.NodePorts, changes.New.Node.NodePorts) {
		e.recompileLocal(c)
	}
	if err := c.commit(ctx); err != nil {
		return err
	}
	e.publish(maps.Keys(c.servers))
	e.valid = true
	return nil
}

// nodePortAddresses returns the machine's addresses that NodePorts answer on.
func (e *Engine) nodePortAddresses(family proxy.Family) []netip.Addr {
	networks := outermost(e.node.NodePorts, family)
	var out []netip.Addr
	for a := range e.local {
		if proxy.FamilyOf(a) == family && !a.IsLoopback() && (len(networks) == 0 ||
			slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })) {
			out = append(out, a)
		}
	}
	return out
}

// recompileLocal makes the Services that depend on the machine's addresses anew.
func (e *Engine) recompileLocal(c *change) {
	for name, s := range e.services {
		if s.local {
			e.release(s, c)
			e.services[name] = e.compiler.compile(s.plan)
			e.acquire(e.services[name], c)
		}
	}
}

// acquire adds what a Service needs to what the kernel is to have. The change
// notes what was there before.
func (e *Engine) acquire(s *serviceState, c *change) {
	for id, v := range s.servers {
		c.touchServer(id)
		e.servers[id] = v
	}
	for k, data := range s.elements {
		c.touchElement(k)
		if have := e.elements[k]; have != nil {
			e.elements[k] = &shared{data, have.uses + 1}
		} else {
			e.elements[k] = &shared{data, 1}
		}
	}
	for k, spec := range s.chains {
		c.touchChain(k)
		if e.chains[k] == nil {
			e.chains[k] = &sharedChain{}
		}
		e.chains[k].spec = spec
		e.chains[k].uses++
	}
	for a, external := range s.addresses {
		c.touchAddress(a)
		if e.addresses[a] == nil {
			e.addresses[a] = &claims{}
		}
		e.addresses[a].uses++
		if external {
			e.addresses[a].external++
		}
		if s.retired {
			e.addresses[a].retired++
		}
	}
}

// release is the reverse of acquire. Marks stay with their frontends until the
// change is made, so that one which remains keeps its own.
func (e *Engine) release(s *serviceState, c *change) {
	if s == nil {
		return
	}
	for id := range s.servers {
		c.touchServer(id)
		delete(e.servers, id)
	}
	for k := range s.elements {
		c.touchElement(k)
		have := e.elements[k]
		if have.uses == 1 {
			delete(e.elements, k)
		} else {
			e.elements[k] = &shared{have.data, have.uses - 1}
		}
	}
	for k := range s.chains {
		c.touchChain(k)
		e.chains[k].uses--
	}
	for a, external := range s.addresses {
		c.touchAddress(a)
		have := e.addresses[a]
		if have.uses--; external {
			have.external--
		}
		if s.retired {
			have.retired--
		}
		if have.uses == 0 {
			delete(e.addresses, a)
		}
	}
	if c != nil {
		c.marks = append(c.marks, s.marks...)
	}
}

// publish tells other goroutines whose traffic virtual servers count.
func (e *Engine) publish(touched iter.Seq[serverID]) {
	e.frontends.Lock()
	defer e.frontends.Unlock()
	for id := range touched {
		if s := e.servers[id]; s != nil {
			e.frontends.of[id.kernelID()] = s.frontend
		} else {
			delete(e.frontends.of, id.kernelID())
		}
	}
}

// addressElements returns the elements of an address in the sets of addresses.
func (e *Engine) addressElements(a netip.Addr) map[elementKey]string {
	c := e.addresses[a]
	if c == nil || e.local[a] {
		return nil
	}
	family := proxy.FamilyOf(a)
	out := map[elementKey]string{{place{family, setAddresses}, string(a.AsSlice())}: ""}
	switch {
	case c.retired == c.uses:
		out[elementKey{place{family, setOldAddresses}, string(a.AsSlice())}] = ""
	case c.external == c.uses:
		out[elementKey{place{family, setExternalAddresses}, string(a.AsSlice())}] = ""
	}
	return out
}

// allElements returns the elements that the tables are to have, other than the
// node's networks.
func (e *Engine) allElements() map[elementKey]string {
	out := make(map[elementKey]string, len(e.elements)+len(e.addresses))
	for k, s := range e.elements {
		out[k] = s.data
	}
	for a := range e.addresses {
		maps.Copy(out, e.addressElements(a))
	}
	for k := range out {
		if !e.has(k.family) {
			delete(out, k)
		}
	}
	return out
}

// has reports whether the machine can do a family.
func (e *Engine) has(f proxy.Family) bool {
	return slices.Contains(e.families, f)
}

// missingObject reports whether what was to be changed is not there.
func missingObject(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) }

var (
	_ proxy.Engine  = (*Engine)(nil)
	_ proxy.Tracer  = (*Engine)(nil)
	_ proxy.Counter = (*Engine)(nil)
	_ proxy.Limited = (*Engine)(nil)
)
