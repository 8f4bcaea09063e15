package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// commands lists every command; each is in a file of its name.
func commands() []*cobra.Command {
	return []*cobra.Command{
		upCommand(), nodeCommand(), controlplaneCommand(),
		gatewayCommand(), sidecarCommand(), redirectCommand(), injectCommand(),
		getCommand(), healthCommand(), traceCommand(), dnsCommand(), checkCommand(), cleanupCommand(),
		demoCommand(), echoCommand(), remoteCommand(), versionCommand(),
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { _, _ = fmt.Fprintln(cmd.OutOrStdout(), version) },
	}
}
