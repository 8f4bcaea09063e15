package main

import (
	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/demo"
)

func demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show everything on two nodes made of network namespaces",
		Long: `Build two nodes, some Pods and a client out of network namespaces, run sluice on
the quick start's manifests there, and count what arrives where. Nothing of this
machine's network is touched, and nothing is left behind.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return demo.Run(cmd.Context(), o) },
	}
	cmd.Flags().StringVar(&o.Envoy, "envoy", "", "Envoy binary (default: found on $PATH, then where hack/envoy puts it)")
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave it running at the end, until interrupted")
	cmd.Flags().BoolVarP(&o.Verbose, "verbose", "v", false, "show the logs")
	return cmd
}
