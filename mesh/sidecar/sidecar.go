package sidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/sluicenet/sluice/internal/envoy"
	"github.com/sluicenet/sluice/internal/observe"
	"github.com/sluicenet/sluice/mesh"
	"github.com/sluicenet/sluice/mesh/ca"
	"github.com/sluicenet/sluice/xds/bootstrap"
)

// HealthPort is where a sidecar says whether it is ready, unless told
// otherwise.
const HealthPort = mesh.HealthPort

// Options say what is to be run. Node, Signer, ControlPlane and Dir must be
// set.
type Options struct {
	// Node is the node id: [bootstrap.SidecarNode] or [bootstrap.GatewayNode].
	Node string
	// Signer certifies the workload's key.
	Signer ca.Signer
	// ControlPlane is where Envoy gets its configuration, host:port. It is
	// reached over TLS and must have the name ServerName.
	ControlPlane string
	// ServerName is the control plane's name; empty: [ca.ServerName].
	ServerName string
	// Dir is where the sockets are made. It must be this sidecar's own, and
	// its path short: a socket's is at most 107 bytes.
	Dir string
	// Observe gets the metrics, Envoy's too, and the check "sidecar", which is
	// good when Envoy has all of its configuration; nil: nobody does.
	Observe *observe.Server
	// Mark is put on the packets of Envoy's connections, for rules that tell
	// these by a mark and not by the user; 0: none.
	Mark uint32
	// Envoy says how Envoy is run. Its Bootstrap and Admin are filled in. A
	// sidecar's Envoy has to be the user [mesh.ProxyUID], and is, if Run is
	// called by root and Credential is not set.
	Envoy envoy.Options
	// Log is slog.Default() if nil.
	Log *slog.Logger
}

// The sockets in Options.Dir.
const (
	sdsSocket   = "sds.sock"
	adminSocket = "admin.sock"
)

type metrics struct {
	requests *prometheus.CounterVec
	notAfter prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_sidecar_certificate_requests_total",
			Help: "Certificates asked of the mesh's authority, by whether they were signed or the request failed.",
		}, []string{"result"}),
		notAfter: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sluice_sidecar_certificate_not_after_timestamp_seconds",
			Help: "When the workload's certificate ends, in seconds since 1970.",
		}),
	}
	if r == nil {
		return m, nil
	}
	if err := errors.Join(r.Register(m.requests), r.Register(m.notAfter)); err != nil {
		return nil, fmt.Errorf("metrics of the sidecar: %w", err)
	}
	return m, nil
}

// Run runs a sidecar until the context ends. If there is no Envoy binary the
// error is an [*envoy.NotFoundError].
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Node == "" || o.Signer == nil || o.ControlPlane == "" || o.Dir == "" {
		return errors.New("sidecar: a node id, a signer, a control plane and a directory are needed")
	}
	var registry prometheus.Registerer
	if o.Observe != nil {
		registry = o.Observe.Registry
	}
	m, err := newMetrics(registry)
	if err != nil {
		return err
	}
	if o.Envoy.Credential == nil && o.Mark == 0 && os.Geteuid() == 0 && strings.HasPrefix(o.Node, "sidecar/") {
		o.Envoy.Credential = &syscall.Credential{Uid: mesh.ProxyUID, Gid: mesh.ProxyUID}
	}
	socket, admin := filepath.Join(o.Dir, sdsSocket), filepath.Join(o.Dir, adminSocket)
	sds := newSecrets(o.Log)
	ln, err := listen(o, socket)
	if err != nil {
		return fmt.Errorf("sidecar: %w", err)
	}
	defer func() { _ = ln.Close() }()
	_ = os.Remove(admin) // of an Envoy that was killed

	config, err := bootstrap.JSON(bootstrap.Options{
		Node: o.Node, Admin: admin, ADS: o.ControlPlane, SDS: socket, Mark: o.Mark,
		ADSTLS: &bootstrap.TLS{PeerID: cmp.Or(o.ServerName, ca.ServerName)},
	})
	if err != nil {
		return fmt.Errorf("sidecar: %w", err)
	}
	o.Envoy.Bootstrap, o.Envoy.Admin = config, admin
	if o.Envoy.Logger == nil {
		o.Envoy.Logger = o.Log
	}
	proxy, err := envoy.New(o.Envoy)
	if err != nil {
		return fmt.Errorf("sidecar: %w", err)
	}

	g, ctx := errgroup.WithContext(ctx)
	var certified atomic.Bool
	k := &keeper{signer: o.Signer, log: o.Log, metrics: m, set: func(id *identity) {
		if err := sds.set(id); err != nil {
			o.Log.Error("certificate not handed to Envoy", "error", err)
			return
		}
		certified.Store(true)
	}}
	g.Go(func() error { return k.run(ctx) })
	g.Go(func() error { return serveSecrets(ctx, ln, sds) })
	g.Go(func() error { return proxy.Run(ctx) })
	if o.Observe != nil {
		o.Observe.Check("sidecar", func() error {
			if !certified.Load() {
				return errors.New("no certificate yet")
			}
			limit, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			return proxy.Admin().Ready(limit)
		})
		o.Observe.Handle("/envoy/metrics", envoyMetrics(proxy.Admin()))
	}
	o.Log.Info("sidecar started", "node", o.Node, "controlPlane", o.ControlPlane)
	return g.Wait()
}

// listen makes the socket of the secrets, which nobody but Envoy's user, and
// root, can open: the directory is closed before the socket is there.
func listen(o Options, socket string) (net.Listener, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(o.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	err = os.Chmod(socket, 0o600)
	if c := o.Envoy.Credential; c != nil && err == nil {
		err = errors.Join(os.Chown(socket, int(c.Uid), int(c.Gid)), os.Chown(o.Dir, int(c.Uid), int(c.Gid)))
	}
	if err != nil {
		_ = ln.Close()
		return nil, err
	}
	return ln, nil
}

func serveSecrets(ctx context.Context, ln net.Listener, s *secrets) error {
	srv := grpc.NewServer()
	secret.RegisterSecretDiscoveryServiceServer(srv, s)
	defer context.AfterFunc(ctx, srv.Stop)()
	if err := srv.Serve(ln); err != nil && ctx.Err() == nil {
		return fmt.Errorf("sidecar: serve secrets: %w", err)
	}
	return nil
}

// envoyMetrics hands on what Envoy counts, in Prometheus' format.
func envoyMetrics(admin *envoy.Admin) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, err := admin.Get(r.Context(), "/stats/prometheus")
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write(b) // who asked may be gone
	}
}
