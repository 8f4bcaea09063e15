// Package bigcluster fills models for tests of size: with objects of the API that
// have all that a cluster's own controllers write into them, converted as they
// are when they come from an API server.
package bigcluster

import (
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/source"
)

// Namespaces, Nodes and Zones are how many of them a cluster has.
const (
	Namespaces = 100
	Nodes      = 500
	Zones      = 3
)

// Fill puts Services with so many endpoints each into a store, in the order in
// which an API server lists them, and says that all of it has been read. What is
// wrong with an object is a panic.
func Fill(store *model.Store, services, endpoints int) {
	store.Update(func(tx *model.Txn) {
		each := func(kind model.KindID, object func(int) runtime.Object) {
			k, ok := source.KindOf(kind)
			if !ok {
				panic(kind)
			}
			for ns := range Namespaces {
				for i := ns; i < services; i += Namespaces {
					put(tx, k, object(i))
				}
			}
			tx.MarkSynced(kind)
		}
		each(model.KindService, func(i int) runtime.Object { return Service(i) })
		each(model.KindEndpointSlice, func(i int) runtime.Object { return EndpointSlice(i, endpoints) })
		k, _ := source.KindOf(model.KindNamespace)
		for i := range Namespaces {
			put(tx, k, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace(i)}})
		}
		tx.MarkSynced(model.KindNamespace)
	})
}

func put(tx *model.Txn, k *source.Kind, obj runtime.Object) {
	values, errs := k.Convert(obj)
	if len(errs) > 0 {
		panic(errs[0])
	}
	for _, v := range values {
		tx.Put(k.ID, v)
	}
}

func namespace(i int) string { return fmt.Sprintf("team-%03d", i%Namespaces) }

// name has a length like those of Services of real clusters.
func name(i int) string { return fmt.Sprintf("service-%06d", i) }

func uid(kind, i int) types.UID {
	return types.UID(fmt.Sprintf("%08x-0000-4000-%04x-000000000000", i, kind))
}

var created = metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))

// ServiceAddr is the ClusterIP of a Service, by its number.
func ServiceAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(96 + i>>16), byte(i >> 8), byte(i)})
}

// EndpointAddr is the address of an endpoint, by its number.
func EndpointAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(128 + i>>16), byte(i >> 8), byte(i)})
}

// Service returns a Service by its number.
func Service(i int) *corev1.Service {
	single, cluster := corev1.IPFamilyPolicySingleStack, corev1.ServiceInternalTrafficPolicyCluster
	addr := ServiceAddr(i).String()
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace(i), Name: name(i), UID: uid(1, i), ResourceVersion: fmt.Sprint(1_000_000 + i), CreationTimestamp: created,
			Labels:      map[string]string{"app": name(i)},
			Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: "{}"},
		},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: addr, ClusterIPs: []string{addr},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: &single, InternalTrafficPolicy: &cluster,
			SessionAffinity: corev1.ServiceAffinityNone, Selector: map[string]string{"app": name(i)},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
}

// EndpointSlice returns the slice of a Service, by its number.
func EndpointSlice(i, endpoints int) *discoveryv1.EndpointSlice {
	portName, number, protocol := "http", int32(8080), corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace(i), Name: fmt.Sprintf("%s-%05x", name(i), i), GenerateName: name(i) + "-", UID: uid(2, i), Generation: 7,
			ResourceVersion: fmt.Sprint(1_000_000 + i), CreationTimestamp: created,
			Labels: map[string]string{
				"app": name(i), discoveryv1.LabelServiceName: name(i), discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io",
			},
			Annotations:     map[string]string{corev1.EndpointsLastChangeTriggerTime: "2026-01-02T03:04:05Z"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: name(i), UID: uid(1, i)}},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &number, Protocol: &protocol}},
	}
	yes, no := true, false
	for j := range endpoints {
		n := i*endpoints + j
		node, zone := fmt.Sprintf("node-%03d.example.com", n%Nodes), fmt.Sprintf("zone-%c", 'a'+n%Nodes%Zones)
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{EndpointAddr(n).String()}, NodeName: &node, Zone: &zone,
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: namespace(i), Name: fmt.Sprintf("%s-5d8f9c7b6d-%05x", name(i), j), UID: uid(3, n)},
		})
	}
	return s
}
