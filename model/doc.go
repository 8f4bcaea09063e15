// Package model keeps the cluster as the parts of sluice need it: one
// immutable [Snapshot], indexed, and for every consumer the exact set of what
// changed since it last looked.
//
// Everything that a snapshot hands out is shared between all readers and must
// never be written to. A source replaces an object as a whole, through
// [Store.Update]; an update costs time and memory in proportion to what it
// changes, whatever the size of the cluster.
package model
