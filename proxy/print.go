package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// String returns "ipv4" or "ipv6".
func (f Family) String() string { return "ipv" + strconv.Itoa(int(f)) }

// String returns the protocol's name in lower case.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

// String returns the kind as people write it.
func (k FrontendKind) String() string {
	return [...]string{"ClusterIP", "external IP", "load balancer IP", "NodePort"}[k]
}

// String says what happens.
func (a Action) String() string {
	return [...]string{"reject", "drop", "cluster", "local"}[a]
}

// String says where.
func (p Place) String() string {
	return [...]string{"elsewhere", "here", "somewhere"}[p]
}

// String says when.
func (m Masquerade) String() string {
	return [...]string{"off-cluster", "from-node", "always"}[m]
}

// String returns "tcp 10.96.0.1:80", or "tcp *:30080 ipv4" for a NodePort.
func (k FrontendKey) String() string {
	if !k.Addr.IsValid() {
		return fmt.Sprintf("%s *:%d %s", k.Protocol, k.Port, k.Family)
	}
	return fmt.Sprintf("%s %s", k.Protocol, netip.AddrPortFrom(k.Addr, k.Port))
}

// String prints the whole plan, in an order that depends on nothing but its
// content.
func (p *Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "node %s", p.Node.Name)
	field(&b, " zone ", p.Node.Zone)
	field(&b, " addresses ", join(p.Node.Addrs))
	field(&b, " pods ", join(p.Node.Pods))
	field(&b, " pod interfaces ", strings.Join(p.Node.PodInterfaces, ","))
	field(&b, " nodeports ", join(p.Node.NodePorts))
	if p.Node.Localhost {
		b.WriteString(" localhost")
	}
	field(&b, " services ", join(p.Node.ServiceCIDRs))
	b.WriteByte('\n')
	for s := range p.Services() {
		b.WriteString(s.String())
	}
	return b.String()
}

// String prints the plan of one Service.
func (s *Service) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "service %s\n", s.Name)
	if s.HealthCheckNodePort != 0 {
		fmt.Fprintf(&b, "  health check port %d: %d ready here\n", s.HealthCheckNodePort, s.LocalReady)
	}
	field(&b, "  scheduler ", s.Scheduler)
	if s.Scheduler != "" {
		b.WriteByte('\n')
	}
	for _, p := range s.Problems {
		fmt.Fprintf(&b, "  problem %s: %s\n", p.Reason, p.Message)
	}
	for _, p := range s.Ports {
		p.print(&b)
	}
	return b.String()
}

func (p *Port) print(b *strings.Builder) {
	fmt.Fprintf(b, "  %s/%d %s", p.Protocol, p.Port, p.Family)
	field(b, " name ", p.Name)
	if p.Affinity != 0 {
		fmt.Fprintf(b, " affinity %s", p.Affinity)
	}
	if p.Split.Name != "" {
		fmt.Fprintf(b, " split by %s", p.Split)
	}
	b.WriteByte('\n')
	for _, f := range p.Frontends {
		fmt.Fprintf(b, "    %s", f.Kind)
		if f.Addr.IsValid() {
			fmt.Fprintf(b, " %s", f.Addr)
		}
		fmt.Fprintf(b, " :%d -> ", f.Port)
		if f.Inside == f.Outside {
			fmt.Fprintf(b, "%s", f.Inside)
		} else {
			fmt.Fprintf(b, "inside %s, outside %s", f.Inside, f.Outside)
		}
		fmt.Fprintf(b, "; masquerade %s", f.Masquerade)
		if f.Sources != nil {
			fmt.Fprintf(b, "; only from %s", sourcesText(f.Sources))
		}
		b.WriteByte('\n')
	}
	printBackends(b, "cluster", p.Cluster)
	if !slices.Equal(p.Cluster, p.Local) {
		printBackends(b, "local", p.Local)
	}
	var draining []string
	for _, e := range p.Kept {
		draining = append(draining, e.String())
	}
	if draining != nil {
		fmt.Fprintf(b, "    established only: %s\n", strings.Join(draining, ", "))
	}
}

func printBackends(b *strings.Builder, name string, backends []Backend) {
	fmt.Fprintf(b, "    %s:", name)
	for i, e := range backends {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(b, " %s", e.AddrPort)
		if e.Weight != 1 {
			fmt.Fprintf(b, " x%d", e.Weight)
		}
		if e.Place != Elsewhere {
			fmt.Fprintf(b, " %s", e.Place)
		}
	}
	b.WriteByte('\n')
}

func sourcesText(sources []netip.Prefix) string {
	if len(sources) == 0 {
		return "nobody"
	}
	return join(sources)
}

func field(b *strings.Builder, label, value string) {
	if value != "" {
		b.WriteString(label)
		b.WriteString(value)
	}
}

func join[T fmt.Stringer](list []T) string {
	texts := make([]string, len(list))
	for i, e := range list {
		texts[i] = e.String()
	}
	return strings.Join(texts, ",")
}
