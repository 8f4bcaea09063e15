// Command sluice is a service proxy, a node-local DNS server, an ingress and
// Gateway API controller and the control plane of a mesh of Envoys, from one
// watch of a cluster or of a directory of manifests.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/internal/kubeproxy"
)

// version is set when the binary is linked.
var version = "unknown"

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := rootCommand()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "sluice:", err)
		return 1
	}
	return 0
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "sluice",
		Short: "Service proxy, node-local DNS, ingress and service mesh from one control plane",
		Long: `sluice serves the Services, Gateways, Ingresses and mesh routes of a Kubernetes
cluster, or of a directory of manifests, with the kernel's nftables, its own DNS
server and stock Envoys.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(commands()...)
	return root
}

// configured makes a command that runs a process of the parts that add adds. Its
// flags are those of the configuration, with --config to read a file first;
// flags win over the file.
func configured(cmd *cobra.Command, r role, add func(*process) error) *cobra.Command {
	return withConfiguration(cmd, r, func(cmd *cobra.Command, c *config.Configuration, notes []kubeproxy.Note) error {
		log := logger(c.Log)
		for _, n := range notes {
			log.Warn("a setting of kube-proxy has no meaning here", "setting", n.Field, "why", n.Why)
		}
		p, err := newProcess(cmd.Context(), c, log)
		if err != nil {
			return err
		}
		var errs []error
		for _, f := range preflight(cmd.Context(), c, r) {
			if f.err != nil && !f.minor {
				errs = append(errs, f.err)
			}
		}
		if len(errs) > 0 {
			p.stop()
			return errors.Join(errs...)
		}
		if part := r.succeeds(); part != "" {
			p.handover = newHandover(part)
			p.before = predecessors(cmd.Context(), part)
			p.admin.TakeOver = len(p.before) > 0
			p.Go(func() error { return p.handover.attend(p.ctx, context.Background()) })
		}
		if err := add(p); err != nil {
			p.stop()
			_ = p.Wait() // that they were stopped
			return err
		}
		return p.run()
	})
}

// withConfiguration gives a command the configuration's flags and --config, and
// with the service proxy --kube-proxy-config, which says least: the file of our
// own wins over it, and flags over both.
func withConfiguration(cmd *cobra.Command, r role, run func(*cobra.Command, *config.Configuration, []kubeproxy.Note) error) *cobra.Command {
	c := config.Default()
	if r.node && !r.control {
		c.Proxy.ForNode()
	}
	var file, kubeProxy string
	if r.node {
		cmd.Flags().StringVar(&kubeProxy, "kube-proxy-config", "", "kube-proxy's configuration file (kubeproxy.config.k8s.io/v1alpha1 KubeProxyConfiguration) to take over")
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration file (sluice.io/v1alpha1 Configuration)")
	c.Flags(cmd.Flags())
	others := func(*config.Configuration) []kubeproxy.Note { return nil }
	if r.node {
		others = kubeproxy.AddFlags(cmd.Flags())
	}
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		given := config.Given(cmd.Flags())
		var notes []kubeproxy.Note
		if kubeProxy != "" {
			var err error
			if notes, err = kubeproxy.Load(kubeProxy, &c); err != nil {
				return err
			}
		}
		if file != "" {
			if err := c.Load(file); err != nil {
				return err
			}
		}
		if err := config.Replay(cmd.Flags(), given); err != nil {
			return err
		}
		if c.NodeName == "" {
			c.NodeName, _ = os.Hostname()
		}
		c.Complete()
		if err := c.Validate(); err != nil {
			return fmt.Errorf("configuration: %w", withDNSMistakes(&c, err))
		}
		return run(cmd, &c, append(notes, others(&c)...))
	}
	return cmd
}

func logger(c config.Log) *slog.Logger {
	var level slog.Level
	// Validate has checked the level.
	_ = level.UnmarshalText([]byte(c.Level))
	opts := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}
