package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/internal/config"
)

func getCommand() *cobra.Command {
	var socket, namespace, format string
	var all bool
	cmd := &cobra.Command{
		Use:   "get RESOURCE [NAME...]",
		Short: "Show what a running sluice knows: services, endpoints, gateways, proxies, problems, ...",
		Example: `  sluice get services -A
  sluice get gateway shop -o yaml
  sluice get proxies -o wide
  sluice get problems`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			table, err := admin.NewClient(socket).Table(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if all {
				namespace = ""
			}
			if table, err = admin.Select(table, namespace, args[1:]); err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if len(table.Rows) == 0 && (format == "" || format == "wide") {
				fmt.Fprintln(os.Stderr, "No resources found.")
				return nil
			}
			return admin.Print(cmd.OutOrStdout(), table, args[0], format)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", config.Default().Socket, "socket of the process to ask")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "default", "namespace")
	cmd.Flags().BoolVarP(&all, "all-namespaces", "A", false, "all namespaces")
	cmd.Flags().StringVarP(&format, "output", "o", "", "wide, json, yaml or name")
	return cmd
}
