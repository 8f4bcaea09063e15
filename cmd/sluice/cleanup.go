package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/internal/gateways"
	"github.com/sluicenet/sluice/internal/kuberules"
	"github.com/sluicenet/sluice/proxy/intercept"
)

func cleanupCommand() *cobra.Command {
	var socket string
	var kubeProxy bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove the rules and gateways that sluice, or a kube-proxy, left on this machine",
		Long: `Remove the kernel's rules, of every engine, and end the Envoys of Gateways,
whichever process made them. Stop that process first: it would make them again.

With --kube-proxy, remove what a kube-proxy has left, in all of its modes, and
nothing of ours. Stop kube-proxy first, and start sluice: its rules and ours
can be there at the same time.`,
		Example: `  sluice cleanup
  sluice cleanup --kube-proxy`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Minute)
			defer cancel()
			if kubeProxy {
				return cleanupKubeProxy(ctx, cmd.OutOrStdout())
			}
			return errors.Join(
				cleanupProxy(ctx),
				wrap("interception of DNS", intercept.Cleanup()),
				wrap("gateways", gateways.Stop(ctx, filepath.Join(filepath.Dir(socket), "gateways"))),
			)
		},
	}
	cmd.Flags().StringVar(&socket, "socket", config.Default().Socket, "socket of the process that made them")
	cmd.Flags().BoolVar(&kubeProxy, "kube-proxy", false, "remove a kube-proxy's rules, virtual servers and sets instead")
	return cmd
}

// cleanupProxy removes what any engine has made.
func cleanupProxy(ctx context.Context) error {
	var errs []error
	for _, k := range engineKinds() {
		errs = append(errs, wrap("service proxy: "+k.name, k.clean(ctx)))
	}
	return errors.Join(errs...)
}

// cleanupKubeProxy removes what a kube-proxy has left.
func cleanupKubeProxy(ctx context.Context, w io.Writer) error {
	if pid, running := processNamed("/proc", "kube-proxy"); running {
		return fmt.Errorf("kube-proxy runs, as process %s, and would make its rules again; stop it first", pid)
	}
	found, err := kuberules.Find(ctx)
	if errors.Is(err, fs.ErrPermission) {
		return errors.New("only root, or a process with the capability CAP_NET_ADMIN, may remove a kube-proxy's rules")
	}
	if len(found) == 0 && err == nil {
		_, err := fmt.Fprintln(w, "There is nothing of a kube-proxy.")
		return err
	}
	errs := []error{err}
	for _, f := range found {
		err := f.Remove(ctx)
		if err == nil {
			_, err = fmt.Fprintln(w, "Removed: "+f.What)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// processNamed looks for a process by the name of its program.
func processNamed(proc, name string) (pid string, running bool) {
	found, _ := filepath.Glob(filepath.Join(proc, "[0-9]*", "comm"))
	for _, path := range found {
		if comm, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(comm)) == name {
			return filepath.Base(filepath.Dir(path)), true
		}
	}
	return "", false
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
