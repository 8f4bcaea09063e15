// Package ca is the certificate authority of the mesh. It signs certificate
// requests of workloads as X.509 SVIDs (SPIFFE): the name in the certificate is
// the identity that the caller proved, never one that it asks for, and the key
// of a workload never leaves it.
//
// [CA] signs, [Server] answers Istio's IstioCertificateService over gRPC, so
// that any client of that works, and [Client] asks it.
package ca
