package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/corefile"
)

// dnsImportCommand turns a Corefile into a configuration.
func dnsImportCommand() *cobra.Command {
	var zone string
	cmd := &cobra.Command{
		Use:   "import COREFILE",
		Short: "Print the configuration that a Corefile asks for, and what of it could not be carried over",
		Long: `Read a Corefile of CoreDNS or of NodeLocal DNSCache, or a ConfigMap that holds one,
and print our own configuration. What could not be carried over is printed to
standard error. "-" is standard input.`,
		Example: `  kubectl -n kube-system get configmap node-local-dns -o yaml | sluice dns import - > sluice.yaml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var text []byte
			var err error
			if args[0] == "-" {
				text, err = io.ReadAll(cmd.InOrStdin())
			} else {
				text, err = os.ReadFile(args[0])
			}
			if err != nil {
				return err
			}
			c, notes, err := corefile.Import(text, zone)
			if err != nil {
				return err
			}
			out, err := corefile.YAML(&c)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprint(cmd.ErrOrStderr(), corefile.Report(notes)); err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
	cmd.Flags().StringVar(&zone, "zone", "", "cluster's DNS zone (default: the one that the Corefile is for)")
	return cmd
}
