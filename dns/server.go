package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/dns/autopath"
	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/dnstap"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/hosts"
	"github.com/sluicenet/sluice/dns/ratelimit"
	"github.com/sluicenet/sluice/dns/zone"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// Server is a node's name server. It is a prometheus.Collector.
type Server struct {
	Options
	sockets  []*sockets
	planner  *zone.Planner
	zone     atomic.Pointer[zone.Zone]
	cache    *cache.Cache
	forward  *forward.Forwarder
	resolver *resolver
	metrics  *metrics
	probes   probes
	conns    conns
	lives    []life
	rewrites map[string][]byte // by names in wire form and lower case
	// delegated are the numbers of forwarded zones that are parts of the cluster's.
	delegated map[int]bool
	hosts     atomic.Pointer[hosts.Table]
	walker    atomic.Pointer[autopath.Walker]

	certificate *certificate       // nil: none
	limiter     *ratelimit.Limiter // nil: no limit
	tap         *dnstap.Sender     // nil: nobody
	sampler     *sampler           // nil: no log
	loops       []*loop            // guarded by mu

	// What was read last; touched by New and then by one goroutine of Run.
	resolv        *forward.ResolvConf
	resolvProblem atomic.Pointer[string] // with the file, for everybody
	resolvError   string
	hostsError    string   // touched by New and then by another one
	hostsSum      [32]byte // of the file that was read last; likewise

	workers sync.Pool // of *worker, for what no loop does
	rooms   sync.Pool // of *[]byte, for answers over TCP

	mu      sync.Mutex    // guards changed and loops
	changed chan struct{} // closed when there is a newer zone
}

// New opens the sockets and returns a server that answers on them once it is
// run. Queries that arrive before are answered then.
func New(o Options) (*Server, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	s := &Server{Options: o, cache: cache.New(o.Cache), metrics: &metrics{}, changed: make(chan struct{})}
	for _, addr := range slices.Concat(o.Listen, o.Internal) {
		sock, err := listen(addr, o.Sockets)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.sockets = append(s.sockets, sock)
	}
	s.conns.counts = &s.metrics.limits
	certificate, err := newCertificate(o.TLS)
	s.certificate = certificate
	for i := 0; i < len(o.TLS.Listen) && err == nil; i++ {
		var sock *sockets
		if sock, err = listen(o.TLS.Listen[i], 0); err == nil {
			sock.tls = certificate.config()
			s.sockets = append(s.sockets, sock)
		}
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	if s.forward, err = forward.New(o.forwardOptions(s.Addrs())); err == nil {
		s.planner, err = zone.NewPlanner(o.zoneOptions())
	}
	if err == nil {
		err = s.prepare()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	if err := s.delegate(); err != nil {
		s.Close()
		return nil, err
	}
	s.zone.Store(s.planner.Zone())
	s.readResolvConf()
	s.resolver = newResolver(s.cache, s.forward, o.MaxUpstream, &s.metrics.resolver)
	s.resolver.lives = s.lives
	late := s.metrics.newCounters()
	s.workers.New = func() any { return &worker{counters: late} }
	s.rooms.New = newRoom
	return s, nil
}

// prepare makes what answers besides the zone and other servers, and what limits
// and tells of queries.
func (s *Server) prepare() error {
	var err error
	if s.rewrites, err = rewriteTable(s.Rewrites); err != nil {
		return err
	}
	if s.lives, err = sortLives(s.Lives); err != nil {
		return err
	}
	if err := s.readHosts(); err != nil {
		return fmt.Errorf("dns: hosts: %w", err)
	}
	if err := s.readSearch(); err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	if s.RateLimit.PerSecond > 0 {
		s.limiter = ratelimit.New(s.RateLimit)
	}
	if s.LogEvery > 0 {
		s.sampler = newSampler(s.LogEvery, s.Log)
	}
	if s.Tap.Socket != "" {
		s.Tap.Log = s.Log
		s.tap, err = dnstap.New(s.Tap)
	}
	return err
}

// Addrs returns the addresses that are answered on, with the ports that were
// picked.
func (s *Server) Addrs() []netip.AddrPort {
	addrs := make([]netip.AddrPort, 0, len(s.sockets))
	for _, sock := range s.sockets {
		addrs = append(addrs, sock.addr)
	}
	return addrs
}

// Close closes the sockets of a server that is not run.
func (s *Server) Close() {
	for _, sock := range s.sockets {
		sock.close()
	}
}

// Run answers until the context ends, and then what is under way. It returns the
// error of a socket, or nil.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	defer s.forward.Close()
	// What was begun is not cut off by the end of the context, but by that of
	// the time for draining.
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	watch := s.Store.Watch()
	defer watch.Stop()
	// The zone comes before the first answer: a store that is filled already must
	// not look like one that is not.
	if !s.step(ctx, watch) {
		return nil
	}
	g, serving := errgroup.WithContext(ctx)
	var conns sync.WaitGroup
	for _, sock := range s.sockets {
		for _, conn := range sock.udp {
			l := s.newLoop()
			g.Go(func() error {
				return wrapServe("udp", sock.addr, s.serveUDP(serving, work, l, conn, sock.addr.Addr().IsUnspecified()))
			})
		}
		g.Go(func() error {
			return wrapServe("tcp", sock.addr, s.serveTCP(serving, work, sock.tcp, sock.tls, &conns))
		})
	}
	g.Go(func() error {
		for s.step(serving, watch) {
		}
		return nil
	})
	g.Go(func() error { return s.probeLoops(serving) })
	g.Go(func() error { return s.followResolvConf(serving) })
	g.Go(func() error { return s.followUpstreams(serving) })
	g.Go(func() error { return s.followFiles(serving) })
	g.Go(func() error { return s.followCertificate(serving) })
	telling := s.tell(work)
	s.Log.Info("dns: serving", "addresses", s.Addrs(), "upstreams", s.upstreams())
	err := g.Wait()

	time.AfterFunc(s.Drain, cancel)
	conns.Wait()
	s.resolver.drain(work)
	cancel()
	telling.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

func wrapServe(proto string, addr netip.AddrPort, err error) error {
	if err != nil {
		return fmt.Errorf("dns: serve %v over %s: %w", addr, proto, err)
	}
	return nil
}

// step waits for the next snapshot and makes the zone that of it. It reports
// whether there was one, before the end of the context.
func (s *Server) step(ctx context.Context, w *model.Watcher) bool {
	update, err := w.Next(ctx)
	if err != nil {
		return false // only the context ends it
	}
	old := s.zone.Load()
	z, findings := s.planner.Update(update)
	s.publish(z)
	for _, f := range findings {
		s.report(f)
	}
	if z.Serial() != old.Serial() || z.Ready() != old.Ready() {
		s.Log.LogAttrs(ctx, slog.LevelDebug, "dns: zone changed", slog.Uint64("revision", z.Revision()),
			slog.Int("names", z.Len()), slog.Bool("ready", z.Ready()))
	}
	return true
}

func (s *Server) publish(z *zone.Zone) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone.Store(z)
	close(s.changed)
	s.changed = make(chan struct{})
}

// report says on a Service what is wrong with its name.
func (s *Server) report(f zone.Finding) {
	if f.Reason == "" {
		s.Log.Info("dns: name resolves again", "object", f.Key.String())
		if s.Status != nil {
			s.Status.Clear("dns", f.Key)
		}
		return
	}
	s.Log.Warn("dns: name does not resolve", "object", f.Key.String(), "reason", f.Reason, "message", f.Message)
	if s.Status != nil {
		s.Status.Set("dns", f.Key, status.Report{Conditions: []metav1.Condition{{
			Type: "Resolves", Status: metav1.ConditionFalse, Reason: f.Reason, Message: f.Message,
		}}})
	}
}

// Zone returns the zone that is answered from.
func (s *Server) Zone() *zone.Zone { return s.zone.Load() }

// Revision returns the revision of the model that is answered from.
func (s *Server) Revision() uint64 { return s.Zone().Revision() }

// WaitRevision waits until answers come from that revision of the model or a
// newer one. The error is the context's.
func (s *Server) WaitRevision(ctx context.Context, revision uint64) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if s.Revision() >= revision {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// isExhausted reports whether the process or the machine is out of descriptors,
// which passes.
func isExhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED)
}
