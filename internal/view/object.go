// Package view shows the model to people: the tables of `sluice get`, and
// objects in the form that the Kubernetes API gives them.
package view

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// Object returns the API's form of a model's object with the status that the
// parts report for it. Secrets' values are left out.
func Object(key model.Key, obj any, reports map[string]status.Report) any {
	doc := document(key, obj)
	for _, r := range reports {
		if r.Value != nil {
			doc["status"] = plain(r.Value)
			return doc
		}
	}
	status, _ := doc["status"].(map[string]any)
	if c := conditions(reports); len(c) > 0 {
		if status == nil {
			status = map[string]any{}
		}
		status["conditions"] = c
	}
	if len(status) > 0 {
		doc["status"] = status
	}
	return doc
}

// plain is a status as JSON has it, without the times that only the one who
// writes it to a cluster fills in.
func plain(value any) any {
	var out any
	b, err := json.Marshal(value)
	if err != nil || json.Unmarshal(b, &out) != nil {
		return value
	}
	dropNulls(out)
	return out
}

func dropNulls(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, field := range v {
			if field == nil {
				delete(v, k)
			}
			dropNulls(field)
		}
	case []any:
		for _, item := range v {
			dropNulls(item)
		}
	}
}

func conditions(reports map[string]status.Report) []metav1.Condition {
	var all []metav1.Condition
	for _, part := range sortedKeys(reports) {
		all = append(all, reports[part].Conditions...)
	}
	return all
}

func document(key model.Key, obj any) map[string]any {
	switch o := obj.(type) {
	case *model.Service:
		obj = service(o)
	case *model.EndpointSlice:
		obj = endpointSlice(o)
	case *model.Pod:
		obj = pod(o)
	case *model.Node:
		obj = node(o)
	case *model.ServiceCIDR:
		obj = networkingv1.ServiceCIDR{ObjectMeta: meta(&o.Meta), Spec: networkingv1.ServiceCIDRSpec{CIDRs: texts(o.CIDRs)}}
	case *model.Namespace:
		obj = corev1.Namespace{ObjectMeta: meta(&o.Meta)}
	case *model.Secret:
		obj = corev1.Secret{ObjectMeta: meta(&o.Meta), Type: o.Type}
	case *model.ConfigMap:
		obj = corev1.ConfigMap{ObjectMeta: meta(&o.Meta), Data: o.Data}
	case *model.ServiceAccount:
		obj = corev1.ServiceAccount{ObjectMeta: meta(&o.Meta)}
	}
	doc := map[string]any{}
	// Everything here came out of JSON or is made of plain fields.
	b, _ := json.Marshal(obj)
	_ = json.Unmarshal(b, &doc)
	if doc["kind"] == nil {
		doc["apiVersion"], doc["kind"] = apiVersion(key.Kind), key.Kind.String()
	}
	if s, ok := doc["status"].(map[string]any); ok && len(s) == 0 {
		delete(doc, "status")
	}
	return doc
}

func apiVersion(k model.KindID) string {
	switch k {
	case model.KindEndpointSlice:
		return discoveryv1.SchemeGroupVersion.String()
	case model.KindIngress, model.KindIngressClass, model.KindServiceCIDR:
		return "networking.k8s.io/v1"
	case model.KindGatewayClass, model.KindGateway, model.KindHTTPRoute:
		return "gateway.networking.k8s.io/v1"
	case model.KindReferenceGrant:
		return "gateway.networking.k8s.io/v1"
	case model.KindVirtualService, model.KindDestinationRule:
		return "networking.istio.io/v1"
	case model.KindPeerAuthentication:
		return "security.istio.io/v1"
	case model.KindSplit:
		return "sluice.io/v1alpha1"
	default:
		return "v1"
	}
}

func meta(m *model.Meta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: types.UID(m.UID), Generation: m.Generation,
		CreationTimestamp: metav1.NewTime(m.Created), Labels: m.Labels, Annotations: m.Annotations,
	}
}

func service(s *model.Service) corev1.Service {
	out := corev1.Service{ObjectMeta: meta(&s.Meta), Spec: corev1.ServiceSpec{
		Type: s.Type, ClusterIPs: texts(s.ClusterIPs), ExternalIPs: texts(s.ExternalIPs), ExternalName: s.ExternalName,
		Selector: selector(s.Selector), IPFamilies: s.Families, ExternalTrafficPolicy: s.ExternalTrafficPolicy,
		HealthCheckNodePort: int32(s.HealthCheckNodePort), PublishNotReadyAddresses: s.PublishNotReady,
	}}
	if s.Headless {
		out.Spec.ClusterIPs = []string{corev1.ClusterIPNone}
	}
	if len(out.Spec.ClusterIPs) > 0 {
		out.Spec.ClusterIP = out.Spec.ClusterIPs[0]
	}
	if s.InternalTrafficPolicy != "" {
		out.Spec.InternalTrafficPolicy = &s.InternalTrafficPolicy
	}
	if s.TrafficDistribution != "" {
		out.Spec.TrafficDistribution = &s.TrafficDistribution
	}
	if s.AffinityTimeout > 0 {
		seconds := int32(s.AffinityTimeout.Seconds())
		out.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		out.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	for _, r := range s.SourceRanges {
		out.Spec.LoadBalancerSourceRanges = append(out.Spec.LoadBalancerSourceRanges, r.String())
	}
	for _, ip := range s.LoadBalancerIPs {
		out.Status.LoadBalancer.Ingress = append(out.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip.String()})
	}
	for _, p := range s.Ports {
		port := corev1.ServicePort{
			Name: p.Name, Protocol: p.Protocol, Port: int32(p.Port), NodePort: int32(p.NodePort), TargetPort: intstr.Parse(p.TargetPort),
		}
		if p.AppProtocol != "" {
			port.AppProtocol = &p.AppProtocol
		}
		out.Spec.Ports = append(out.Spec.Ports, port)
	}
	return out
}

// selector reads what the model keeps of a Service's.
func selector(text string) map[string]string {
	set, err := labels.ConvertSelectorToLabelsMap(text)
	if err != nil {
		return nil // the API server takes no such labels
	}
	return set
}

func endpointSlice(s *model.EndpointSlice) discoveryv1.EndpointSlice {
	out := discoveryv1.EndpointSlice{ObjectMeta: meta(&s.Meta), AddressType: discoveryv1.AddressTypeIPv4}
	if s.Service != "" {
		out.Labels = maps.Clone(out.Labels)
		if out.Labels == nil {
			out.Labels = map[string]string{}
		}
		out.Labels[discoveryv1.LabelServiceName] = s.Service
	}
	if s.IPv6 {
		out.AddressType = discoveryv1.AddressTypeIPv6
	}
	for _, p := range s.Ports {
		port := int32(p.Port)
		out.Ports = append(out.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &port})
	}
	for _, e := range s.Endpoints {
		ep := discoveryv1.Endpoint{
			Addresses:  texts(append([]netip.Addr{e.Addr}, e.MoreAddrs()...)),
			Conditions: discoveryv1.EndpointConditions{Ready: &e.Ready, Serving: &e.Serving, Terminating: &e.Terminating},
		}
		if name := e.Hostname(); name != "" {
			ep.Hostname = &name
		}
		if e.Node != "" {
			ep.NodeName = &e.Node
		}
		if e.Zone != "" {
			ep.Zone = &e.Zone
		}
		if e.Pod != "" {
			ep.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: s.Namespace, Name: e.Pod}
		}
		out.Endpoints = append(out.Endpoints, ep)
	}
	return out
}

func pod(p *model.Pod) corev1.Pod {
	out := corev1.Pod{ObjectMeta: meta(&p.Meta), Spec: corev1.PodSpec{
		NodeName: p.Node, ServiceAccountName: p.ServiceAccount, Hostname: p.Hostname, Subdomain: p.Subdomain, HostNetwork: p.HostNetwork,
	}}
	for _, ip := range p.IPs {
		out.Status.PodIPs = append(out.Status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	for _, ip := range p.HostIPs {
		out.Status.HostIPs = append(out.Status.HostIPs, corev1.HostIP{IP: ip.String()})
	}
	if len(out.Status.PodIPs) > 0 {
		out.Status.PodIP = out.Status.PodIPs[0].IP
	}
	return out
}

func node(n *model.Node) corev1.Node {
	out := corev1.Node{ObjectMeta: meta(&n.Meta)}
	for _, ip := range n.InternalIPs {
		out.Status.Addresses = append(out.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	for _, ip := range n.ExternalIPs {
		out.Status.Addresses = append(out.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: ip.String()})
	}
	for _, c := range n.PodCIDRs {
		out.Spec.PodCIDRs = append(out.Spec.PodCIDRs, c.String())
	}
	return out
}

func texts[T fmt.Stringer](in []T) []string {
	var out []string
	for _, v := range in {
		out = append(out, v.String())
	}
	return out
}

func port(n uint16) string { return strconv.Itoa(int(n)) }
