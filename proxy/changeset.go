package proxy

import (
	"slices"

	"github.com/sluicenet/sluice/model"
)

// changeSet merges changes of the same Services, so that what waits to be done is
// never more than there are Services.
type changeSet map[model.Name]Change

// add merges a later change.
func (s changeSet) add(c Change) {
	if before, ok := s[c.Name]; ok {
		c.Old = before.Old
	}
	s[c.Name] = c
}

// under merges earlier changes.
func (s changeSet) under(earlier []Change) {
	for _, c := range earlier {
		if later, ok := s[c.Name]; ok {
			c.New = later.New
		}
		s[c.Name] = c
	}
}

// list returns the changes ordered by name; never nil.
func (s changeSet) list() []Change {
	out := make([]Change, 0, len(s))
	for _, c := range s {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Change) int { return compareNames(a.Name, b.Name) })
	return out
}
