// Package healthcheck answers the health checks of load balancers as kube-proxy
// does: of each Service with a healthCheckNodePort, whether this node has a ready
// endpoint, and of the node as a whole.
package healthcheck

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluicenet/sluice/internal/observe"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/proxy"
)

// Options of a [Server]. Healthy is required.
type Options struct {
	// Healthy reports whether the proxy keeps up; [Health.Healthy] does.
	Healthy func() bool
	Status  *status.Board // gets ports that are taken, as part "healthcheck"
	Log     *slog.Logger
	// Listen opens a port; nil: [observe.Listen].
	Listen func(ctx context.Context, network, address string) (net.Listener, error)
	// Addrs returns the node's addresses, which are asked for where only some
	// answer NodePorts; nil: those of the process's network namespace.
	Addrs func() ([]netip.Addr, error)
	// Retry is how often a port that is taken is tried again; 0: 5 s.
	Retry time.Duration
}

// Server listens on the healthCheckNodePorts of a plan. One HTTP server answers on
// all of them; a port that passes from one Service to another stays open.
type Server struct {
	Options
	wake chan struct{} // holds a token while there may be something to do

	mu    sync.Mutex // guards all below
	node  proxy.Node
	ports map[uint16]*portState
	dirty map[uint16]struct{} // what Run has to look at
	again bool                // Run has to look at all, for the node changed
}

// portState is what is wanted of a port. Several Services claim one only by
// mistake; the first that had it, or else the first by name, keeps it.
type portState struct {
	claims map[model.Name]int // the number of ready endpoints here
	owner  model.Name
}

// New returns a server of no ports.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Listen == nil {
		o.Listen = observe.Listen
	}
	if o.Retry == 0 {
		o.Retry = observe.RetryEvery
	}
	if o.Addrs == nil {
		o.Addrs = interfaceAddrs
	}
	return &Server{Options: o, wake: make(chan struct{}, 1), ports: map[uint16]*portState{}, dirty: map[uint16]struct{}{}}
}

// Applied tells of a plan that is in force; it fits [proxy.Options]. The numbers
// of endpoints are answered from then on; ports are opened and closed by Run.
func (s *Server) Applied(plan *proxy.Plan, changes []proxy.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.node.Localhost != plan.Node.Localhost || !slices.Equal(s.node.NodePorts, plan.Node.NodePorts) || !slices.Equal(s.node.Addrs, plan.Node.Addrs) {
		s.again = true
	}
	s.node = plan.Node
	if changes == nil {
		for port := range s.ports {
			s.ports[port].claims = map[model.Name]int{}
			s.dirty[port] = struct{}{}
		}
		for svc := range plan.Services() {
			s.claim(svc)
		}
	}
	for _, c := range changes {
		if c.Old != nil && (c.New == nil || c.New.HealthCheckNodePort != c.Old.HealthCheckNodePort) {
			s.release(c.Old)
		}
		s.claim(c.New)
	}
	for port := range s.dirty {
		s.settle(port)
	}
	if s.again || len(s.dirty) > 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (s *Server) claim(svc *proxy.Service) {
	if svc == nil || svc.HealthCheckNodePort == 0 {
		return
	}
	p := s.ports[svc.HealthCheckNodePort]
	if p == nil {
		p = &portState{claims: map[model.Name]int{}}
		s.ports[svc.HealthCheckNodePort] = p
	}
	if _, ok := p.claims[svc.Name]; !ok {
		s.dirty[svc.HealthCheckNodePort] = struct{}{}
	}
	p.claims[svc.Name] = svc.LocalReady
}

func (s *Server) release(svc *proxy.Service) {
	if p := s.ports[svc.HealthCheckNodePort]; p != nil {
		delete(p.claims, svc.Name)
		s.dirty[svc.HealthCheckNodePort] = struct{}{}
	}
}

// settle decides whose the port is.
func (s *Server) settle(port uint16) {
	p := s.ports[port]
	if p == nil {
		return
	}
	if len(p.claims) == 0 {
		delete(s.ports, port)
		return
	}
	if _, ok := p.claims[p.owner]; !ok {
		p.owner = slices.MinFunc(slices.Collect(maps.Keys(p.claims)), func(a, b model.Name) int {
			return strings.Compare(a.String(), b.String())
		})
	}
}

// answerOf is what kube-proxy's page of a Service says.
type answerOf struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

// ServeHTTP answers for the Service that has the port on which the request came,
// whatever the path.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var a answerOf
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	s.mu.Lock()
	p := s.ports[portOf(local)]
	if p != nil {
		a.Service.Namespace, a.Service.Name = p.owner.Namespace, p.owner.Name
		a.LocalEndpoints = p.claims[p.owner]
	}
	s.mu.Unlock()
	if p == nil {
		// A connection from before the port was given up.
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	a.ServiceProxyHealthy = s.Healthy()
	code := http.StatusServiceUnavailable
	if a.LocalEndpoints > 0 && a.ServiceProxyHealthy {
		code = http.StatusOK
	}
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(a.LocalEndpoints))
	write(w, code, a, "\t")
}

// Run keeps the ports open until the context ends, and returns its error.
func (s *Server) Run(ctx context.Context) error {
	r := &listeners{Server: s, ctx: ctx, open: map[uint16]map[string]*socket{}, failed: map[uint16]string{}, told: map[uint16]map[model.Name]string{}}
	r.http = newServer(s, s.Log)
	defer func() { _ = r.http.Close() }()
	retry := time.NewTicker(s.Retry)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wake:
		case <-retry.C:
			r.retry()
		}
		r.step()
	}
}
