package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/internal/envoy"
	"github.com/sluicenet/sluice/internal/kubeproxy"
	"github.com/sluicenet/sluice/internal/kuberules"
)

// finding is the result of one check.
type finding struct {
	what  string
	err   error // nil: good
	minor bool  // sluice runs all the same
}

func checkCommand() *cobra.Command {
	return withConfiguration(&cobra.Command{
		Use:   "check",
		Short: "See whether this machine has all that sluice needs, and what to do where not",
		Long: `See whether "sluice up" with the same configuration could run on this machine, and
say what to do where not, which engine it would take, and whether a kube-proxy's
rules are in the way. It changes nothing. What is marked "warn" keeps nothing from
running.`,
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
				mark, text = "FAIL", f.what+": "+f.err.Error()
			}
			switch {
			case f.err != nil && f.minor:
				mark = "warn"
			case f.err != nil:
				bad++
			}
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", mark, strings.Join(strings.Fields(text), " ")); err != nil {
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
		running.Socket, running.Metrics, running.XDS.Address, running.Proxy.Healthz, running.DNS.Listen = "", "", "", "", nil
		out = append(out, dnsMistakes(c)...)
		c = &running
	}
	out = append(out, preflight(ctx, c, role{node: true, control: true})...)
	out = append(out, engineFindings(ctx, c.Proxy)...)
	if c.Proxy.Mode != "none" {
		out = append(out, otherProxy(ctx)...)
		out = append(out, kernelFindings("/")...)
	}
	if c.Envoy == "" {
		found, err := envoy.Find("")
		what := "Envoy, for gateways"
		if err == nil {
			what += " (" + found + ")"
		}
		out = append(out, finding{what: what, err: err})
	}
	return out
}

// engineFindings says of every engine whether this machine can run it. Where it
// is not the one that is asked for, that is no failure.
func engineFindings(ctx context.Context, c config.Proxy) []finding {
	if c.Mode == "none" {
		return nil
	}
	var out []finding
	for _, k := range engineKinds() {
		out = append(out, finding{what: "engine " + k.name, err: k.probe(ctx, c), minor: true})
	}
	return out
}

// otherProxy looks for what a kube-proxy has left, which would translate a
// connection before or after ours does.
func otherProxy(ctx context.Context) []finding {
	const what = "no other service proxy"
	found, err := kuberules.Find(ctx)
	if errors.Is(err, syscall.EPERM) {
		return []finding{{what: what, err: errors.New("only root, or a process with the capability CAP_NET_ADMIN, can see"), minor: true}}
	}
	var out []finding
	if err != nil {
		out = append(out, finding{what: what, err: err, minor: true})
	}
	if len(found) == 0 && err == nil {
		return []finding{{what: what}}
	}
	for _, f := range found {
		out = append(out, finding{what: what, err: fmt.Errorf("found %s: stop kube-proxy, then run sluice cleanup --kube-proxy", f.What)})
	}
	return out
}
