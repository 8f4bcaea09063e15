// Package conformance asks a name server everything that a cluster's DNS must
// know: the Kubernetes DNS specification 1.1.0 (kubernetes/dns
// docs/specification.md), and what CoreDNS' kubernetes plugin does beyond it,
// which clusters have come to rely on. It asks any server, over UDP and TCP,
// about a set of Services that [Manifests] makes.
package conformance

import (
	"bytes"
	_ "embed" // the objects are a file
	"fmt"
	"net/netip"
	"strings"
	"text/template"
)

// Namespace is that of the objects.
const Namespace = "dns-conformance"

// Params are what differs between clusters.
type Params struct {
	Zone string // such as "cluster.local"
	// IPv4 and IPv6 are networks within the ranges of ClusterIPs, of which the
	// first addresses are free. Without IPv6, nothing is asked of it.
	IPv4, IPv6 netip.Prefix
	// Pods is how the server is configured: disabled, insecure or verified.
	Pods string
	// Pod is an address of a running Pod, and PodNamespace its namespace. Without
	// them, nothing is asked of it: objects cannot make one.
	Pod          netip.Addr
	PodNamespace string
	// TTL is that of the cluster's names as the server is configured, in seconds.
	// 0: it is not compared.
	TTL uint32
}

//go:embed objects.yaml
var objects string

// Manifests returns the objects that are asked about, as YAML documents. They
// have no selectors, so their endpoints stay as they are.
func Manifests(p Params) ([]byte, error) {
	t, err := template.New("objects").Parse(objects)
	if err != nil {
		return nil, fmt.Errorf("conformance: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, map[string]any{
		"Namespace": Namespace, "Zone": strings.TrimSuffix(p.Zone, "."), "Four": p.four, "Six": p.six, "HasSix": p.IPv6.IsValid(),
		"Chain": chain(),
		"Numbers": func(n int) []int {
			out := make([]int, n)
			for i := range out {
				out[i] = i + 1
			}
			return out
		},
	}); err != nil {
		return nil, fmt.Errorf("conformance: %w", err)
	}
	return b.Bytes(), nil
}

// link is an ExternalName of a chain.
type link struct{ Name, Target string }

// chainLen is longer than any server follows: CoreDNS follows eleven aliases.
const chainLen = 12

// chain returns aliases, chain-1 to chain-12, of which each leads to the next, and
// the last to a Service with an address.
func chain() []link {
	var links []link
	for i := range chainLen {
		links = append(links, link{fmt.Sprintf("chain-%d", i+1), fmt.Sprintf("chain-%d", i+2)})
	}
	links[chainLen-1].Target = "web"
	return links
}

// four and six return the n-th address of the networks.
func (p Params) four(n int) netip.Addr { return nth(p.IPv4, n) }

func (p Params) six(n int) netip.Addr { return nth(p.IPv6, n) }

func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}
