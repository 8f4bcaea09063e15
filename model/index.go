package model

import "iter"

// Index finds the objects of one kind by something else than their name.
type Index[T Object] struct {
	id   indexID
	kind KindID
	keys func(T, func(key string))
}

type indexID uint8

const (
	indexSlicesByService indexID = iota
	indexPodsByIP
	indexServicesByIP
	indexCount
)

// The indexes of a snapshot.
var (
	// SlicesByService finds EndpointSlices by "namespace/service".
	SlicesByService = Index[*EndpointSlice]{indexSlicesByService, KindEndpointSlice, func(s *EndpointSlice, add func(string)) {
		if s.Service != "" {
			add(s.Namespace + "/" + s.Service)
		}
	}}
	// PodsByIP finds Pods by any of their addresses. Pods on the host's
	// network and ended ones are left out.
	PodsByIP = Index[*Pod]{indexPodsByIP, KindPod, func(p *Pod, add func(string)) {
		if p.HostNetwork || p.Terminated {
			return
		}
		for _, ip := range p.IPs {
			add(ip.String())
		}
	}}
	// ServicesByIP finds Services by any of their ClusterIPs.
	ServicesByIP = Index[*Service]{indexServicesByIP, KindService, func(s *Service, add func(string)) {
		for _, ip := range s.ClusterIPs {
			add(ip.String())
		}
	}}
)

// indexer is an Index without its type.
type indexer struct {
	id   indexID
	keys func(obj any, add func(string))
}

// indexesOf lists the indexes of each kind.
var indexesOf = [kindCount][]indexer{
	KindEndpointSlice: {SlicesByService.untyped()},
	KindPod:           {PodsByIP.untyped()},
	KindService:       {ServicesByIP.untyped()},
}

func (x Index[T]) untyped() indexer {
	return indexer{x.id, func(obj any, add func(string)) { x.keys(obj.(T), add) }}
}

// Find yields the objects under key, ordered by namespace and name.
func (x Index[T]) Find(s *Snapshot, key string) iter.Seq[T] {
	return walk[T](s.indexes[x.id], key+sep)
}

func indexKey(key, namespace, name string) string { return key + sep + namespace + sep + name }
