package intercept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/proxy"
)

// Options of [New].
type Options struct {
	Config
	Store *model.Store
	// Alive reports whether none of the server's loops is stuck, and Ready whether
	// it knows the cluster's names. Called a few times a second.
	Alive, Ready func() bool
	// Local returns the addresses of this node; called at each change.
	Local func() []netip.Addr
	Log   *slog.Logger // by default slog.Default
}

// Interceptor is the interception of one process. It is a prometheus.Collector.
type Interceptor struct {
	Options
	families []proxy.Family
	claim    *claim
	table    *table
	stale    chan struct{} // a plan is in force for which flows may be stale
	plan     Plan          // of the working goroutine
	shown    atomic.Pointer[Plan]

	state    atomic.Int32
	early    bool      // the configured addresses are answered before the server is ready
	looked   time.Time // whether others answer on these
	answered answered
	repairs  atomic.Uint64
	failures atomic.Uint64
	silent   int // looks at which a successor was not alive
	installs int
}

// The states, of which metrics and logs tell.
const (
	stateWaiting    int32 = iota // for the server to be ready
	stateCurrent                 // queries come to this process
	stateSuperseded              // they go to a successor
	stateWithdrawn               // this process ends
)

// The times of [Interceptor.Run].
const (
	beat        = 150 * time.Millisecond // between two questions whether the server is alive
	verifyEvery = time.Second
	renewEvery  = 2 * time.Minute
	// settle is longer than any packet is on its way from the rules to the
	// server's socket.
	settle = 50 * time.Millisecond
	// patience is how long the cluster's names are waited for where nobody else
	// answers on the configured addresses, as after a boot without an API server.
	patience = 2 * time.Second
)

// New takes a seat for this process. Nothing is intercepted before
// [Interceptor.Run]. The error is a [*proxy.UnsupportedError] where the kernel
// cannot do it.
func New(o Options) (*Interceptor, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	i := &Interceptor{Options: o, stale: make(chan struct{}, 1)}
	if err := CheckAddresses(o.Addresses); err != nil {
		return nil, fmt.Errorf("intercept: %w", err)
	}
	t, err := openTable()
	if err != nil {
		return nil, err
	}
	i.table = t
	if err := i.prepare(); err != nil {
		i.Close()
		return nil, err
	}
	t.seat = i.claim.seat
	return i, nil
}

// prepare finds the families that the machine has, and takes the seat.
func (i *Interceptor) prepare() error {
	for _, f := range both {
		err := i.table.try(f)
		if err == nil {
			err = addRoute(f)
		}
		if errors.Is(err, unix.EPERM) {
			err = unsupported(err)
		}
		switch {
		case err == nil:
			i.families = append(i.families, f)
		case f == proxy.IPv4:
			return err
		default:
			i.Log.Warn("dns: not intercepted over IPv6 on this node", "error", err)
		}
	}
	var err error
	i.claim, err = claimSeat(i.families)
	return err
}

// Close gives up the seat. That is the end of the connections that came by way of it:
// call it when the server has ended.
func (i *Interceptor) Close() {
	i.table.close()
	if i.claim != nil {
		i.claim.close()
	}
}

// Listen returns the addresses on which the server has to answer besides its own,
// over UDP and TCP.
func (i *Interceptor) Listen() []netip.AddrPort {
	var out []netip.AddrPort
	for _, f := range i.families {
		for slot := range i.slots(f) {
			out = append(out, netip.AddrPortFrom(server(f, i.claim.seat, slot), Port))
		}
	}
	return out
}

// slots returns how many addresses of a family there can be: those that are
// configured, and the Service's one.
func (i *Interceptor) slots(f proxy.Family) int {
	n := 1
	for _, a := range i.Addresses {
		if proxy.FamilyOf(a) == f {
			n++
		}
	}
	return min(n, maxSlots)
}

// Probers returns the addresses from which the server is asked whether it is
// alive. It has to send back what it gets from there.
func (i *Interceptor) Probers() []netip.Addr {
	var out []netip.Addr
	for _, f := range i.families {
		out = append(out, prober(f, i.claim.seat))
	}
	return out
}

// Run intercepts until the context ends, and then leaves the queries to whoever
// else there is: a successor, or the Service's ordinary endpoints. When it returns,
// no more queries come, and those that came are in the server's sockets. Its error
// is one of the kernel's that nothing can be done about.
func (i *Interceptor) Run(ctx context.Context) error {
	watch := i.Store.Watch()
	defer watch.Stop()
	g, ctx := errgroup.WithContext(ctx)
	updates := make(chan *model.Snapshot)
	g.Go(func() error {
		for {
			up, err := watch.Next(ctx)
			if err != nil {
				return nil // only the context ends it
			}
			if !i.concerns(up) {
				continue
			}
			select {
			case updates <- up.New:
			case <-ctx.Done():
				return nil
			}
		}
	})
	for f, conn := range i.claim.conn {
		g.Go(func() error { return i.listen(ctx, f, conn) })
	}
	g.Go(func() error {
		i.forget(ctx)
		return nil
	})
	g.Go(func() error {
		i.work(ctx, updates)
		return i.end(context.WithoutCancel(ctx))
	})
	return g.Wait()
}

// concerns reports whether an update has to do with the DNS Service or this node.
func (i *Interceptor) concerns(up model.Update) bool {
	if up.Old.Synced(model.KindService, model.KindEndpointSlice) != up.New.Synced(model.KindService, model.KindEndpointSlice) {
		return true
	}
	for _, k := range up.Changed {
		switch k.Kind {
		case model.KindService:
			if k.Namespace == i.Service.Namespace && k.Name == i.Service.Name {
				return true
			}
		case model.KindEndpointSlice:
			for _, snap := range []*model.Snapshot{up.Old, up.New} {
				if s, ok := model.EndpointSlices.Get(snap, k.Namespace, k.Name); ok && s.Namespace == i.Service.Namespace && s.Service == i.Service.Name {
					return true
				}
			}
		}
	}
	return false
}

// work is the life of an interceptor until the context ends.
func (i *Interceptor) work(ctx context.Context, updates <-chan *model.Snapshot) {
	beats := time.NewTicker(beat)
	defer beats.Stop()
	verify := time.NewTicker(verifyEvery)
	defer verify.Stop()
	renew := time.NewTicker(renewEvery)
	defer renew.Stop()
	began := time.Now()
	snap := i.Store.Snapshot()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case snap = <-updates:
			err = i.replan(ctx, snap)
		case <-beats.C:
			err = i.beat(ctx, snap, time.Since(began))
		case <-verify.C:
			err = i.verify(ctx, snap)
		case <-renew.C:
			if i.state.Load() == stateCurrent {
				err = i.table.renewFallback(ctx, i.plan)
			}
		}
		if err != nil && ctx.Err() == nil {
			i.failures.Add(1)
			i.Log.Error("dns: interception", "error", err)
		}
	}
}

// beat takes over when it is time, and asks the server whether it is alive.
func (i *Interceptor) beat(ctx context.Context, snap *model.Snapshot, waited time.Duration) error {
	if !i.Alive() {
		return nil
	}
	var err error
	waiting := i.state.Load() == stateWaiting
	switch ready := snap.Synced(model.KindService, model.KindEndpointSlice) && i.Ready(); {
	case ready && (waiting || i.early):
		i.early = false
		err = i.takeOver(ctx, snap)
	case ready:
	case waiting && waited > patience:
		err = i.takeOverEarly(ctx, snap)
	case !i.early:
		return nil
	}
	i.ask()
	return err
}

// takeOverEarly answers on the configured addresses while the cluster's names are
// not known, unless others do: another process, or the endpoints that the rules of
// one that has died lead to.
func (i *Interceptor) takeOverEarly(ctx context.Context, snap *model.Snapshot) error {
	if len(i.Addresses) == 0 || time.Since(i.looked) < patience {
		return nil
	}
	i.looked = time.Now()
	for _, f := range i.families {
		seat, err := i.table.current(ctx, f)
		if err != nil && !missing(err) {
			return err
		}
		if seat >= 0 && (seat != i.claim.seat && taken(f, seat) || i.answeredByOthers(ctx, f)) {
			return nil
		}
	}
	i.early = true
	i.Log.Warn("dns: the cluster's names are not known yet; only the configured addresses are intercepted")
	return i.takeOver(ctx, snap)
}

// answeredByOthers asks for the root's name servers, as any client would, and reports
// whether anybody said anything.
func (i *Interceptor) answeredByOthers(ctx context.Context, family proxy.Family) bool {
	c := dns.Client{Timeout: time.Second / 2}
	for _, a := range i.Addresses {
		if proxy.FamilyOf(a) != family {
			continue
		}
		q := new(dns.Msg).SetQuestion(".", dns.TypeNS)
		if _, _, err := c.ExchangeContext(ctx, q, netip.AddrPortFrom(a, Port).String()); err == nil {
			return true
		}
	}
	return false
}

// planFor returns the plan for a snapshot, without the families that the machine
// does not have.
func (i *Interceptor) planFor(snap *model.Snapshot) Plan {
	config := i.Config
	if i.early {
		config.Service = model.Name{} // its endpoints know more than this server
	}
	plan := MakePlan(config, snap, i.Local())
	plan.Families = slices.DeleteFunc(plan.Families, func(f FamilyPlan) bool { return !slices.Contains(i.families, f.Family) })
	for n := range plan.Families {
		f := &plan.Families[n]
		f.Captured = f.Captured[:min(len(f.Captured), i.slots(f.Family))]
	}
	return plan
}

// takeOver makes this process the current one.
func (i *Interceptor) takeOver(ctx context.Context, snap *model.Snapshot) error {
	plan := i.planFor(snap)
	if err := i.install(ctx, plan, i.installs == 0); err != nil {
		return err
	}
	i.state.Store(stateCurrent)
	i.Log.Info("dns: queries are intercepted", "seat", i.claim.seat, "addresses", i.Captured())
	return nil
}

func (i *Interceptor) install(ctx context.Context, plan Plan, fresh bool) error {
	err := i.table.install(ctx, plan, fresh)
	if incompatible(err) {
		// Another version of sluice had another layout.
		i.Log.Warn("dns: replacing a table that cannot be taken over", "error", err)
		if err = i.table.remove(); err == nil {
			err = i.table.install(ctx, plan, fresh)
		}
	}
	if err != nil {
		return err
	}
	i.plan = plan
	i.shown.Store(&plan)
	i.installs++
	select {
	case i.stale <- struct{}{}:
	default: // it is to be done anyway
	}
	return nil
}

// incompatible reports whether the kernel refused to change what is there into
// what is wanted.
func incompatible(err error) bool {
	return errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBUSY)
}

// errWaiting indicates that a server has not been ready yet.
var errWaiting = errors.New("queries are not intercepted yet")

// Check returns an error while queries do not come to this process, other than
// because they go to a successor: until they have come for the first time (a
// predecessor must not end before, for there may be no other server), and while the
// server does not answer.
func (i *Interceptor) Check() error {
	if i.shown.Load() == nil {
		return errWaiting
	}
	if i.state.Load() != stateCurrent {
		return nil
	}
	now := time.Now()
	for _, a := range i.Captured() {
		if !i.answered.alive(a, now) {
			return fmt.Errorf("the server does not answer at %v, whose queries go to the ordinary endpoints", a)
		}
	}
	return nil
}

// Captured returns the addresses that are intercepted while the server is alive.
func (i *Interceptor) Captured() []netip.Addr {
	var out []netip.Addr
	if plan := i.shown.Load(); plan != nil {
		for _, f := range plan.Families {
			out = append(out, f.Captured...)
		}
	}
	return out
}

// replan follows a change of the Service.
func (i *Interceptor) replan(ctx context.Context, snap *model.Snapshot) error {
	if i.state.Load() != stateCurrent || i.early || !snap.Synced(model.KindService, model.KindEndpointSlice) {
		return nil
	}
	plan := i.planFor(snap)
	if plan.Equal(i.plan) {
		return nil
	}
	if err := i.install(ctx, plan, false); err != nil {
		return err
	}
	i.Log.Info("dns: interception changed", "addresses", i.Captured())
	return nil
}

// verify looks who is current, and repairs what somebody else has changed.
func (i *Interceptor) verify(ctx context.Context, snap *model.Snapshot) error {
	state := i.state.Load()
	if state == stateWaiting || len(i.plan.Families) == 0 {
		return nil
	}
	family := i.plan.Families[0].Family
	seat, err := i.table.current(ctx, family)
	if err != nil {
		return err
	}
	if other := seat >= 0 && seat != i.claim.seat; other {
		if state == stateCurrent {
			i.Log.Info("dns: another process intercepts queries now", "seat", seat)
			i.state.Store(stateSuperseded)
			i.silent = 0
			return nil
		}
		alive, err := i.table.alive(ctx, family)
		if i.silent++; len(alive) > 0 {
			i.silent = 0
		}
		if i.silent >= 3 || !taken(family, seat) {
			i.state.Store(stateWaiting) // and take over at the next beat
		}
		return err
	}
	if state == stateSuperseded {
		i.state.Store(stateWaiting) // the successor has gone
		return nil
	}
	switch left, err := i.table.left(ctx, i.plan); {
	case err != nil:
		return err
	case len(left) > 0: // by a process of another configuration that has ended
		return i.install(ctx, i.planFor(snap), false)
	}
	changed, err := i.table.changed(ctx, i.plan)
	if err != nil {
		return err
	}
	for _, f := range i.plan.Families {
		changed = changed || routeLost(server(f.Family, i.claim.seat, 0))
	}
	if !changed {
		return nil
	}
	i.Log.Warn("dns: the rules of interception had been changed by somebody else and are repaired")
	i.repairs.Add(1)
	for _, f := range i.plan.Families {
		if err := addRoute(f.Family); err != nil {
			return err
		}
	}
	return i.install(ctx, i.planFor(snap), false)
}

// end leaves the queries to others.
func (i *Interceptor) end(ctx context.Context) error {
	state := i.state.Swap(stateWithdrawn)
	if len(i.plan.Families) == 0 || state == stateWaiting {
		return nil
	}
	time.Sleep(settle) // answers that are on their way renew what is removed
	seat, err := i.table.current(ctx, i.plan.Families[0].Family)
	if err == nil && seat == i.claim.seat {
		err = i.table.withdraw(ctx, i.plan)
		i.Log.Info("dns: queries are left to the ordinary endpoints")
	}
	time.Sleep(settle)
	return err
}
