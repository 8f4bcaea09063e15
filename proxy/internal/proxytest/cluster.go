package proxytest

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
)

// Cluster fills a model with Services of one port, each with as many endpoints.
func Cluster(tx *model.Txn, services, endpoints int) {
	tx.MarkSynced(model.KindService)
	tx.MarkSynced(model.KindEndpointSlice)
	for i := range services {
		model.Services.Put(tx, &model.Service{
			Meta: model.Meta{Namespace: "default", Name: serviceName(i)}, Type: corev1.ServiceTypeClusterIP,
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})},
			Families:   []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:      []model.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}},
		})
		model.EndpointSlices.Put(tx, Slice(i, endpoints, 0))
	}
}

func serviceName(i int) string { return fmt.Sprintf("service-%d", i) }

// Slice returns the EndpointSlice of the i-th Service of a [Cluster]. The first
// endpoint's address depends on variant.
func Slice(i, endpoints, variant int) *model.EndpointSlice {
	s := &model.EndpointSlice{
		Meta: model.Meta{Namespace: "default", Name: serviceName(i) + "-1"}, Service: serviceName(i), Weight: 1,
		Ports: []model.EndpointPort{{Protocol: corev1.ProtocolTCP, Port: 8080}},
	}
	for j := range endpoints {
		n := i*endpoints + j
		if j == 0 {
			n += variant << 22
		}
		s.Endpoints = append(s.Endpoints, model.Endpoint{
			Addr: netip.AddrFrom4([4]byte{10, 128 + byte(n>>16), byte(n >> 8), byte(n)}),
			Node: fmt.Sprintf("node%d", n%100), Pod: fmt.Sprintf("pod-%d", n), Ready: true, Serving: true,
		})
	}
	return s
}
