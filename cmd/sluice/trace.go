package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/internal/config"
)

func traceCommand() *cobra.Command {
	var socket, format string
	cmd := &cobra.Command{
		Use:   "trace SRC DST:PORT[/PROTOCOL]",
		Short: "Explain what happens to a new connection: which rule decides, which endpoints it may get",
		Long: `Explain what the service proxy of this node does with a new connection from SRC
to DST, and compare that with the rules that the kernel has: where they differ,
the exit status is 1.

SRC is an address, pod/NAMESPACE/NAME, a name, or "node" for this node itself. DST
is an address, pod/NAMESPACE/NAME, svc/NAMESPACE/NAME, a Service as NAME or
NAME.NAMESPACE, or any other name, which the node's DNS is asked for. PORT is a number or, of a Service, the
port's name. PROTOCOL is tcp unless given.`,
		Example: `  sluice trace 10.244.1.10 10.96.0.20:80
  sluice trace pod/shop/cart-0 svc/shop/web:http
  sluice trace node web.default.svc.cluster.local:53/udp`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "" && format != "json" {
				return fmt.Errorf("-o %q: expected json", format)
			}
			// What names stand for is told, but not in between JSON.
			said := cmd.OutOrStdout()
			if format == "json" {
				said = io.Discard
			}
			r := resolver{cmd, admin.NewClient(socket), said}
			destination, protocol, err := r.destination(args[1])
			if err != nil {
				return err
			}
			source, err := r.source(args[0], destination)
			if err != nil {
				return err
			}
			var answer traced
			q := url.Values{"source": {source}, "destination": {destination}, "protocol": {strings.ToUpper(protocol)}}
			if err := r.client.Ask(cmd.Context(), "trace", q, &answer); err != nil {
				return err
			}
			if err := answer.print(cmd.OutOrStdout(), format); err != nil {
				return err
			}
			if len(answer.Differences) > 0 {
				return errors.New("the kernel's rules are not what the plan says")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&socket, "socket", config.Default().Socket, "socket of the process to ask")
	cmd.Flags().StringVarP(&format, "output", "o", "", "json")
	return cmd
}

// print writes the answer for people, or as JSON.
func (t *traced) print(w io.Writer, format string) error {
	if format == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(t)
	}
	var b strings.Builder
	b.WriteString(t.Explanation)
	switch {
	case t.KernelError != "":
		fmt.Fprintf(&b, "%s: not compared with the kernel's rules: %s\n", t.Engine, t.KernelError)
	case len(t.Differences) > 0:
		fmt.Fprintf(&b, "%s: the kernel's rules differ:\n", t.Engine)
		for _, d := range t.Differences {
			b.WriteString("  " + d + "\n")
		}
	default:
		fmt.Fprintf(&b, "%s: the kernel's rules agree\n", t.Engine)
	}
	for _, r := range t.Rules {
		b.WriteString("  " + r + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
