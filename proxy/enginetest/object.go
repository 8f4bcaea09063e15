package enginetest

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
)

// namespace is that of all objects.
const namespace = "default"

// objects are the objects of a case as of its latest step.
type objects struct {
	w    *World
	zone string
	put  map[model.Key]any
}

// portSpec is a port of a Service, and what it is at its endpoints.
type portSpec struct {
	model.ServicePort
	target uint16
}

var defaultPorts = []string{"t:80/tcp>8080", "u:80/udp>8080", "s:80/sctp>8080"}

// line does what a directive of a case says.
func (o *objects) line(l Line) error {
	if len(l.Head) == 0 {
		return fmt.Errorf("%s of what?", l.Directive)
	}
	switch l.Directive {
	case "service":
		defer o.mirror(l.Head[0])
		return o.service(l.Head[0], l.Head[1:])
	case "endpoints":
		defer o.mirror(l.Head[0])
		return o.endpoints(l.Head[0], l.Head[1:], l.Tail)
	case "split":
		return o.split(l.Head[0], l.Tail)
	case "pod":
		o.pod(l.Head[0], l.Head[1:])
	case "zone":
		o.zone = l.Head[0]
	case "delete":
		return o.remove(l.Head)
	}
	return nil
}

// mirror gives a Service's EndpointSlices its labels, as Kubernetes' controller
// does.
func (o *objects) mirror(service string) {
	s, ok := o.put[key(model.KindService, service)].(*model.Service)
	if !ok {
		return
	}
	for k, obj := range o.put {
		if old, ok := obj.(*model.EndpointSlice); ok && old.Service == service {
			slice := *old
			slice.Labels = s.Labels
			o.put[k] = &slice
		}
	}
}

func key(kind model.KindID, name string) model.Key {
	return model.Key{Kind: kind, Namespace: namespace, Name: name}
}

// remove deletes "service web", "split web:80", or all "endpoints web".
func (o *objects) remove(words []string) error {
	if len(words) != 2 {
		return fmt.Errorf("delete needs a kind and a name")
	}
	switch words[0] {
	case "service":
		delete(o.put, key(model.KindService, words[1]))
	case "split":
		delete(o.put, key(model.KindSplit, words[1]))
	case "endpoints":
		for k, obj := range o.put {
			if s, ok := obj.(*model.EndpointSlice); ok && s.Service == words[1] {
				delete(o.put, k)
			}
		}
	default:
		return fmt.Errorf("cannot delete a %q", words[0])
	}
	return nil
}

// service puts a Service: dual-stack, with a ClusterIP that is "vip", and port
// 80 in all protocols, unless the words say otherwise.
func (o *objects) service(name string, words []string) error {
	s := &model.Service{Meta: model.Meta{Namespace: namespace, Name: name, Labels: map[string]string{}}, Type: corev1.ServiceTypeClusterIP,
		ClusterIPs: slices.Clone(pairList("vip")), Families: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}}
	ports := defaultPorts
	nodePort := uint16(0)
	for _, word := range words {
		k, v, _ := strings.Cut(word, "=")
		var err error
		switch k {
		case "ports":
			ports = strings.Split(v, ",")
		case "nodeport":
			if s.Type == corev1.ServiceTypeClusterIP {
				s.Type = corev1.ServiceTypeNodePort
			}
			if nodePort = 30080; v != "" {
				nodePort, err = number(v)
			}
		case "families":
			s.Families = nil
			if strings.Contains(v, "4") {
				s.Families = append(s.Families, corev1.IPv4Protocol)
			}
			if strings.Contains(v, "6") {
				s.Families = append(s.Families, corev1.IPv6Protocol)
			}
		default:
			err = serviceWord(s, k, v)
		}
		if err != nil {
			return err
		}
	}
	for _, p := range ports {
		specs, err := parsePorts(p)
		if err != nil {
			return err
		}
		for _, spec := range specs {
			if spec.NodePort == 0 {
				spec.NodePort = nodePort
			}
			if len(ports) == 1 && len(specs) == 1 && strings.HasPrefix(p, ":") {
				spec.Name = ""
			}
			spec.TargetPort = strconv.Itoa(int(spec.target))
			s.Ports = append(s.Ports, spec.ServicePort)
		}
	}
	ofFamily := func(a netip.Addr) bool {
		return !slices.Contains(s.Families, map[bool]corev1.IPFamily{true: corev1.IPv4Protocol, false: corev1.IPv6Protocol}[a.Is4()])
	}
	if !slices.Contains(words, "wrong-families") {
		s.ClusterIPs = slices.DeleteFunc(s.ClusterIPs, ofFamily)
	}
	o.put[key(model.KindService, name)] = s
	return nil
}

// serviceWord does what one word says of a Service.
func serviceWord(s *model.Service, k, v string) (err error) {
	switch k {
	case "type":
		s.Type = corev1.ServiceType(v)
	case "vip":
		s.ClusterIPs = slices.Clone(pairList(v))
	case "ext":
		s.ExternalIPs = pairList(v)
	case "lb":
		s.Type, s.LoadBalancerIPs = corev1.ServiceTypeLoadBalancer, pairList(v)
	case "etp":
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicy(v)
	case "itp":
		local := corev1.ServiceInternalTrafficPolicy(v)
		s.InternalTrafficPolicy = local
	case "affinity":
		s.AffinityTimeout, err = time.ParseDuration(v)
	case "sources":
		for p := range strings.SplitSeq(v, ",") {
			prefix, err := netip.ParsePrefix(p)
			if err != nil {
				return err
			}
			s.SourceRanges = append(s.SourceRanges, prefix)
		}
	case "proxy-name":
		if v == "empty" {
			v = ""
		}
		s.Labels["service.kubernetes.io/service-proxy-name"] = v
	case "headless":
		s.Headless, s.ClusterIPs = true, nil
	case "external-name":
		s.Type, s.ExternalName, s.ClusterIPs = corev1.ServiceTypeExternalName, v, nil
	case "publish-not-ready":
		s.PublishNotReady = true
	case "distribution":
		s.TrafficDistribution = v
	case "health":
		s.HealthCheckNodePort, err = number(v)
	case "created":
		var n uint16
		n, err = number(v)
		s.Created = time.Unix(int64(n), 0)
	case "wrong-families":
	default:
		err = fmt.Errorf("unknown word %q of a Service", k)
	}
	return err
}

// pairList returns the addresses that a list of names stands for, or "none".
func pairList(names string) []netip.Addr {
	var out []netip.Addr
	for name := range strings.SplitSeq(names, ",") {
		for _, a := range addresses[name] {
			if a.IsValid() {
				out = append(out, a)
			}
		}
	}
	return out
}

func number(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

// parsePorts reads "NAME:PORT/PROTOCOL>TARGET@NODEPORT"; the port may be a range
// such as "1000-1999", and the target and the NodePort may be missing.
func parsePorts(text string) ([]portSpec, error) {
	rest, node, _ := strings.Cut(text, "@")
	rest, target, _ := strings.Cut(rest, ">")
	name, rest, _ := strings.Cut(rest, ":")
	ports, protocol, _ := strings.Cut(rest, "/")
	first, last, ranged := strings.Cut(ports, "-")
	spec := portSpec{target: 8080}
	spec.Protocol = corev1.Protocol(strings.ToUpper(protocol))
	low, err := number(first)
	high := low
	if ranged && err == nil {
		high, err = number(last)
	}
	if node != "" && err == nil {
		spec.NodePort, err = number(node)
	}
	if target != "" && err == nil {
		spec.target, err = number(target)
	}
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", text, err)
	}
	var out []portSpec
	for n := int(low); n <= int(high); n++ {
		spec.Name, spec.Port = name, uint16(n)
		if ranged {
			spec.Name = fmt.Sprintf("%s%d", name, n)
		}
		out = append(out, spec)
	}
	return out, nil
}

// pod puts a Pod with labels.
func (o *objects) pod(name string, labels []string) {
	p := &model.Pod{Meta: model.Meta{Namespace: namespace, Name: name, Labels: map[string]string{}}}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		p.Labels[k] = v
	}
	o.put[key(model.KindPod, name)] = p
}

// split puts a Split: "web:80: web=90 canary=10/version=v2".
func (o *objects) split(name string, backends []string) error {
	service, port, _ := strings.Cut(name, ":")
	n, err := number(port)
	if err != nil {
		return err
	}
	s := &model.Split{Meta: model.Meta{Namespace: namespace, Name: name}, Service: model.Name{Namespace: namespace, Name: service},
		Port: n, Protocol: corev1.ProtocolTCP, Origin: key(model.KindHTTPRoute, service)}
	for _, b := range backends {
		b, selector, _ := strings.Cut(b, "/")
		to, weight, _ := strings.Cut(b, "=")
		w, err := strconv.ParseUint(weight, 10, 32)
		if err != nil {
			return fmt.Errorf("backend %q: %w", b, err)
		}
		backend := model.SplitBackend{Service: model.Name{Namespace: namespace, Name: to}, Port: n, Weight: uint32(w)}
		if k, v, ok := strings.Cut(selector, "="); ok {
			backend.Selector = map[string]string{k: v}
		}
		s.Backends = append(s.Backends, backend)
	}
	o.put[key(model.KindSplit, name)] = s
	return nil
}
