// Package mesh plans the service mesh: from Services, their endpoints and the
// Istio API's VirtualService, DestinationRule and PeerAuthentication it makes
// the [route] resources of the sidecars, and the [model.Split]s by which the
// service proxy shares connections of workloads that have no sidecar.
//
// [Planner] is pure: it is told what changed and answers with what has to
// change, in time proportional to that. [Run] feeds it from a store and
// publishes what it says.
//
// Who gets what: all sidecars share [route.MeshGroup], which holds the
// outbound listener, clusters with their endpoints, and the routes of every
// name that means the same Service to everyone. The one-label name of a
// Service means another one in each namespace, so it is in the
// [route.NamespaceGroup]. The inbound listener of a Pod is in its
// [route.WorkloadGroup].
package mesh
