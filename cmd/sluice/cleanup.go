package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/internal/gateways"
	"github.com/sluicenet/sluice/proxy/nftables"
)

func cleanupCommand() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove the rules and gateways that sluice left on this machine",
		Long: `Remove the kernel's rules and end the Envoys of Gateways, whichever process made
them. Stop that process first: it would make them again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			return errors.Join(
				wrap("service proxy", cleanupProxy(ctx)),
				wrap("gateways", gateways.Stop(ctx, filepath.Join(filepath.Dir(socket), "gateways"))),
			)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", config.Default().Socket, "socket of the process that made them")
	return cmd
}

func cleanupProxy(ctx context.Context) error {
	engine, err := nftables.New(nftables.Options{})
	if err != nil {
		return err
	}
	return errors.Join(engine.Cleanup(ctx), engine.Close())
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
