package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/envoy"
	engine "github.com/sluicenet/sluice/proxy/nftables"
)

// finding is the result of one check.
type finding struct {
	what string
	err  error // nil: good
}

func checkCommand() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "See whether this machine has all that sluice needs, and what to do where not",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			bad := 0
			for _, f := range check(path) {
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
		},
	}
	cmd.Flags().StringVar(&path, "envoy", "", "Envoy binary (default: found on $PATH, then where hack/envoy puts it)")
	return cmd
}

func check(path string) []finding {
	found, err := envoy.Find(path)
	what := "Envoy, for gateways"
	if err == nil {
		what += " (" + found + ")"
	}
	return []finding{
		{"nftables, for the service proxy", engine.Probe()},
		{"no other service proxy", otherProxy()},
		{what, err},
	}
}

// otherProxy looks for the rules of a kube-proxy, which would translate a
// connection before or after ours does.
func otherProxy() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := conn.ListTables()
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
