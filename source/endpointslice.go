package source

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/sluicenet/sluice/model"
)

// convertEndpointSlice follows the API's rules for absent conditions: ready
// unknown counts as ready, serving unknown as ready is, terminating as no
// (discovery/v1 EndpointConditions).
func convertEndpointSlice(in *discoveryv1.EndpointSlice, f *findings) []Value {
	s := &model.EndpointSlice{
		Meta:   slimMeta(&in.ObjectMeta),
		Weight: weight(in.Annotations, f),
	}
	// The usual name of a slice begins with the Service's.
	if s.Service = in.Labels[discoveryv1.LabelServiceName]; strings.HasPrefix(s.Name, s.Service) {
		s.Service = s.Name[:len(s.Service)]
	}
	s.Triggered = triggered(in.Annotations)
	switch in.AddressType {
	case discoveryv1.AddressTypeIPv4:
	case discoveryv1.AddressTypeIPv6:
		s.IPv6 = true
	case discoveryv1.AddressTypeFQDN:
		// Deprecated, and no service proxy ever read them.
		f.warn("addressType", "IPv4 or IPv6", string(in.AddressType))
		return nil
	case "":
		f.missing("addressType", "IPv4 or IPv6")
		return nil
	default:
		f.bad("addressType", "IPv4 or IPv6", string(in.AddressType))
		return nil
	}
	for i, p := range in.Ports {
		if out, ok := endpointPort(f, fmt.Sprintf("ports[%d]", i), p); ok {
			s.Ports = append(s.Ports, out)
		}
	}
	s.Ports = endpointPorts.share(s.Ports)
	if len(in.Endpoints) > 0 {
		s.Endpoints = make([]model.Endpoint, 0, len(in.Endpoints))
	}
	for i := range in.Endpoints {
		if ep, ok := endpoint(f, i, &in.Endpoints[i], s.IPv6); ok {
			s.Endpoints = append(s.Endpoints, ep)
		}
	}
	return []Value{s}
}

func weight(annotations map[string]string, f *findings) int32 {
	text, set := annotations[WeightAnnotation]
	if !set {
		return 1
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		f.warn("metadata.annotations["+WeightAnnotation+"]", "a number from 0 to 65535", text)
		return 1
	}
	return int32(n)
}

// triggered reads when the slice's controller learned of what it last told. No
// user writes this annotation, so that what does not parse is no news to one.
func triggered(annotations map[string]string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, annotations[corev1.EndpointsLastChangeTriggerTime])
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// equalEndpointSlice compares all but the time of the last change, which is of
// interest only together with what changed.
func equalEndpointSlice(a, b Value) bool {
	x, y := *a.(*model.EndpointSlice), *b.(*model.EndpointSlice)
	x.Triggered, y.Triggered = time.Time{}, time.Time{}
	return reflect.DeepEqual(&x, &y)
}

func endpointPort(f *findings, field string, p discoveryv1.EndpointPort) (model.EndpointPort, bool) {
	out := model.EndpointPort{Protocol: corev1.ProtocolTCP}
	if p.Protocol != nil && *p.Protocol != "" {
		out.Protocol = *p.Protocol
	}
	if !knownProtocol(out.Protocol) {
		f.bad(field+".protocol", wantProtocol, string(out.Protocol))
		return out, false
	}
	if p.Name != nil {
		out.Name = intern(*p.Name)
	}
	if p.AppProtocol != nil {
		out.AppProtocol = intern(*p.AppProtocol)
	}
	if p.Port == nil {
		// "All ports"; only meaningful to custom consumers of the API.
		f.missing(field+".port", wantPort)
		return out, false
	}
	port, ok := portNumber(f, field+".port", *p.Port)
	out.Port = port
	return out, ok
}

func endpoint(f *findings, i int, in *discoveryv1.Endpoint, ipv6 bool) (model.Endpoint, bool) {
	var ep model.Endpoint
	var rare model.RareEndpoint
	for j, text := range in.Addresses {
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.Zone() != "" || ip.Unmap().Is6() != ipv6 || special(ip.Unmap()) {
			want := "an IPv4 address" + notSpecial
			if ipv6 {
				want = "an IPv6 address" + notSpecial
			}
			f.bad(fmt.Sprintf("endpoints[%d].addresses[%d]", i, j), want, text)
			continue
		}
		ip = ip.Unmap()
		if !ep.Addr.IsValid() {
			ep.Addr = ip
		} else {
			rare.MoreAddrs = append(rare.MoreAddrs, ip)
		}
	}
	if !ep.Addr.IsValid() {
		if len(in.Addresses) == 0 {
			f.missing(fmt.Sprintf("endpoints[%d].addresses", i), "a list of at least one address")
		}
		return ep, false
	}
	ep.Ready = in.Conditions.Ready == nil || *in.Conditions.Ready
	ep.Serving = ep.Ready
	if in.Conditions.Serving != nil {
		ep.Serving = *in.Conditions.Serving
	}
	ep.Terminating = in.Conditions.Terminating != nil && *in.Conditions.Terminating
	if in.Hostname != nil {
		rare.Hostname = *in.Hostname
	}
	if in.NodeName != nil {
		ep.Node = intern(*in.NodeName)
	}
	if in.Zone != nil {
		ep.Zone = intern(*in.Zone)
	}
	if in.TargetRef != nil && in.TargetRef.Kind == "Pod" {
		ep.Pod = in.TargetRef.Name
	}
	if h := in.Hints; h != nil {
		for _, z := range h.ForZones {
			rare.ForZones = append(rare.ForZones, intern(z.Name))
		}
		for _, n := range h.ForNodes {
			rare.ForNodes = append(rare.ForNodes, intern(n.Name))
		}
	}
	if rare.Hostname != "" || len(rare.MoreAddrs)+len(rare.ForZones)+len(rare.ForNodes) > 0 {
		ep.Rare = &rare
	}
	return ep, true
}

// convertEndpoints makes of Endpoints what the cluster's mirroring controller
// does: an EndpointSlice for each family and each subset's set of ports. They
// are called after the Service with ":", which no API object's name holds.
func convertEndpoints(in *corev1.Endpoints, f *findings) []Value { //nolint:staticcheck // deprecated, but people have them
	var out []Value
	for i, subset := range in.Subsets {
		var ports []model.EndpointPort
		for j, p := range subset.Ports {
			port, ok := endpointPort(f, fmt.Sprintf("subsets[%d].ports[%d]", i, j), discoveryv1.EndpointPort{
				Name: &p.Name, Protocol: &p.Protocol, Port: &p.Port, AppProtocol: p.AppProtocol,
			})
			if ok {
				ports = append(ports, port)
			}
		}
		byFamily := map[bool]*model.EndpointSlice{}
		add := func(list string, addresses []corev1.EndpointAddress, ready bool) {
			for j, a := range addresses {
				ip, ok := addr(f, fmt.Sprintf("subsets[%d].%s[%d].ip", i, list, j), a.IP)
				if !ok {
					continue
				}
				if special(ip) {
					f.bad(fmt.Sprintf("subsets[%d].%s[%d].ip", i, list, j), wantIP+notSpecial, a.IP)
					continue
				}
				s := byFamily[ip.Is6()]
				if s == nil {
					s = endpointsSlice(in, i, ip.Is6(), ports, f)
					byFamily[ip.Is6()] = s
				}
				ep := model.Endpoint{Addr: ip, Ready: ready, Serving: ready}
				if a.Hostname != "" {
					ep.Rare = &model.RareEndpoint{Hostname: a.Hostname}
				}
				if a.NodeName != nil {
					ep.Node = intern(*a.NodeName)
				}
				if a.TargetRef != nil && a.TargetRef.Kind == "Pod" {
					ep.Pod = a.TargetRef.Name
				}
				s.Endpoints = append(s.Endpoints, ep)
			}
		}
		add("addresses", subset.Addresses, true)
		add("notReadyAddresses", subset.NotReadyAddresses, false)
		for _, six := range []bool{false, true} {
			if s := byFamily[six]; s != nil {
				out = append(out, s)
			}
		}
	}
	return mergeEndpoints(out)
}

func endpointsSlice(in *corev1.Endpoints, subset int, ipv6 bool, ports []model.EndpointPort, f *findings) *model.EndpointSlice { //nolint:staticcheck // deprecated, as above
	family := "ipv4"
	if ipv6 {
		family = "ipv6"
	}
	s := &model.EndpointSlice{Meta: slimMeta(&in.ObjectMeta), Service: in.Name, IPv6: ipv6, Ports: ports, Weight: 1}
	s.Name = in.Name + ":" + family
	if subset > 0 {
		s.Name += ":" + strconv.Itoa(subset)
	} else {
		s.Weight = weight(in.Annotations, f)
	}
	s.Annotations = maps.Clone(s.Annotations)
	return s
}

// mergeEndpoints joins subsets that differ in nothing but addresses.
func mergeEndpoints(in []Value) []Value {
	var out []Value
	for _, v := range in {
		s := v.(*model.EndpointSlice)
		i := slices.IndexFunc(out, func(o Value) bool {
			have := o.(*model.EndpointSlice)
			return have.IPv6 == s.IPv6 && slices.Equal(have.Ports, s.Ports)
		})
		if i < 0 {
			out = append(out, s)
			continue
		}
		have := out[i].(*model.EndpointSlice)
		have.Endpoints = append(have.Endpoints, s.Endpoints...)
	}
	return out
}
