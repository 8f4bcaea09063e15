package main

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/internal/config"
)

func traceCommand() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "trace SRC DST:PORT[/PROTOCOL]",
		Short: "Explain what happens to a new connection: which rule decides, which endpoints it may get",
		Long: `Explain what the service proxy of this node does with a new connection from SRC,
an address or "node" for this node itself, to DST, an address, a Service as
NAME or NAME.NAMESPACE, or a name of the cluster. PROTOCOL is tcp unless given.`,
		Example: `  sluice trace 10.244.1.10 10.96.0.20:80
  sluice trace node web.shop:80
  sluice trace node web.default.svc.cluster.local:53/udp`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			destination, protocol, given := strings.Cut(args[1], "/")
			if !given {
				protocol = "tcp"
			}
			client := admin.NewClient(socket)
			destination, err := resolve(cmd, client, destination)
			if err != nil {
				return err
			}
			var text string
			q := url.Values{"source": {args[0]}, "destination": {destination}, "protocol": {strings.ToUpper(protocol)}}
			if err := client.Ask(cmd.Context(), "trace", q, &text); err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), text)
			return err
		},
	}
	cmd.Flags().StringVar(&socket, "socket", config.Default().Socket, "socket of the process to ask")
	return cmd
}

// resolve asks the node's own DNS for the address of a name.
func resolve(cmd *cobra.Command, client *admin.Client, destination string) (string, error) {
	host, port, ok := cutLast(destination, ":")
	if !ok {
		return "", fmt.Errorf("%q: expected DST:PORT", destination)
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return destination, nil
	}
	if ip, ok, err := clusterIP(cmd, client, host); err != nil {
		return "", err
	} else if ok {
		return net.JoinHostPort(ip, port), nil
	}
	var answer dns.Explanation
	if err := client.Ask(cmd.Context(), "dns", url.Values{"name": {host}, "type": {"A"}}, &answer); err != nil {
		return "", err
	}
	for _, record := range answer.Answer {
		fields := strings.Fields(record)
		if addr, err := netip.ParseAddr(fields[len(fields)-1]); err == nil {
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s is %s: %s\n", host, addr, answer.Reason)
			return net.JoinHostPort(addr.String(), port), nil
		}
	}
	return "", fmt.Errorf("%s: %s (%s)", host, answer.Rcode, answer.Reason)
}

// clusterIP returns the address of a Service that is named as in a Pod of the
// namespace default: NAME or NAME.NAMESPACE.
func clusterIP(cmd *cobra.Command, client *admin.Client, name string) (ip string, ok bool, err error) {
	if strings.Count(name, ".") > 1 {
		return "", false, nil
	}
	service, namespace, given := strings.Cut(name, ".")
	if !given {
		namespace = "default"
	}
	services, err := client.Table(cmd.Context(), "services")
	if err != nil {
		return "", false, err
	}
	found, err := admin.Select(services, namespace, []string{service})
	if err != nil {
		return "", false, nil //nolint:nilerr // it may be a name outside of the cluster
	}
	object, _ := found.Rows[0].Object.(map[string]any)
	spec, _ := object["spec"].(map[string]any)
	if ip, _ = spec["clusterIP"].(string); ip == "" || ip == "None" {
		return "", false, fmt.Errorf("the Service %s/%s has no clusterIP", namespace, service)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is %s: the clusterIP of the Service %s/%s\n", name, ip, namespace, service)
	return ip, true, err
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func dnsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "dns", Short: "Ask the node's DNS server"}
	var socket string
	query := &cobra.Command{
		Use:     "query NAME [TYPE]",
		Short:   "Answer a query and explain where the answer comes from",
		Example: "  sluice dns query web.default.svc.cluster.local AAAA",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{"name": {args[0]}, "type": {"A"}}
			if len(args) == 2 {
				q.Set("type", args[1])
			}
			var answer dns.Explanation
			if err := admin.NewClient(socket).Ask(cmd.Context(), "dns", q, &answer); err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			_, _ = fmt.Fprintf(w, "%s %s: %s, from %s\n", answer.Name, answer.Type, answer.Rcode, answer.Source)
			for _, r := range append(answer.Answer, answer.Authority...) {
				_, _ = fmt.Fprintln(w, "  "+r)
			}
			_, err := fmt.Fprintln(w, answer.Reason)
			return err
		},
	}
	query.Flags().StringVar(&socket, "socket", config.Default().Socket, "socket of the process to ask")
	cmd.AddCommand(query, conformanceCommand())
	return cmd
}
