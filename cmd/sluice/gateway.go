package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/internal/envoy"
	"github.com/sluicenet/sluice/internal/gateways"
	"github.com/sluicenet/sluice/internal/observe"
	"github.com/sluicenet/sluice/mesh/ca"
	"github.com/sluicenet/sluice/mesh/sidecar"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/xds/bootstrap"
)

// agent is what the commands beside an Envoy have in common.
type agent struct {
	controlPlane, roots, token, runDir, envoy, metrics string
	mark                                               uint32
	drain                                              time.Duration
	log                                                config.Log
}

func (a *agent) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.controlPlane, "control-plane", "", "address of the control plane, HOST:PORT")
	f.StringVar(&a.roots, "roots", "/etc/sluice/root.pem", "file with the roots that the control plane is verified with")
	f.StringVar(&a.token, "token", "/run/secrets/sluice/token", "file with the service account's token")
	f.StringVar(&a.runDir, "run-dir", "/run/sluice", "directory for sockets")
	f.StringVar(&a.envoy, "envoy", "", "Envoy binary (default: found on $PATH, then where hack/envoy puts it)")
	f.StringVar(&a.metrics, "metrics", fmt.Sprintf(":%d", sidecar.HealthPort), "address of /metrics, /envoy/metrics, /healthz and /livez; empty: none")
	f.DurationVar(&a.drain, "drain", 10*time.Second, "how long connections may go on when it ends")
	d := config.Default().Log
	f.StringVar(&a.log.Level, "log-level", d.Level, "debug, info, warn or error")
	f.StringVar(&a.log.Format, "log-format", d.Format, "text or json")
}

// run runs an Envoy that proves who it is by a certificate of the mesh.
func (a *agent) run(ctx context.Context, node string, log *slog.Logger) error {
	if a.controlPlane == "" {
		return errors.New("--control-plane: expected HOST:PORT")
	}
	g, running := errgroup.WithContext(ctx)
	look := observe.New(version)
	if a.metrics != "" {
		g.Go(func() error { return look.Run(running, a.metrics, true, log) })
	}
	options := sidecar.Options{
		Node: node, ControlPlane: a.controlPlane, Dir: a.runDir, Observe: look, Log: log, Mark: a.mark,
		Signer: &ca.Client{
			Address: a.controlPlane,
			Roots:   func() ([]byte, error) { return os.ReadFile(a.roots) },
			Token: func() (string, error) {
				b, err := os.ReadFile(a.token)
				return strings.TrimSpace(string(b)), err
			},
		},
		Envoy: envoy.Options{Path: a.envoy, StopTimeout: a.drain},
	}
	g.Go(func() error { return sidecar.Run(running, options) })
	if err := g.Wait(); ctx.Err() == nil {
		return err
	}
	return nil
}

func gatewayCommand() *cobra.Command {
	var a agent
	var group, instance, xds string
	cmd := &cobra.Command{
		Use:   "gateway",
		Short: "Run the Envoy of a Gateway",
		Long: `Run one of the Envoys of a Gateway. "sluice up" starts it with --xds, and the
control plane of a cluster deploys it with --control-plane.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			namespace, name, ok := strings.Cut(strings.TrimPrefix(group, "gateway/"), "/")
			if !ok || name == "" {
				return fmt.Errorf("--group: expected gateway/NAMESPACE/NAME, found %q", group)
			}
			log := logger(a.log).With("gateway", strings.TrimPrefix(group, "gateway/"))
			node := bootstrap.GatewayNode(namespace, name, instance)
			if xds == "" {
				return a.run(cmd.Context(), node, log)
			}
			return a.local(cmd.Context(), route.Group(group), node, xds, log)
		},
	}
	a.flags(cmd)
	cmd.Flags().StringVar(&group, "group", "", "gateway/NAMESPACE/NAME; no namespace for an IngressClass")
	cmd.Flags().StringVar(&instance, "instance", "", "tells this Envoy from others of the Gateway")
	cmd.Flags().StringVar(&xds, "xds", "", "Unix socket of a control plane on this machine")
	return cmd
}

// local runs an Envoy that gets its configuration on this machine. There is one
// for each Gateway, however often it is started.
func (a *agent) local(ctx context.Context, group route.Group, node, xds string, log *slog.Logger) error {
	// Who started us may be gone, and whoever read our log with it.
	signal.Ignore(syscall.SIGPIPE)
	var held *gateways.HeldError
	if err := gateways.Hold(a.runDir, group); errors.As(err, &held) {
		log.Debug("another process is this gateway", "pid", held.PID)
		return nil
	} else if err != nil {
		return err
	}
	admin := filepath.Join(a.runDir, strings.ReplaceAll(strings.TrimPrefix(string(group), "gateway/"), "/", "_")+".sock")
	if err := os.Remove(admin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	config, err := bootstrap.JSON(bootstrap.Options{Node: node, Admin: admin, ADS: xds})
	if err != nil {
		return err
	}
	proxy, err := envoy.New(envoy.Options{Path: a.envoy, Bootstrap: config, Admin: admin, StopTimeout: a.drain, Logger: log})
	if err != nil {
		return err
	}
	return proxy.Run(ctx)
}

func sidecarCommand() *cobra.Command {
	var a agent
	var pod, namespace string
	cmd := &cobra.Command{
		Use:   "sidecar",
		Short: "Run the Envoy of a Pod in the mesh",
		Long: `Run beside an application: make a key, have it certified, hand the certificate to
an Envoy and keep both running. "sluice redirect" makes the Pod's connections
come here; "sluice inject" adds both to a workload.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if pod == "" {
				return errors.New("--pod: expected the name of the Pod")
			}
			return a.run(cmd.Context(), bootstrap.SidecarNode(namespace, pod), logger(a.log).With("pod", namespace+"/"+pod))
		},
	}
	a.flags(cmd)
	cmd.Flags().Uint32Var(&a.mark, "mark", 0, "packet mark of its own connections; see redirect --proxy-mark")
	cmd.Flags().StringVar(&pod, "pod", os.Getenv("POD_NAME"), "name of the Pod")
	cmd.Flags().StringVar(&namespace, "namespace", "default", "namespace of the Pod")
	return cmd
}
