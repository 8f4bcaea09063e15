// Package sidecar runs a stock Envoy beside a workload or as a gateway: it
// makes the private key, has it certified and renewed, hands both to Envoy
// over a Unix socket (SDS), starts Envoy and watches it. The key is never
// written anywhere and never leaves the two processes.
package sidecar
