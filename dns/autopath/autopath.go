// Package autopath finds out which names a resolver in a Pod will ask for next,
// when it asks for the first of its search path, so that a server can answer with
// the first one that exists.
//
// A resolver that looks for NAME in a Pod asks for NAME.namespace.svc.zone,
// NAME.svc.zone, NAME.zone, NAME in each of the host's search domains, and at last
// NAME itself (Kubernetes, "DNS for Services and Pods", ndots:5). The namespace is
// the Pod's, which the node knows from its own Pods. Where it is not sure, the
// resolver goes its way alone: for an address that two Pods claim, or a Pod that
// has ended, is being deleted or shares its node's address.
package autopath

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/model"
)

// Walker knows the search paths of a node's Pods. It never changes.
type Walker struct {
	node   string
	zone   []byte   // in wire form and lower case
	search [][]byte // likewise
}

// New returns a walker for the Pods of a node. zone is the cluster's, and search
// the domains that the host adds to every Pod's search path.
func New(node, zone string, search []string) (*Walker, error) {
	w := &Walker{node: node}
	name, err := wire.ParseName(zone)
	if err != nil {
		return nil, fmt.Errorf("autopath: zone: %w", err)
	}
	w.zone = wire.AppendLower(nil, name)
	for _, s := range search {
		name, err := wire.ParseName(s)
		if err != nil {
			return nil, fmt.Errorf("autopath: search domain: %w", err)
		}
		if len(name) > 1 { // the root is where every walk ends
			w.search = append(w.search, wire.AppendLower(nil, name))
		}
	}
	return w, nil
}

// Walk is one resolver's walk. It keeps the name that it began with.
type Walk struct {
	walker *Walker
	name   []byte // NAME, without the root's zero
}

const svc = "\x03svc"

// Begin returns the walk of the client that asks for a name, in wire form and lower
// case, if that is the first of a Pod's search path.
func (w *Walker) Begin(s *model.Snapshot, client netip.Addr, name []byte) (Walk, bool) {
	zone := len(name) - len(w.zone)
	if zone <= len(svc) || !wire.InZone(name, w.zone) {
		return Walk{}, false
	}
	// Whose name it is decides less often than who asks, but costs less.
	off, last := 0, 0 // last is the offset of the label before svc.zone
	for off < zone-len(svc) {
		last = off
		off += 1 + int(name[off])
	}
	if off != zone-len(svc) || string(name[off:zone]) != svc || last == 0 {
		return Walk{}, false
	}
	namespace, ok := w.namespace(s, client)
	if !ok || string(name[last+1:off]) != namespace {
		return Walk{}, false
	}
	return Walk{w, name[:last]}, true
}

// namespace returns the namespace of the Pod that has an address, if that is one
// Pod of this node.
func (w *Walker) namespace(s *model.Snapshot, client netip.Addr) (string, bool) {
	if !client.IsValid() || !s.Synced(model.KindPod) {
		return "", false
	}
	found, namespace := false, ""
	// Pods that have ended and those on their node's network are not in it.
	for pod := range model.PodsByIP.Find(s, client.Unmap().String()) {
		if found || pod.Deleting || pod.Node != w.node {
			return "", false
		}
		found, namespace = true, pod.Namespace
	}
	return namespace, found
}

// Next appends the name that follows the i-th of the walk, the first of which is
// the one that it began with, and returns that name's number. Names that are too
// long are passed over, as resolvers do. It returns false behind the last.
func (w Walk) Next(dst []byte, i int) (name []byte, next int, ok bool) {
	for {
		i++
		name = append(dst, w.name...)
		switch host := i - 3; {
		case i == 1:
			name = append(append(name, svc...), w.walker.zone...)
		case i == 2:
			name = append(name, w.walker.zone...)
		case host < len(w.walker.search):
			name = append(name, w.walker.search[host]...)
		case host == len(w.walker.search):
			name = append(name, 0)
		default:
			return nil, i, false
		}
		if len(name)-len(dst) <= wire.MaxName {
			return name, i, true
		}
	}
}

// Search returns the search domains of a resolv.conf(5), as people write
// them. The last of several lines counts.
func Search(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("search domains: %w", err)
	}
	var search []string
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "search" && fields[0] != "domain" {
			continue
		}
		search = fields[1:]
		if fields[0] == "domain" {
			search = fields[1:2]
		}
	}
	return slices.DeleteFunc(search, func(s string) bool {
		name, err := wire.ParseName(s)
		return err != nil || len(name) == 1
	}), nil
}
