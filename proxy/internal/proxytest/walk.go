// Package proxytest makes models for tests of the service proxy: a random walk
// through Services, endpoints and splits of all kinds, and clusters of any size.
package proxytest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
)

// Walk changes a model at random, one object or a few at a time.
type Walk struct {
	rand *rand.Rand
	// Endpoints are the addresses that endpoints may have, of one family each.
	Endpoints4, Endpoints6 []netip.Addr
	services               int
}

// NewWalk returns a walk that depends on the seed alone.
func NewWalk(seed uint64) *Walk {
	w := &Walk{rand: rand.New(rand.NewPCG(seed, 1)), services: 6}
	for i := range 9 {
		w.Endpoints4 = append(w.Endpoints4, netip.AddrFrom4([4]byte{10, 244, byte(1 + i%2), byte(10 + i)}))
		w.Endpoints6 = append(w.Endpoints6, netip.MustParseAddr(fmt.Sprintf("fd00:10:244:%d::%d", 1+i%2, 10+i)))
	}
	return w
}

// Step makes the next change.
func (w *Walk) Step(tx *model.Txn) {
	name := fmt.Sprintf("s%d", w.rand.IntN(w.services))
	switch w.rand.IntN(12) {
	case 0:
		tx.Delete(model.Key{Kind: model.KindService, Namespace: "default", Name: name})
	case 1, 2, 3:
		model.Services.Put(tx, w.service(name))
	case 4:
		tx.Delete(model.Key{Kind: model.KindEndpointSlice, Namespace: "default", Name: w.slice(name)})
	case 5:
		w.split(tx, name)
	case 6:
		i := w.rand.IntN(len(w.Endpoints4))
		model.Pods.Put(tx, &model.Pod{Meta: model.Meta{Namespace: "default", Name: pod(i), Labels: map[string]string{"version": w.version()}}})
	case 7:
		model.Services.Put(tx, w.service(name))
		w.putSlice(tx, name)
	default:
		w.putSlice(tx, name)
	}
}

func (w *Walk) maybe(n int) bool { return w.rand.IntN(n) == 0 }

func (w *Walk) version() string { return fmt.Sprintf("v%d", 1+w.rand.IntN(2)) }

func (w *Walk) slice(service string) string {
	return fmt.Sprintf("%s-%d", service, w.rand.IntN(4))
}

func pod(i int) string { return fmt.Sprintf("p%d", i) }

func (w *Walk) service(name string) *model.Service {
	n := name[1] - '0'
	s := &model.Service{
		Meta: model.Meta{Namespace: "default", Name: name}, Type: corev1.ServiceTypeClusterIP,
		ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, 1 + n})},
		Families:   []corev1.IPFamily{corev1.IPv4Protocol},
		Ports:      []model.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
	}
	if w.maybe(2) {
		s.ClusterIPs = append(s.ClusterIPs, netip.MustParseAddr(fmt.Sprintf("fd00:10:96::%d", 1+n)))
		s.Families = append(s.Families, corev1.IPv6Protocol)
	}
	if w.maybe(2) {
		s.Ports = append(s.Ports, model.ServicePort{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53})
	}
	if w.maybe(2) {
		s.Type = corev1.ServiceTypeLoadBalancer
		for i := range s.Ports {
			s.Ports[i].NodePort = 30000 + uint16(w.rand.IntN(5))
		}
		if w.maybe(2) {
			s.LoadBalancerIPs = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(w.rand.IntN(3))})}
			s.HealthCheckNodePort = 31000 + uint16(n)
		}
		if w.maybe(3) {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("198.51.100.128/25")}
		}
	}
	if w.maybe(4) {
		s.ExternalIPs = []netip.Addr{netip.AddrFrom4([4]byte{203, 0, 113, byte(w.rand.IntN(3))})}
	}
	if w.maybe(3) {
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if w.maybe(5) {
		s.InternalTrafficPolicy = corev1.ServiceInternalTrafficPolicyLocal
	}
	if w.maybe(4) {
		s.AffinityTimeout = time.Duration(1+w.rand.IntN(2)) * time.Hour
	}
	return s
}

func (w *Walk) putSlice(tx *model.Txn, service string) {
	name := w.slice(service)
	s := &model.EndpointSlice{
		Meta: model.Meta{Namespace: "default", Name: name}, Service: service, Weight: 1,
		IPv6: (name[len(name)-1]-'0')%2 == 1,
		Ports: []model.EndpointPort{
			{Name: "http", Protocol: corev1.ProtocolTCP, Port: 8080},
			{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 5353},
		},
	}
	if w.maybe(3) {
		s.Weight = int32(w.rand.IntN(4))
	}
	addrs := w.Endpoints4
	if s.IPv6 {
		addrs = w.Endpoints6
	}
	for _, i := range w.rand.Perm(len(addrs))[:min(w.rand.IntN(6), len(addrs))] {
		e := model.Endpoint{Addr: addrs[i], Node: fmt.Sprintf("node%d", 1+i%2), Pod: pod(i), Ready: true, Serving: true}
		switch w.rand.IntN(6) {
		case 0:
			e.Ready, e.Terminating = false, true
		case 1:
			e.Ready, e.Serving = false, false
		}
		if w.maybe(8) {
			e.Node = ""
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	model.EndpointSlices.Put(tx, s)
}

func (w *Walk) split(tx *model.Txn, service string) {
	name := service + ":80"
	if w.maybe(3) {
		tx.Delete(model.Key{Kind: model.KindSplit, Namespace: "default", Name: name})
		return
	}
	s := &model.Split{
		Meta:    model.Meta{Namespace: "default", Name: name},
		Service: model.Name{Namespace: "default", Name: service}, Port: 80, Protocol: corev1.ProtocolTCP,
		Origin: model.Key{Kind: model.KindVirtualService, Namespace: "default", Name: service},
	}
	for range 1 + w.rand.IntN(3) {
		b := model.SplitBackend{
			Service: model.Name{Namespace: "default", Name: fmt.Sprintf("s%d", w.rand.IntN(w.services))}, Port: 80,
			Weight: uint32(w.rand.IntN(10) * 10),
		}
		if w.maybe(2) {
			b.Selector = map[string]string{"version": w.version()}
		}
		s.Backends = append(s.Backends, b)
	}
	model.Splits.Put(tx, s)
}
