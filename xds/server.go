// Package xds delivers route's resources to Envoy proxies: translated once,
// sent in the order that breaks no request, acknowledged by each. It tells
// what proxies run and what they refused, with the user's objects at fault.
package xds

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/delta"
	"github.com/sluicenet/sluice/xds/translate"
)

// Options say how a [Server] works.
type Options struct {
	// Authorize returns the groups of a proxy that says that it is node; the
	// peer of ctx tells who it is really. Where two groups have a resource of
	// the same name, the later group's counts. An error refuses the proxy.
	Authorize func(ctx context.Context, node *core.Node) ([]route.Group, error)
	// Metrics is where the server's metrics are registered; nil: nowhere.
	Metrics prometheus.Registerer
	// Log takes a line for each connection and refusal; nil: none.
	Log *slog.Logger
	// WarmLimit and Grace are those of [delta.Options].
	WarmLimit, Grace time.Duration
}

// Server is a [route.Publisher] that serves proxies.
type Server struct {
	delta *delta.Server

	mu         sync.Mutex
	translator *translate.Translator
	groups     map[route.Group]*group
}

var _ route.Publisher = (*Server)(nil)

// New returns a server that has nothing published. It fails if its metrics
// are registered already.
func New(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	m := newMetrics()
	if o.Metrics != nil {
		for _, c := range m.collectors() {
			if err := o.Metrics.Register(c); err != nil {
				return nil, fmt.Errorf("register the metrics of xds: %w", err)
			}
		}
	}
	d := delta.Options{Observer: m, Log: o.Log, WarmLimit: o.WarmLimit, Grace: o.Grace}
	if o.Authorize != nil {
		d.Authorize = func(ctx context.Context, node *core.Node) ([]string, error) {
			groups, err := o.Authorize(ctx, node)
			if err != nil {
				return nil, err
			}
			names := make([]string, len(groups))
			for i, g := range groups {
				names[i] = string(g)
			}
			return names, nil
		}
	}
	return &Server{
		delta:      delta.NewServer(d),
		translator: translate.New(),
		groups:     map[route.Group]*group{},
	}, nil
}

// Delta returns the discovery server, for a caller that has a gRPC server
// already.
func (s *Server) Delta() *delta.Server { return s.delta }

// Listen listens on an address, which is the path of a Unix socket (anything
// with a slash) or host:port.
func Listen(address string) (net.Listener, error) {
	network := "tcp"
	if strings.Contains(address, "/") {
		network = "unix"
	}
	ln, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("listen for proxies: %w", err)
	}
	return ln, nil
}

// GRPC returns a gRPC server for proxies, with the discovery service
// registered. With a nil config it speaks plain text, which is for Unix
// sockets and loopback.
func (s *Server) GRPC(config *tls.Config) *grpc.Server {
	opts := []grpc.ServerOption{
		grpc.MaxConcurrentStreams(math.MaxUint32),
		// A proxy's first request names all that it has.
		grpc.MaxRecvMsgSize(256 << 20),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
	if config != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(config)))
	}
	g := grpc.NewServer(opts...)
	s.delta.Register(g)
	return g
}

// Serve serves proxies on ln until ctx ends, then ends their streams; they
// keep what they have and come back. Serve only once all that there is was
// published: see [delta.Server.Register].
func (s *Server) Serve(ctx context.Context, ln net.Listener, config *tls.Config) error {
	g := s.GRPC(config)
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(ln); err != nil && !errors.Is(err, grpc.ErrServerStopped) && ctx.Err() == nil {
		return fmt.Errorf("serve proxies: %w", err)
	}
	return nil
}
