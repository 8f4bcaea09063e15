package main

import (
	"fmt"
	"io"
	"net/url"

	miekg "github.com/miekg/dns"
	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/internal/admin"
	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/model"
)

// dnsCommand serves DNS alone, and has what asks it below it.
func dnsCommand() *cobra.Command {
	serve := func(use, short string) *cobra.Command {
		return configured(&cobra.Command{
			Use: use, Short: short,
			Long: `Answer the names of a cluster, or of a directory of manifests, and forward and cache
all others: what "sluice node" does, without the service proxy. Commands below ask a
server that runs.`,
			Example: `  sluice dns --dns-listen 169.254.20.10:53
  sluice dns --manifests manifests/examples/quickstart --dns-listen 127.0.0.1:5353 --dns-intercept-mode off`,
		}, role{dns: true}, func(p *process) error {
			kinds := []model.KindID{model.KindService, model.KindEndpointSlice, model.KindNamespace, model.KindNode}
			node := p.conf.NodeName
			switch c := p.conf.DNS; {
			case c.Pods == "verified":
				node = "" // names of the whole cluster's Pods
				kinds = append(kinds, model.KindPod)
			case c.Autopath:
				kinds = append(kinds, model.KindPod)
			}
			p.sourceOf(node, kinds)
			return p.dns()
		})
	}
	cmd := serve("dns", "Run the DNS server alone, or ask the node's")
	cmd.AddCommand(serve("serve", "Run the DNS server alone"), dnsQueryCommand(), conformanceCommand(), dnsImportCommand())
	return cmd
}

// questionOf returns the question of arguments: a name, or an address whose name is
// asked for, and a type.
func questionOf(args []string) url.Values {
	q := url.Values{"name": {args[0]}, "type": {"A"}}
	reverse, err := miekg.ReverseAddr(args[0])
	if err == nil {
		q = url.Values{"name": {reverse}, "type": {"PTR"}}
	}
	if len(args) == 2 {
		q.Set("type", args[1])
	}
	return q
}

func dnsQueryCommand() *cobra.Command {
	var socket, from string
	cmd := &cobra.Command{
		Use:   "query NAME|ADDRESS [TYPE]",
		Short: "Answer a query and explain where the answer comes from",
		Example: `  sluice dns query web.default.svc.cluster.local AAAA
  sluice dns query 10.96.0.20
  sluice dns query --from pod/shop/cart-0 www.example.com.shop.svc.cluster.local`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := questionOf(args)
			client := admin.NewClient(socket)
			if from != "" {
				address, err := resolver{cmd, client, io.Discard}.source(from, "")
				if err != nil {
					return err
				}
				q.Set("client", address)
			}
			var answer dns.Explanation
			if err := client.Ask(cmd.Context(), "dns", q, &answer); err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			_, _ = fmt.Fprintf(w, "%s %s: %s, from %s\n", answer.Name, answer.Type, answer.Rcode, answer.Source)
			for _, r := range append(answer.Answer, answer.Authority...) {
				_, _ = fmt.Fprintln(w, "  "+r)
			}
			reason := answer.Reason
			if answer.Object != "" {
				reason += ": " + answer.Object
			}
			if answer.Upstream != "" {
				reason += " (" + answer.Upstream + ")"
			}
			_, err := fmt.Fprintln(w, reason)
			return err
		},
	}
	cmd.Flags().StringVar(&socket, "socket", config.Default().Socket, "socket of the process to ask")
	cmd.Flags().StringVar(&from, "from", "", "answer as if this client had asked: an address or pod/NAMESPACE/NAME")
	return cmd
}
