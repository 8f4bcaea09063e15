package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/internal/config"
)

func getCommand() *cobra.Command {
	var g getter
	cmd := &cobra.Command{
		Use:   "get RESOURCE[,RESOURCE...] [NAME...]",
		Short: "Show what a running sluice knows: services, endpoints, gateways, proxies, problems, ...",
		Example: `  sluice get services -A
  sluice get service web -o wide
  sluice get endpoints web
  sluice get gateway shop -o yaml
  sluice get gateways,httproutes -n shop
  sluice get proxies -o wide
  sluice get problems`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("expected a resource, such as services, gateways, proxies or problems")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"", "wide", "json", "yaml", "name"}, g.format) {
				return fmt.Errorf("-o %q: expected wide, json, yaml or name", g.format)
			}
			g.asked = cmd.Flags().Changed("namespace")
			resources, names := strings.Split(args[0], ","), args[1:]
			if resource, name, ok := strings.Cut(args[0], "/"); ok {
				resources, names = []string{resource}, append([]string{name}, names...)
			}
			for i, resource := range resources {
				if i > 0 {
					_, _ = fmt.Fprintln(cmd.OutOrStdout())
				}
				if err := g.get(cmd, resource, names); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&g.socket, "socket", config.Default().Socket, "socket of the process to ask")
	cmd.Flags().StringVarP(&g.namespace, "namespace", "n", "default", "namespace")
	cmd.Flags().BoolVarP(&g.all, "all-namespaces", "A", false, "all namespaces")
	cmd.Flags().StringVarP(&g.format, "output", "o", "", "wide, json, yaml or name")
	return cmd
}

type getter struct {
	socket, namespace, format string
	all, asked                bool // asked: for a namespace
}

func (g *getter) get(cmd *cobra.Command, resource string, names []string) error {
	client := admin.NewClient(g.socket)
	ask := client.Table
	if g.format != "" && g.format != "name" {
		ask = client.Wide
	}
	table, err := ask(cmd.Context(), resource)
	if err != nil {
		return err
	}
	namespace := g.namespace
	// What is wrong must not hide in another namespace.
	if everywhere := !g.asked && strings.EqualFold(strings.TrimSuffix(resource, "s"), "problem"); g.all || everywhere {
		namespace = ""
	}
	if table, err = admin.Select(table, namespace, names); err != nil {
		return fmt.Errorf("%s: %w", resource, err)
	}
	if g.format == "" || g.format == "wide" {
		if len(table.Rows) == 0 {
			where := "."
			if namespace != "" {
				where = " in namespace " + namespace + "."
			}
			fmt.Fprintf(os.Stderr, "No %s found%s\n", strings.ToLower(resource), where)
			return nil
		}
		if namespace != "" {
			table = admin.WithoutNamespace(table)
		}
	}
	return admin.Print(cmd.OutOrStdout(), table, resource, g.format)
}
