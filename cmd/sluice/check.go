package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/internal/envoy"
	"github.com/sluicenet/sluice/internal/kubeproxy"
)

// finding is the result of one check.
type finding struct {
	what string
	err  error // nil: good
}

func checkCommand() *cobra.Command {
	return withConfiguration(&cobra.Command{
		Use:   "check",
		Short: "See whether this machine has all that sluice needs, and what to do where not",
		Long: `See whether "sluice up" with the same configuration could run on this machine, and
say what to do where not. It changes nothing.`,
		Example: "  sluice check -f /etc/sluice/manifests",
	}, role{node: true, control: true}, func(cmd *cobra.Command, c *config.Configuration, notes []kubeproxy.Note) error {
		for _, n := range notes {
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "note  kube-proxy's configuration: %s\n", n); err != nil {
				return err
			}
		}
		bad := 0
		for _, f := range check(cmd.Context(), c) {
			mark, text := "ok  ", f.what
			if f.err != nil {
				bad++
				mark, text = "FAIL", f.what+": "+f.err.Error()
			}
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", mark, text); err != nil {
				return err
			}
		}
		if bad > 0 {
			return fmt.Errorf("%d checks failed", bad)
		}
		return nil
	})
}

func check(ctx context.Context, c *config.Configuration) []finding {
	var out []finding
	if c.Socket != "" && answers(ctx, c.Socket) {
		out = append(out, finding{what: "a sluice runs on " + c.Socket + " already; whether its addresses are free is left out"})
		running := *c
		running.Socket, running.Metrics, running.XDS.Address, running.DNS.Listen = "", "", "", nil
		c = &running
	}
	out = append(out, preflight(ctx, c, role{node: true, control: true})...)
	out = append(out, finding{"no other service proxy", otherProxy()})
	if c.Envoy == "" {
		found, err := envoy.Find("")
		what := "Envoy, for gateways"
		if err == nil {
			what += " (" + found + ")"
		}
		out = append(out, finding{what, err})
	}
	return out
}

// otherProxy looks for the rules of a kube-proxy, which would translate a
// connection before or after ours does.
func otherProxy() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := conn.ListTables()
	if errors.Is(err, syscall.EPERM) {
		return errors.New("only root, or a process with the capability CAP_NET_ADMIN, can see")
	}
	if err != nil {
		return err
	}
	var found []string
	for _, t := range tables {
		if t.Name == "kube-proxy" {
			found = append(found, "table "+family(t.Family)+" kube-proxy")
		}
	}
	chains, err := conn.ListChains()
	if err != nil {
		return err
	}
	for _, c := range chains {
		if c.Name == "KUBE-SERVICES" {
			found = append(found, "chain KUBE-SERVICES in table "+family(c.Table.Family)+" "+c.Table.Name)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return errors.New(strings.Join(found, ", ") + ": stop kube-proxy and remove its rules with kube-proxy --cleanup")
}

func family(f nftables.TableFamily) string {
	if f == nftables.TableFamilyIPv6 {
		return "ip6"
	}
	return "ip"
}
