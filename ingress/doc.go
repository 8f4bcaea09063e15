// Package ingress turns Gateway API and Ingress objects into routes: the
// listeners, hosts, clusters, endpoints and secrets of the proxies of each
// Gateway, and into the status of the objects.
//
// [Planner] is pure and incremental: told what changed in a snapshot, it plans
// again only the Gateways, routes, hosts and clusters that depend on it, and
// returns what differs from before. Its result is always equal to a plan from
// nothing. [Run] is the applier: it watches the store, publishes the changes
// and reports the status.
//
// One host is one resource, whose rules are those of all routes for the host,
// merged by the precedence that the Gateway API and Ingress specifications
// give. A request is matched to the most specific host that has a route, and
// does not fall through from there to a less specific one.
//
// Of the Gateway API it implements the features that [Features] lists. A field
// that is not implemented is never ignored in silence: it is refused with a
// condition on the object.
package ingress
