package mesh

import (
	"cmp"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

// Ports of a sidecar, to which its Pod's rules redirect connections, and the
// names of its listeners.
const (
	OutboundPort     = 15001
	InboundPort      = 15006
	OutboundListener = "outbound"
	InboundListener  = "inbound"
)

// What else the parts of a sidecar agree on.
const (
	// ProxyUID is the user and group that Envoy runs as. The Pod's rules let
	// the connections of this user pass.
	ProxyUID = 1337
	// HealthPort is where a sidecar says whether it is ready.
	HealthPort = 15021
	// ControlPlanePort is where certificates and configuration come from.
	ControlPlanePort = 15012
)

// Space is the space of host names of the sidecars' outbound listener; see
// [route.OutboundSpace].
const Space = "mesh"

// SidecarAnnotation on a Pod says with the value [SidecarInjected] that the
// Pod has a sidecar. `sluice inject` writes it; a Pod manifest of a standalone
// directory carries it by hand.
const (
	SidecarAnnotation = "sluice.io/sidecar"
	SidecarInjected   = "injected"
)

// HasSidecar reports whether the Pod has a sidecar. A Pod on the host's
// network cannot have one: its connections are not its own to redirect.
func HasSidecar(p *model.Pod) bool {
	return p.Annotations[SidecarAnnotation] == SidecarInjected && !p.HostNetwork && !p.Terminated
}

func serviceAccount(p *model.Pod) string { return cmp.Or(p.ServiceAccount, "default") }

// clusterName names the cluster of a Service's port, or of a subset of it.
func clusterName(svc model.Name, port uint16, subset string) string {
	name := svc.String() + "/" + portString(port)
	if subset != "" {
		name += "/" + subset
	}
	return name
}

// sharedAliases are the names of a Service that mean it in every namespace.
// Addresses are written as a Host header has them (RFC 9110 §7.2).
func sharedAliases(s *model.Service, domain string) []string {
	base := s.Name + "." + s.Namespace
	names := []string{base, base + ".svc", base + ".svc." + domain}
	for _, ip := range s.ClusterIPs {
		names = append(names, authority(ip))
	}
	return names
}

func authority(ip netip.Addr) string {
	if ip.Is6() {
		return "[" + ip.String() + "]"
	}
	return ip.String()
}

// serviceOf says which Service a host means that an object of a namespace
// names: one label is a Service of that namespace, else the namespace is
// written. The second result is false for every other host.
func serviceOf(host, namespace, domain string) (model.Name, bool) {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	host = strings.TrimSuffix(host, "."+domain)
	labels := strings.Split(host, ".")
	for _, l := range labels {
		if l == "" || l == "*" {
			return model.Name{}, false
		}
	}
	switch {
	case len(labels) == 1:
		return model.Name{Namespace: namespace, Name: labels[0]}, true
	case len(labels) == 2, len(labels) == 3 && labels[2] == "svc":
		return model.Name{Namespace: labels[1], Name: labels[0]}, true
	}
	return model.Name{}, false
}

// portProtocol says what a Service's port speaks, by Istio's rules: its
// appProtocol decides, else the part of its name before the first dash. The
// second result is false where neither says anything and TCP is assumed.
func portProtocol(p model.ServicePort) (route.Protocol, bool) {
	word, _, _ := strings.Cut(strings.ToLower(p.Name), "-")
	if strings.HasPrefix(strings.ToLower(p.Name), "grpc-web") {
		word = "grpc-web"
	}
	if p.AppProtocol != "" {
		word = strings.ToLower(p.AppProtocol)
	}
	switch word {
	case "http", "grpc-web", "kubernetes.io/ws":
		return route.HTTP, true
	case "http2", "grpc", "kubernetes.io/h2c":
		return route.HTTP2, true
	case "https", "tls", "tcp", "mongo", "mysql", "redis", "kubernetes.io/wss":
		return route.TCP, true
	}
	return route.TCP, false
}

// isHTTP reports whether a port of TCP speaks HTTP of either version.
func isHTTP(p model.ServicePort) bool {
	proto, _ := portProtocol(p)
	return isTCP(p) && proto != route.TCP
}

func isTCP(p model.ServicePort) bool { return p.Protocol == corev1.ProtocolTCP || p.Protocol == "" }
