package main

import (
	"fmt"
	"io"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/echo"
	"github.com/sluicenet/sluice/internal/remote"
	"github.com/sluicenet/sluice/mesh/inject"
	"github.com/sluicenet/sluice/mesh/redirect"
)

func redirectCommand() *cobra.Command {
	var c redirect.Config
	var inbound, outbound []uint
	var addresses []string
	var cleanup, show bool
	cmd := &cobra.Command{
		Use:   "redirect",
		Short: "Make this Pod's connections go through its sidecar",
		Long: `Add the rules, to the network namespace that it runs in, that redirect TCP
connections from and to the Pod to its sidecar.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, p := range []struct {
				to   *[]uint16
				from []uint
			}{{&c.ExcludeInboundPorts, inbound}, {&c.ExcludeOutboundPorts, outbound}} {
				for _, n := range p.from {
					if n == 0 || n > 65535 {
						return fmt.Errorf("expected a port from 1 to 65535, found %d", n)
					}
					*p.to = append(*p.to, uint16(n))
				}
			}
			for _, a := range addresses {
				prefix, err := netip.ParsePrefix(a)
				if err != nil {
					return err
				}
				c.ExcludeOutbound = append(c.ExcludeOutbound, prefix)
			}
			switch {
			case cleanup:
				return redirect.Cleanup(0)
			case show:
				_, err := io.WriteString(cmd.OutOrStdout(), c.String())
				return err
			}
			return redirect.Apply(c, 0)
		},
	}
	f := cmd.Flags()
	f.Uint32Var(&c.ProxyUID, "proxy-uid", 0, "user of the sidecar, whose connections pass (default 1337)")
	f.Uint32Var(&c.ProxyMark, "proxy-mark", 0, "packet mark of the sidecar's connections, which pass, instead of its user")
	f.UintSliceVar(&inbound, "exclude-inbound-ports", nil, "ports of the Pod that are reached directly")
	f.UintSliceVar(&outbound, "exclude-outbound-ports", nil, "ports that the Pod reaches directly")
	f.StringSliceVar(&addresses, "exclude-outbound", nil, "ranges of addresses that the Pod reaches directly")
	f.BoolVar(&cleanup, "cleanup", false, "remove the rules")
	f.BoolVar(&show, "show", false, "print the rules instead")
	return cmd
}

func injectCommand() *cobra.Command {
	var o inject.Options
	var file string
	cmd := &cobra.Command{
		Use:     "inject -f FILE",
		Short:   "Add a sidecar to the workloads of a manifest",
		Example: "  sluice inject -f deployment.yaml | kubectl apply -f -",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := read(file)
			if err != nil {
				return err
			}
			out, err := inject.Workload(in, o)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
	cmd.Flags().StringVarP(&file, "filename", "f", "-", "file with the manifest; - is standard input")
	cmd.Flags().StringVar(&o.Image, "image", "sluice", "image of the sidecar")
	return cmd
}

func read(file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(file)
}

func echoCommand() *cobra.Command {
	c := echo.Config{Name: os.Getenv("POD_NAME")}
	cmd := &cobra.Command{
		Use: "echo", Short: "Run the server of the examples, which says who answers and whom it saw", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.Name == "" {
				c.Name, _ = os.Hostname()
			}
			return echo.Run(cmd.Context(), c)
		},
	}
	cmd.Flags().StringVar(&c.Name, "name", c.Name, "name to answer with (default: the host's)")
	cmd.Flags().StringVar(&c.HTTP, "http", "", "address for HTTP")
	cmd.Flags().StringVar(&c.TCP, "tcp", "", "address for TCP")
	cmd.Flags().StringVar(&c.UDP, "udp", "", "address for UDP")
	return cmd
}

func remoteCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remote", Short: "Act in this Pod for a test that speaks on standard input", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return remote.Serve(os.Stdin, os.Stdout) },
	}
}
