package delta

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Options say how a [Server] works. The zero value of a field means its
// default.
type Options struct {
	// Authorize returns the groups of a client that says that it is node. The
	// peer of ctx tells who it is really. Where two groups have a resource of
	// the same name, the later group's counts. An error refuses the stream,
	// with its gRPC status if it has one. Without Authorize every stream is
	// refused.
	Authorize func(ctx context.Context, node *core.Node) ([]string, error)

	// WarmLimit is how long a resource waits for the acknowledgement of one
	// that it needs and that was sent: 5 s. Envoy withholds the
	// acknowledgement of clusters while any of them warms, so one that
	// never gets warm must not stop all others for ever.
	WarmLimit time.Duration
	// Grace is how long after a reconnection nothing is removed: 2 s. What a
	// client has of the other types is only known once it asked for them.
	Grace time.Duration
	// Single is how many changed resources of a type go in a response of
	// their own, so that a refusal names the one: 16. More go together, and
	// one by one only after a refusal.
	Single int

	Observer Observer
	Log      *slog.Logger
}

// Observer is told what happens on the streams, for metrics. Its methods are
// called while locks are held and must not call the server.
type Observer interface {
	Connected(delta int)
	Sent(typeURL string, resources, removed int)
	Acknowledged(typeURL string, after time.Duration)
	Rejected(typeURL string)
}

// Server is an aggregated discovery server of the delta protocol.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	opts Options

	// mu guards the groups and the set of clients. It is taken before a
	// client's own lock.
	mu     sync.RWMutex
	seq    uint64
	groups map[string]*group
	all    map[*client]struct{}

	news news
}

// NewServer returns a server without resources.
func NewServer(o Options) *Server {
	if o.WarmLimit == 0 {
		o.WarmLimit = 5 * time.Second
	}
	if o.Grace == 0 {
		o.Grace = 2 * time.Second
	}
	if o.Single == 0 {
		o.Single = 16
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observer == nil {
		o.Observer = noObserver{}
	}
	if o.Authorize == nil {
		o.Authorize = func(context.Context, *core.Node) ([]string, error) {
			return nil, errors.New("nobody decides who may connect")
		}
	}
	return &Server{
		opts: o, groups: map[string]*group{}, all: map[*client]struct{}{},
		news: news{watchers: map[*Watcher]struct{}{}},
	}
}

// Register adds the aggregated discovery service to a gRPC server.
//
// It should begin to serve only once the groups have what they had before a
// restart: a client that comes back keeps what a group that was never applied
// to does not have, but loses what is missing from one that was.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discovery.RegisterAggregatedDiscoveryServiceServer(r, s)
}

func (s *Server) groupLocked(name string) *group {
	g := s.groups[name]
	if g == nil {
		g = newGroup(name)
		s.groups[name] = g
	}
	return g
}

// dropEmptyLocked forgets a group without resources and clients.
func (s *Server) dropEmptyLocked(g *group) {
	if len(g.clients) > 0 {
		return
	}
	for _, byName := range g.types {
		if len(byName) > 0 {
			return
		}
	}
	delete(s.groups, g.name)
}

// Stream is a client's side of the delta protocol, as gRPC has it.
type Stream interface {
	Context() context.Context
	Send(*discovery.DeltaDiscoveryResponse) error
	Recv() (*discovery.DeltaDiscoveryRequest, error)
}

// DeltaAggregatedResources serves a gRPC stream.
func (s *Server) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.Serve(stream)
}

// Serve talks to one client until the stream ends. It returns nil when the
// client closed it.
func (s *Server) Serve(stream Stream) error {
	first, err := stream.Recv()
	if err != nil {
		return ended(err)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	names, err := s.opts.Authorize(ctx, first.GetNode())
	if err != nil {
		s.opts.Log.Warn("proxy refused", "node", first.GetNode().GetId(), "error", err)
		if _, ok := status.FromError(err); ok {
			return err
		}
		return status.Error(codes.PermissionDenied, err.Error())
	}
	if len(names) == 0 {
		return status.Errorf(codes.PermissionDenied, "node %q is in no group", first.GetNode().GetId())
	}
	c := s.connect(first.GetNode(), names)
	defer s.disconnect(c)

	requests := make(chan *discovery.DeltaDiscoveryRequest)
	failed := make(chan error, 1)
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()

	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for req := first; ; {
		response, wait := c.step(req, time.Now())
		req = nil
		if response != nil {
			if err := stream.Send(response); err != nil {
				return ended(err)
			}
			// There may be more. What came meanwhile is heard first, so that
			// many resources on their way do not delay one more urgent.
			select {
			case req = <-requests:
			default:
			}
			continue
		}
		timer.Reset(wait)
		select {
		case req = <-requests:
		case <-c.inbox.bell:
		case <-timer.C:
		case err := <-failed:
			return ended(err)
		case <-ctx.Done():
			return ended(ctx.Err())
		}
	}
}

// ended makes a stream's ordinary end no error.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled {
		return nil
	}
	return err
}

func (s *Server) connect(node *core.Node, names []string) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := newClient(s, node, time.Now())
	for _, n := range names {
		g := s.groupLocked(n)
		if _, twice := g.clients[c]; twice {
			continue
		}
		g.clients[c] = struct{}{}
		c.groups = append(c.groups, &membership{group: g})
	}
	s.all[c] = struct{}{}
	for _, m := range c.groups {
		s.moved(m.group)
	}
	s.opts.Observer.Connected(1)
	s.opts.Log.Info("proxy connected", "node", node.GetId(), "groups", names)
	return c
}

func (s *Server) disconnect(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, c)
	for _, m := range c.groups {
		g := m.group
		delete(g.clients, c)
		s.moved(g)
		s.dropEmptyLocked(g)
	}
	s.opts.Observer.Connected(-1)
	s.opts.Log.Info("proxy disconnected", "node", c.node.GetId(), "after", time.Since(c.since).Round(time.Millisecond))
}

type noObserver struct{}

func (noObserver) Connected(int)                      {}
func (noObserver) Sent(string, int, int)              {}
func (noObserver) Acknowledged(string, time.Duration) {}
func (noObserver) Rejected(string)                    {}
