package ingress

import (
	"maps"
	"slices"

	"github.com/sluicenet/sluice/model"
)

// deps remembers which objects were planned by looking at a thing, so that a
// change of the thing finds them. The thing need not exist: what was looked
// for in vain is a dependency too.
type deps[K comparable] struct {
	users map[K]map[model.Key]struct{} // thing -> who looked at it
	uses  map[model.Key][]K            // who -> things
}

func newDeps[K comparable]() deps[K] {
	return deps[K]{users: map[K]map[model.Key]struct{}{}, uses: map[model.Key][]K{}}
}

// set replaces what user looked at. things may hold duplicates and belongs to
// deps afterwards.
func (d *deps[K]) set(user model.Key, things []K) {
	old := d.uses[user]
	if slices.Equal(old, things) {
		return
	}
	for _, t := range old {
		if !slices.Contains(things, t) {
			delete(d.users[t], user)
			if len(d.users[t]) == 0 {
				delete(d.users, t)
			}
		}
	}
	for _, t := range things {
		if d.users[t] == nil {
			d.users[t] = map[model.Key]struct{}{}
		}
		d.users[t][user] = struct{}{}
	}
	if len(things) == 0 {
		delete(d.uses, user)
		return
	}
	d.uses[user] = things
}

// mark adds the users of a thing to a set.
func (d *deps[K]) mark(thing K, into map[model.Key]struct{}) {
	maps.Copy(into, d.users[thing])
}
