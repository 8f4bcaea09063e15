// Package delta is an aggregated discovery server (ADS) of the delta protocol
// that is told what changed, keeps for every client what it has acknowledged,
// and orders a change so that no proxy ever points at something that it does
// not have: what a resource needs is sent and acknowledged before it, and is
// removed only when nothing acknowledged needs it any more.
//
// It knows resources by type and name only; package translate makes them.
package delta

import "google.golang.org/protobuf/types/known/anypb"

// Ref names a resource of a group by its xDS type and name.
type Ref struct {
	TypeURL string
	Name    string
}

// Resource is one xDS resource, marshalled once for all clients.
type Resource struct {
	Ref
	Body    *anypb.Any
	Version string // hash of the body, so that it holds across restarts and replicas
	// Needs are the resources that a proxy must have acknowledged before it
	// gets this one, and that are kept while it has this one.
	//
	// Two kinds are asked for by name only after this one came, and therefore
	// cannot come first: a cluster's endpoints, which go right behind it, and
	// secrets. Needing them says which endpoints are the cluster's, and keeps
	// them.
	Needs []Ref
}
