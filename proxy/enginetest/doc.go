// Package enginetest holds the tests that every engine of the service proxy must
// pass, with real packets through the kernel that the engine programmed.
//
// The heart is a table of packet cases, in the folder cases: Services and
// endpoints, and for each client and destination who must answer, what source
// address it sees, and what is refused or dropped. [Table] runs all of it in one
// world of network namespaces, one case after the other, so that each is also a
// step of the engine from what was there before:
//
//	go test ./proxy/enginetest -run NFTables/Table
//	go test ./proxy/enginetest -run IPVS/Table/terminating
//
// [Walk], [Kill], [Drift], [Switch] and [Hostile] run an engine through random
// updates with failures in between, kill its process, damage its rules, replace
// it by another one, and feed it what users and machines get wrong.
//
// Only tests import it.
package enginetest
