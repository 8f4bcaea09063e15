// Package dnstest is what the tests of package dns and those below it share: a
// small cluster that has every kind of name, and an upstream server that a test
// states in a few lines.
package dnstest

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
)

// Addrs parses addresses.
func Addrs(list ...string) []netip.Addr {
	var addrs []netip.Addr
	for _, s := range list {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs
}

// Meta names an object.
func Meta(namespace, name string) model.Meta { return model.Meta{Namespace: namespace, Name: name} }

// Port is a port of a Service.
func Port(name string, protocol corev1.Protocol, port uint16) model.ServicePort {
	return model.ServicePort{Name: name, Protocol: protocol, Port: port}
}

// Service is one with ClusterIPs.
func Service(namespace, name string, ips []netip.Addr, ports ...model.ServicePort) *model.Service {
	return &model.Service{Meta: Meta(namespace, name), Type: corev1.ServiceTypeClusterIP, ClusterIPs: ips, Ports: ports}
}

// Headless is a Service without ClusterIP.
func Headless(namespace, name string, ports ...model.ServicePort) *model.Service {
	return &model.Service{Meta: Meta(namespace, name), Type: corev1.ServiceTypeClusterIP, Headless: true, Ports: ports}
}

// External is a Service of type ExternalName.
func External(namespace, name, target string) *model.Service {
	return &model.Service{Meta: Meta(namespace, name), Type: corev1.ServiceTypeExternalName, ExternalName: target}
}

// Ready is a ready endpoint, with a hostname unless that is empty.
func Ready(addr, hostname string) model.Endpoint {
	return model.Endpoint{Addr: netip.MustParseAddr(addr), Rare: &model.RareEndpoint{Hostname: hostname}, Ready: true, Serving: true}
}

// Unready is an endpoint that is not ready.
func Unready(addr, hostname string) model.Endpoint {
	return model.Endpoint{Addr: netip.MustParseAddr(addr), Rare: &model.RareEndpoint{Hostname: hostname}}
}

// Slice is the endpoints of a Service; their ports are the Service's.
func Slice(svc *model.Service, suffix string, endpoints ...model.Endpoint) *model.EndpointSlice {
	s := &model.EndpointSlice{Meta: Meta(svc.Namespace, svc.Name+"-"+suffix), Service: svc.Name, Endpoints: endpoints, Weight: 1}
	for _, p := range svc.Ports {
		s.Ports = append(s.Ports, model.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: p.Port + 8000})
	}
	return s
}

// Synced marks all kinds that a zone needs as delivered.
func Synced(tx *model.Txn) {
	for _, k := range []model.KindID{model.KindService, model.KindEndpointSlice, model.KindNamespace, model.KindPod} {
		tx.MarkSynced(k)
	}
}

// DNSAddress is the ClusterIP of the cluster's DNS Service.
var DNSAddress = netip.MustParseAddr("10.96.0.10")

// Cluster returns a store with a Service of each kind in it.
func Cluster() *model.Store {
	store := model.NewStore()
	store.Update(func(tx *model.Txn) {
		put := func(svc *model.Service, endpoints ...model.Endpoint) {
			model.Services.Put(tx, svc)
			if len(endpoints) > 0 {
				model.EndpointSlices.Put(tx, Slice(svc, "x", endpoints...))
			}
		}
		tcp, udp := corev1.ProtocolTCP, corev1.ProtocolUDP
		put(Service("default", "kubernetes", Addrs("10.96.0.1"), Port("https", tcp, 443)), Ready("192.168.0.10", ""))
		put(Service("kube-system", "kube-dns", []netip.Addr{DNSAddress}, Port("dns", udp, 53), Port("dns-tcp", tcp, 53)))

		put(Service("testns", "svc1", Addrs("10.0.0.1"), Port("http", tcp, 80)),
			Ready("172.0.0.1", ""), Unready("172.0.0.9", ""))
		put(Service("testns", "svc2", Addrs("10.0.0.2"), Port("http", tcp, 80)),
			Ready("172.0.0.1", "web-0"), Ready("10.0.0.1", "odd"))
		put(Service("testns", "dual", Addrs("10.0.0.5", "fd00::5"), Port("http", tcp, 80), Port("quic", udp, 443)))
		put(Service("testns", "unnamed", Addrs("10.0.0.6"), Port("", tcp, 8080)))
		put(Service("testns", "six", Addrs("fd00::6"), Port("http", tcp, 80)))

		hdls := Headless("testns", "hdls", Port("http", tcp, 80))
		put(hdls, Ready("172.1.0.2", ""), Ready("172.1.0.3", "a"), Ready("172.1.0.4", "a"), Unready("172.1.0.9", "b"))
		six := Slice(hdls, "six", Ready("fd00:1::2", "six"), Ready("fd00:1::", ""))
		six.IPv6 = true
		model.EndpointSlices.Put(tx, six)
		put(Headless("testns", "hdls-none", Port("http", tcp, 80)), Unready("172.1.0.10", "c"))
		put(Headless("testns", "hdls-empty", Port("http", tcp, 80)))
		put(Headless("testns", "hdls-portless"), Ready("172.1.0.20", ""))
		tolerant := Headless("testns", "hdls-unready", Port("http", tcp, 80))
		tolerant.PublishNotReady = true
		put(tolerant, Unready("172.1.0.30", "u"))
		more := Ready("172.1.0.40", "many")
		more.Rare = &model.RareEndpoint{Hostname: more.Hostname(), MoreAddrs: Addrs("172.1.0.41")}
		put(Headless("testns", "hdls-more", Port("http", tcp, 80)), more)

		var crowd []model.Endpoint
		for i := range 100 {
			crowd = append(crowd, Ready(fmt.Sprintf("172.2.0.%d", i+1), ""))
		}
		put(Headless("testns", "crowd", Port("http", tcp, 80)), crowd...)

		put(External("testns", "ext", "www.Example.com"))
		put(External("testns", "ext-fails", "fails.example.com"))
		put(External("testns", "ext-gone", "gone.example.com"))
		put(External("testns", "ext-in", "svc1.testns.svc.cluster.local."))
		put(External("testns", "ext-ext", "ext.testns.svc.cluster.local"))
		put(External("testns", "ext-nowhere", "nowhere.testns.svc.cluster.local"))
		put(External("testns", "ext-ip", "1.2.3.4"))
		put(External("testns", "loop1", "loop2.testns.svc.cluster.local"))
		put(External("testns", "loop2", "loop1.testns.svc.cluster.local"))

		model.Namespaces.Put(tx, &model.Namespace{Meta: Meta("", "empty")})
		model.Pods.Put(tx, &model.Pod{Meta: Meta("testns", "web-0"), IPs: Addrs("172.0.0.1", "fd00:2::1")})
		Synced(tx)
	})
	return store
}
