package main

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sluicenet/sluice/bench/internal/apiserver"
)

// resources are what proxies may ask for.
var resources = map[schema.GroupVersionKind]string{
	corev1.SchemeGroupVersion.WithKind("Service"):             "services",
	corev1.SchemeGroupVersion.WithKind("Node"):                "nodes",
	corev1.SchemeGroupVersion.WithKind("Pod"):                 "pods",
	corev1.SchemeGroupVersion.WithKind("Namespace"):           "namespaces",
	corev1.SchemeGroupVersion.WithKind("Secret"):              "secrets",
	corev1.SchemeGroupVersion.WithKind("ConfigMap"):           "configmaps",
	corev1.SchemeGroupVersion.WithKind("ServiceAccount"):      "serviceaccounts",
	discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"):  "endpointslices",
	networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"):   "servicecidrs",
	networkingv1.SchemeGroupVersion.WithKind("Ingress"):       "ingresses",
	networkingv1.SchemeGroupVersion.WithKind("IngressClass"):  "ingressclasses",
	networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"): "networkpolicies",
}

// port is that of the Services' and of the pods' servers.
const port = 9000

// iperfVIP is the address of the Service of iperf3's servers.
var iperfVIP = netip.AddrFrom4([4]byte{10, 110, 0, 1})

const iperfPort = 5201

// iperf is the Service of a server of iperf3.
func iperf(pod netip.Addr) []apiserver.Object {
	svc, eps, number := service("zz-iperf", iperfVIP), slice("zz-iperf", pod), int32(iperfPort)
	svc.Spec.Ports[0].Port, eps.Ports[0].Port = iperfPort, &number
	return []apiserver.Object{svc, eps}
}

// service is a Service of a cluster, by its number; those that the measurement
// makes have names of their own.
func service(name string, addr netip.Addr) *corev1.Service {
	single, cluster := corev1.IPFamilyPolicySingleStack, corev1.ServiceInternalTrafficPolicyCluster
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: addr.String(), ClusterIPs: []string{addr.String()},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: &single, InternalTrafficPolicy: &cluster,
			SessionAffinity: corev1.ServiceAffinityNone, Selector: map[string]string{"app": name},
			Ports: []corev1.ServicePort{{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: port, TargetPort: intstr.FromInt32(port)}},
		},
	}
}

// slice is the EndpointSlice of a Service.
func slice(name string, addrs ...netip.Addr) *discoveryv1.EndpointSlice {
	portName, number, protocol, ready := "tcp", int32(port), corev1.ProtocolTCP, true
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &number, Protocol: &protocol}},
	}
	for i, a := range addrs {
		node := fmt.Sprintf("node%d", 1+i%100)
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{a.String()}, NodeName: &node,
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: fmt.Sprintf("%s-%d", name, i)},
		})
	}
	return s
}

// serviceAddr and endpointAddr are addresses by number, that nobody else has.
func serviceAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(97 + i>>16), byte(i >> 8), byte(i)})
}

func endpointAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(128 + i>>16), byte(i >> 8), byte(i)})
}

// fill makes a node and a cluster's Services.
func fill(s *apiserver.Server, node string, addr netip.Addr, services, endpoints int) {
	s.Put(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node},
		Spec:       corev1.NodeSpec{PodCIDR: "10.244.1.0/24", PodCIDRs: []string{"10.244.1.0/24"}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr.String()}}},
	}, &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/12"}},
	})
	for i := range services {
		name := fmt.Sprintf("service-%d", i)
		addrs := make([]netip.Addr, endpoints)
		for j := range addrs {
			addrs[j] = endpointAddr(i*endpoints + j)
		}
		s.Put(service(name, serviceAddr(i)), slice(name, addrs...))
	}
}
