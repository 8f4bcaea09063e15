// Package source turns API objects into the objects of package model. Both
// sources use it: package source/kube for a cluster, and package source/files
// for a directory of manifests, so that the same object gives the same model
// whichever way it comes in.
//
// What a kind is called in the API, how it is decoded, converted and checked is
// one entry of one table ([Kinds]). A new kind is a new entry.
//
// # What is kept
//
// Services, EndpointSlices, Pods, Nodes, Namespaces, Secrets, ConfigMaps and
// ServiceAccounts become the compact types of package model. Labels are kept
// of Pods, Nodes and Namespaces, which selectors read; of the others only those
// that [keepLabel] names, and of Services those that a source is told to keep. Annotations are kept if they begin with
// "sluice.io/" or are named by [keepAnnotation]. The other kinds stay as the
// API's types, without status, managed fields, resource version, owners and
// finalizers, so that a change of these alone is no change of the model.
package source
