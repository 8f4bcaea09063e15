package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/internal/config"
)

func healthCommand() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "health",
		Short: "See whether a running sluice is healthy, as /healthz says",
		Long: `Ask the process behind the socket for what /healthz says, and fail unless all is
well. During an upgrade two processes share the port of /healthz, but not the
socket.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var lines []string
			if err := admin.NewClient(socket).Ask(cmd.Context(), "health", nil, &lines); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(lines, "\n"))
			return err
		},
	}
	cmd.Flags().StringVar(&socket, "socket", config.Default().Socket, "socket of the running process")
	return cmd
}
