// Package proxy is the service proxy of a node: it makes a connection to a
// Service reach one of its endpoints.
//
// [Planner] turns a model snapshot, and what changed in it, into a [Plan]: for
// every address on which a Service answers, which endpoints take its
// connections, with which weights, and what happens without any. The plan is
// data; it says all that an engine needs to know, and nothing of how. An
// [Engine] makes the kernel match it, and [Run] drives one from a model store.
//
// What a Service means is the specification of kube-proxy: "Service Proxying"
// of Kubernetes' SIG network, KEP-1669 (terminating endpoints), KEP-2086
// (internal traffic policy), KEP-2433 and KEP-4444 (topology hints).
package proxy
