package source

import (
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/sluicenet/sluice/model"
)

// Lists that thousands of objects have alike.
var (
	families         sharedLists[corev1.IPFamily]
	servicePortLists sharedLists[model.ServicePort]
	endpointPorts    sharedLists[model.EndpointPort]
)

// sharedLists gives objects that have equal lists the same one. Like interned, it
// forgets all when it has grown.
type sharedLists[T comparable] struct {
	mu    sync.Mutex
	first map[T][][]T // by the first element
	size  int
}

const (
	maxSharedLists = 1 << 12
	maxAlike       = 16 // lists with the same first element, which are compared one by one
)

// share returns a list that is equal to list and perhaps others' too. Nobody may
// write to it.
func (s *sharedLists[T]) share(list []T) []T {
	if len(list) == 0 {
		return list
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	alike := s.first[list[0]]
	for _, known := range alike {
		if slices.Equal(known, list) {
			return known
		}
	}
	if s.first == nil || s.size >= maxSharedLists {
		s.first, s.size = map[T][][]T{}, 0
		alike = nil
	}
	list = slices.Clip(list)
	if len(alike) < maxAlike {
		s.first[list[0]] = append(alike, list)
		s.size++
	}
	return list
}
