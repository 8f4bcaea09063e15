package source

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluicenet/sluice/model"
)

// defaultAffinityTimeout is what the API server gives sessionAffinity ClientIP
// without a timeout.
const defaultAffinityTimeout = time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second

const (
	wantPort     = "a number from 1 to 65535"
	wantIP       = "an IP address"
	wantProtocol = "TCP, UDP or SCTP"
)

// convertService fills in defaults as the API server does
// (pkg/apis/core/v1/defaults.go, SetDefaults_Service).
func convertService(in *corev1.Service, f *findings) []Value {
	spec := &in.Spec
	s := &model.Service{
		Meta:                slimMeta(&in.ObjectMeta, f.labels...),
		Type:                spec.Type,
		ExternalName:        spec.ExternalName,
		Selector:            labels.FormatLabels(spec.Selector),
		PublishNotReady:     spec.PublishNotReadyAddresses,
		HealthCheckNodePort: portOrZero(f, "spec.healthCheckNodePort", spec.HealthCheckNodePort),
	}
	s.Scheduler = scheduler(in.Annotations, f)
	switch s.Type {
	case "":
		s.Type = corev1.ServiceTypeClusterIP
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
	case corev1.ServiceTypeExternalName:
		if spec.ExternalName == "" {
			f.missing("spec.externalName", "a DNS name for a Service of type ExternalName")
		}
	default:
		f.bad("spec.type", "ClusterIP, NodePort, LoadBalancer or ExternalName", string(spec.Type))
		s.Type = corev1.ServiceTypeClusterIP
	}
	if len(spec.Selector) == 0 {
		s.Selector = "" // FormatLabels has a word for none
	}
	serviceAddresses(in, s, f)
	s.Families = families.share(s.Families)
	servicePorts(spec.Ports, s, f)
	s.Ports = servicePortLists.share(s.Ports)
	servicePolicies(spec, s, f)
	return []Value{s}
}

// schedulers are those of IPVS (net/netfilter/ipvs/ip_vs_*.c).
var schedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"}

func scheduler(annotations map[string]string, f *findings) string {
	name := annotations[SchedulerAnnotation]
	if name != "" && !slices.Contains(schedulers, name) {
		f.warn("metadata.annotations["+SchedulerAnnotation+"]", "one of "+strings.Join(schedulers, ", "), name)
		return ""
	}
	return intern(name)
}

func serviceAddresses(in *corev1.Service, s *model.Service, f *findings) {
	spec := &in.Spec
	s.Headless = spec.ClusterIP == corev1.ClusterIPNone || slices.Contains(spec.ClusterIPs, corev1.ClusterIPNone)
	if s.Type != corev1.ServiceTypeExternalName && !s.Headless {
		field, ips := "spec.clusterIPs", spec.ClusterIPs
		if len(ips) == 0 && spec.ClusterIP != "" {
			field, ips = "spec.clusterIP", []string{spec.ClusterIP}
		} else if len(ips) > 0 && spec.ClusterIP != "" && spec.ClusterIP != ips[0] {
			f.bad("spec.clusterIP", "the first of spec.clusterIPs", spec.ClusterIP)
		}
		s.ClusterIPs = addrs(f, field, ips)
		if len(s.ClusterIPs) > 2 || len(s.ClusterIPs) == 2 && s.ClusterIPs[0].Is4() == s.ClusterIPs[1].Is4() {
			f.bad(field, "at most one address of each family", fmt.Sprint(ips))
			s.ClusterIPs = s.ClusterIPs[:1]
		}
	}
	if s.Headless && (s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer) {
		f.bad("spec.clusterIP", "an address for a Service of type "+string(s.Type), corev1.ClusterIPNone)
	}
	for i, family := range spec.IPFamilies {
		if family != corev1.IPv4Protocol && family != corev1.IPv6Protocol || slices.Contains(s.Families, family) {
			f.bad(fmt.Sprintf("spec.ipFamilies[%d]", i), "IPv4 or IPv6, each once", string(family))
			continue
		}
		s.Families = append(s.Families, family)
	}
	if len(s.ClusterIPs) > 0 && len(s.Families) == 0 {
		for _, ip := range s.ClusterIPs {
			s.Families = append(s.Families, familyOf(ip))
		}
	}
	for i, ip := range s.ClusterIPs {
		if i < len(s.Families) && familyOf(ip) != s.Families[i] {
			f.bad(fmt.Sprintf("spec.ipFamilies[%d]", i), "the family of the clusterIP "+ip.String(), string(s.Families[i]))
		}
	}
	s.ExternalIPs = addrs(f, "spec.externalIPs", spec.ExternalIPs)
	s.ExternalIPs = slices.DeleteFunc(s.ExternalIPs, func(ip netip.Addr) bool {
		if special(ip) {
			f.bad("spec.externalIPs", "addresses"+notSpecial, ip.String())
		}
		return special(ip)
	})
	s.SourceRanges = prefixes(f, "spec.loadBalancerSourceRanges", spec.LoadBalancerSourceRanges)
	for i, lb := range in.Status.LoadBalancer.Ingress {
		// An address in mode Proxy is the load balancer's own (KEP-1860).
		if lb.IP == "" || lb.IPMode != nil && *lb.IPMode != corev1.LoadBalancerIPModeVIP {
			continue
		}
		field := fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i)
		switch ip, ok := addr(f, field, lb.IP); {
		case ok && special(ip):
			f.warn(field, "an address"+notSpecial, lb.IP) // of a developer's machine, perhaps; the rest is served
		case ok:
			s.LoadBalancerIPs = append(s.LoadBalancerIPs, ip)
		}
	}
}

func servicePorts(ports []corev1.ServicePort, s *model.Service, f *findings) {
	if len(ports) == 0 && !s.Headless && s.Type != corev1.ServiceTypeExternalName {
		f.missing("spec.ports", "a list of at least one port")
	}
	type protoPort struct {
		protocol corev1.Protocol
		port     int32
	}
	names, numbers, nodePorts := map[string]bool{}, map[protoPort]bool{}, map[protoPort]bool{}
	for i, p := range ports {
		at := func(field string) string { return fmt.Sprintf("spec.ports[%d].%s", i, field) }
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if !knownProtocol(p.Protocol) {
			f.bad(at("protocol"), wantProtocol, string(p.Protocol))
			continue
		}
		port, ok := portNumber(f, at("port"), p.Port)
		if !ok {
			continue
		}
		number := protoPort{p.Protocol, p.Port}
		switch {
		case p.Name == "" && len(ports) > 1:
			f.missing(at("name"), "a name, since there are several ports")
		case p.Name != "" && len(validation.IsDNS1123Label(p.Name)) > 0:
			f.bad(at("name"), "a DNS label", p.Name)
		case p.Name != "" && names[p.Name]:
			f.bad(at("name"), "a name that no other port has", p.Name)
			continue
		case numbers[number]:
			f.bad(at("port"), "a port that the Service does not have already", fmt.Sprintf("%d/%s", p.Port, p.Protocol))
			continue
		}
		names[p.Name], numbers[number] = true, true
		out := model.ServicePort{Name: intern(p.Name), Protocol: p.Protocol, Port: port, TargetPort: targetPort(f, at("targetPort"), p)}
		out.NodePort = portOrZero(f, at("nodePort"), p.NodePort)
		if out.NodePort != 0 {
			if np := (protoPort{p.Protocol, p.NodePort}); nodePorts[np] {
				f.bad(at("nodePort"), "a node port that no other port of the Service has", p.NodePort)
				out.NodePort = 0
			} else {
				nodePorts[np] = true
			}
			if s.Type == corev1.ServiceTypeClusterIP || s.Type == corev1.ServiceTypeExternalName {
				f.bad(at("nodePort"), "absent for a Service of type "+string(s.Type), p.NodePort)
				out.NodePort = 0
			}
		}
		if p.AppProtocol != nil {
			out.AppProtocol = intern(*p.AppProtocol)
		}
		s.Ports = append(s.Ports, out)
	}
}

func targetPort(f *findings, field string, p corev1.ServicePort) string {
	switch t := p.TargetPort; {
	case t.Type == intstr.String && t.StrVal != "":
		if n, err := strconv.Atoi(t.StrVal); err == nil && (n < 1 || n > 65535) || err != nil && len(validation.IsValidPortName(t.StrVal)) > 0 {
			f.bad(field, wantPort+" or the name of a container's port", t.StrVal)
			return intern(strconv.Itoa(int(p.Port)))
		}
		return intern(t.StrVal)
	case t.Type == intstr.Int && t.IntVal != 0:
		if t.IntVal < 1 || t.IntVal > 65535 {
			f.bad(field, wantPort+" or the name of a container's port", t.IntVal)
			return intern(strconv.Itoa(int(p.Port)))
		}
		return intern(strconv.Itoa(int(t.IntVal)))
	}
	return intern(strconv.Itoa(int(p.Port)))
}

func servicePolicies(spec *corev1.ServiceSpec, s *model.Service, f *findings) {
	s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	switch spec.ExternalTrafficPolicy {
	case "", corev1.ServiceExternalTrafficPolicyCluster:
	case corev1.ServiceExternalTrafficPolicyLocal:
		s.ExternalTrafficPolicy = spec.ExternalTrafficPolicy
	default:
		f.bad("spec.externalTrafficPolicy", "Cluster or Local", string(spec.ExternalTrafficPolicy))
	}
	s.InternalTrafficPolicy = corev1.ServiceInternalTrafficPolicyCluster
	if p := spec.InternalTrafficPolicy; p != nil {
		switch *p {
		case corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal:
			s.InternalTrafficPolicy = *p
		default:
			f.bad("spec.internalTrafficPolicy", "Cluster or Local", string(*p))
		}
	}
	switch spec.SessionAffinity {
	case "", corev1.ServiceAffinityNone:
	case corev1.ServiceAffinityClientIP:
		s.AffinityTimeout = defaultAffinityTimeout
		if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			if t := *c.ClientIP.TimeoutSeconds; t < 1 || t > 86400 {
				f.bad("spec.sessionAffinityConfig.clientIP.timeoutSeconds", "a number of seconds from 1 to 86400", t)
			} else {
				s.AffinityTimeout = time.Duration(t) * time.Second
			}
		}
	default:
		f.bad("spec.sessionAffinity", "None or ClientIP", string(spec.SessionAffinity))
	}
	if t := spec.TrafficDistribution; t != nil {
		switch *t {
		case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode:
			s.TrafficDistribution = *t
		default:
			f.bad("spec.trafficDistribution", "PreferClose, PreferSameZone or PreferSameNode", *t)
		}
	}
}

func knownProtocol(p corev1.Protocol) bool {
	return p == corev1.ProtocolTCP || p == corev1.ProtocolUDP || p == corev1.ProtocolSCTP
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func portNumber(f *findings, field string, n int32) (uint16, bool) {
	if n < 1 || n > 65535 {
		f.bad(field, wantPort, n)
		return 0, false
	}
	return uint16(n), true
}

func portOrZero(f *findings, field string, n int32) uint16 {
	if n == 0 {
		return 0
	}
	p, _ := portNumber(f, field, n)
	return p
}

// special reports whether an address is one at which no other machine is
// reached. The API server takes them neither for endpoints nor for external
// addresses: whoever may write those would reach the node's own services
// (validation.ValidateNonSpecialIP).
func special(ip netip.Addr) bool {
	return ip.IsUnspecified() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast()
}

const notSpecial = " that is not loopback, link-local, multicast or unspecified"

// addr parses an address. IPv4 in IPv6 is taken as IPv4, as the API does.
func addr(f *findings, field, s string) (netip.Addr, bool) {
	ip, err := netip.ParseAddr(s)
	if err != nil || ip.Zone() != "" {
		f.bad(field, wantIP, s)
		return netip.Addr{}, false
	}
	return ip.Unmap(), true
}

func addrs(f *findings, field string, in []string) []netip.Addr {
	var out []netip.Addr
	for i, s := range in {
		at := field
		if field != "spec.clusterIP" {
			at = fmt.Sprintf("%s[%d]", field, i)
		}
		if ip, ok := addr(f, at, s); ok {
			out = append(out, ip)
		}
	}
	return out
}

func prefixes(f *findings, field string, in []string) []netip.Prefix {
	var out []netip.Prefix
	for i, s := range in {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			f.bad(fmt.Sprintf("%s[%d]", field, i), "an address range such as 10.0.0.0/8", s)
			continue
		}
		out = append(out, p.Masked())
	}
	return out
}
