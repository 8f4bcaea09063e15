// Package route says what Envoy proxies should do, without Envoy's types:
// listeners, the routes of hosts, clusters, their endpoints and secrets.
// Packages ingress and mesh plan these values, package xds turns them into
// Envoy's resources and delivers them in an order that never breaks a request.
//
// Every resource belongs to a [Group] of proxies and has a name made of what
// it is (namespace, name, subset, port), never of a position in a list.
package route
