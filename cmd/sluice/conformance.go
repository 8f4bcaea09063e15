package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/dns/conformance"
	"github.com/sluicenet/sluice/dns/zone"
)

// conformanceCommand asks a server what the DNS of a cluster must know.
func conformanceCommand() *cobra.Command {
	var server, four, six, pod string
	var ttl time.Duration
	var manifests bool
	p := conformance.Params{}
	cmd := &cobra.Command{
		Use:   "conformance",
		Short: "Ask a name server all that a cluster's DNS must know, and print a table",
		Long: `Ask a name server, over UDP and TCP, all that the Kubernetes DNS specification 1.1.0
says and all that CoreDNS does beyond it. It needs some Services to ask about,
which --manifests prints: apply them to the cluster, or put them into the
directory that sluice serves. They are in namespaces of their own. A rule that
cannot be asked about is in the table, with the reason.`,
		Example: `  sluice dns conformance --manifests | kubectl apply -f -
  sluice dns conformance --server 169.254.20.10:53
  sluice dns conformance --server 10.96.0.10:53 --ttl 30s --pod kube-system/10.244.0.2`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, f := range []struct {
				name, text string
				to         *netip.Prefix
			}{{"ipv4", four, &p.IPv4}, {"ipv6", six, &p.IPv6}} {
				if f.text == "" {
					continue
				}
				var err error
				if *f.to, err = netip.ParsePrefix(f.text); err != nil {
					return fmt.Errorf("--%s: expected a network such as 10.96.250.0/24, found %q", f.name, f.text)
				}
			}
			if !p.IPv4.IsValid() || !p.IPv4.Addr().Is4() {
				return fmt.Errorf("--ipv4: expected an IPv4 network, found %q", four)
			}
			if p.IPv6.IsValid() && !p.IPv6.Addr().Is6() {
				return fmt.Errorf("--ipv6: expected an IPv6 network, found %q", six)
			}
			if ttl < 0 || ttl > time.Hour || ttl%time.Second != 0 {
				return fmt.Errorf("--ttl: expected whole seconds of at most 1h, found %v", ttl)
			}
			p.TTL = uint32(ttl / time.Second)
			if _, err := zone.ParsePodMode(p.Pods); err != nil {
				return fmt.Errorf("--pods: expected disabled, insecure or verified, found %q", p.Pods)
			}
			if pod != "" {
				var address string
				var err error
				p.PodNamespace, address, _ = strings.Cut(pod, "/")
				if p.Pod, err = netip.ParseAddr(address); err != nil || p.PodNamespace == "" {
					return fmt.Errorf("--pod: expected NAMESPACE/ADDRESS, found %q", pod)
				}
			}
			if manifests {
				b, err := conformance.Manifests(p)
				if err != nil {
					return err
				}
				_, err = cmd.OutOrStdout().Write(b)
				return err
			}
			addr, err := netip.ParseAddrPort(server)
			if err != nil {
				return fmt.Errorf("--server: expected ADDRESS:PORT, found %q", server)
			}
			target := conformance.Target{Server: addr}
			missing := conformance.Missing(cmd.Context(), target, p)
			switch which, known := errors.AsType[*conformance.MissingError](missing); {
			case known:
				missing = fmt.Errorf("%w: apply what %q prints, or put it into the directory that is served", missing, manifestsCommand(cmd))
				if which.All {
					return missing
				}
			case missing != nil:
				return missing
			}
			outcomes, err := conformance.Run(cmd.Context(), target, p)
			if err != nil {
				return err
			}
			failed, err := conformance.Print(cmd.OutOrStdout(), outcomes)
			if err != nil {
				return err
			}
			if missing != nil {
				return missing
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d checks failed", failed, len(outcomes)/2)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&server, "server", "169.254.20.10:53", "address and port of the server")
	f.BoolVar(&manifests, "manifests", false, "print the objects that are asked about, and ask nothing")
	f.StringVar(&p.Zone, "zone", "cluster.local", "cluster's DNS zone")
	f.StringVar(&four, "ipv4", "10.96.250.0/24", "network within the range of ClusterIPs whose first addresses are free")
	f.StringVar(&six, "ipv6", "", "the same of IPv6, such as fd00:10:96::fa00/120; empty: ask nothing of IPv6")
	f.DurationVar(&ttl, "ttl", 0, "TTL of the cluster's names that the server is configured with, to compare its answers with; 0: do not")
	f.StringVar(&pod, "pod", "", "NAMESPACE/ADDRESS of a Pod that runs, to ask for by its address; empty: do not")
	f.StringVar(&p.Pods, "pods", "verified", "how the server answers for Pods by address: disabled, insecure or verified")
	return cmd
}

// manifestsCommand is what prints the objects that fit the flags of cmd.
func manifestsCommand(cmd *cobra.Command) string {
	words := []string{cmd.CommandPath(), "--manifests"}
	for _, name := range []string{"zone", "ipv4", "ipv6"} {
		if f := cmd.Flags().Lookup(name); f.Changed {
			words = append(words, "--"+name, f.Value.String())
		}
	}
	return strings.Join(words, " ")
}
