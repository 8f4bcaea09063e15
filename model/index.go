package model

import (
	"iter"
	"strings"

	"github.com/sluicenet/sluice/internal/btree"
)

// Index finds the objects of one kind by something else than their name.
type Index[T Object] struct {
	id   indexID
	kind KindID
	keys func(T, func(key string))
	// namespaced says that keys are of a namespace: Find takes them after it and
	// a slash, and they are kept without.
	namespaced bool
}

type indexID uint8

const (
	indexSlicesByService indexID = iota
	indexPodsByIP
	indexHostPodsByIP
	indexServicesByIP
	indexCount
)

// The indexes of a snapshot.
var (
	// SlicesByService finds EndpointSlices by "namespace/service".
	SlicesByService = Index[*EndpointSlice]{indexSlicesByService, KindEndpointSlice, func(s *EndpointSlice, add func(string)) {
		if s.Service != "" {
			add(s.Service)
		}
	}, true}
	// PodsByIP finds Pods by any of their addresses. Pods on the host's
	// network and ended ones are left out.
	PodsByIP = Index[*Pod]{indexPodsByIP, KindPod, func(p *Pod, add func(string)) {
		if p.HostNetwork || p.Terminated {
			return
		}
		for _, ip := range p.IPs {
			add(ip.String())
		}
	}, false}
	// HostPodsByIP finds the Pods on their host's network that have not ended, by
	// "namespace/address" of any of their addresses. All such Pods of a node share
	// its addresses, so an address alone names none of them.
	HostPodsByIP = Index[*Pod]{indexHostPodsByIP, KindPod, func(p *Pod, add func(string)) {
		if !p.HostNetwork || p.Terminated {
			return
		}
		for _, ip := range p.IPs {
			add(ip.String())
		}
	}, true}
	// ServicesByIP finds Services by any of their ClusterIPs.
	ServicesByIP = Index[*Service]{indexServicesByIP, KindService, func(s *Service, add func(string)) {
		for _, ip := range s.ClusterIPs {
			add(ip.String())
		}
	}, false}
)

// indexed is an entry of an index.
type indexed struct {
	key string
	obj named
}

// indexKey is what entries are found by, in this order.
type indexKey struct {
	scope string // the object's namespace, if keys are of a namespace
	key   string
	name  Name // of the object
}

// The orders of indexes: of those whose keys are of a namespace, and of the others.
var (
	byScopedKey = &btree.Order[indexKey, indexed]{Compare: compareIndexKeys, Key: func(e indexed) indexKey {
		name := nameOf(e.obj)
		return indexKey{name.Namespace, e.key, name}
	}}
	byUnscopedKey = &btree.Order[indexKey, indexed]{Compare: compareIndexKeys, Key: func(e indexed) indexKey {
		return indexKey{"", e.key, nameOf(e.obj)}
	}}
)

func compareIndexKeys(a, b indexKey) int {
	if c := strings.Compare(a.scope, b.scope); c != 0 {
		return c
	}
	if c := strings.Compare(a.key, b.key); c != 0 {
		return c
	}
	return compareNames(a.name, b.name)
}

// indexer is an Index without its type.
type indexer struct {
	id    indexID
	order *btree.Order[indexKey, indexed]
	each  func(obj named, entry func(indexed)) // calls entry for each of the object's
}

// indexesOf lists the indexes of each kind.
var indexesOf = [kindCount][]indexer{
	KindEndpointSlice: {SlicesByService.untyped()},
	KindPod:           {PodsByIP.untyped(), HostPodsByIP.untyped()},
	KindService:       {ServicesByIP.untyped()},
}

func (x Index[T]) untyped() indexer {
	out := indexer{x.id, byUnscopedKey, func(obj named, entry func(indexed)) {
		x.keys(any(obj).(T), func(key string) { entry(indexed{key, obj}) })
	}}
	if x.namespaced {
		out.order = byScopedKey
	}
	return out
}

// Find yields the objects under key, ordered by namespace and name.
func (x Index[T]) Find(s *Snapshot, key string) iter.Seq[T] {
	from := indexKey{key: key}
	if x.namespaced {
		from.scope, from.key, _ = strings.Cut(key, "/")
	}
	return func(yield func(T) bool) {
		for e := range s.indexes[x.id].From(from) {
			if e.key != from.key || x.namespaced && e.obj.GetNamespace() != from.scope || !yield(any(e.obj).(T)) {
				return
			}
		}
	}
}
