// Package iptables is the service proxy's engine on iptables, by the programs
// iptables-restore and iptables-save of either variant, nft or legacy.
//
// A port of a Service has one chain that chooses among its backends:
//
//	-A SLUICE-A-0a -d 10.96.0.10/32 -p tcp --dport 80 -j SLUICE-SVC-3UQX…
//	-A SLUICE-SVC-3UQX… -j SLUICE-MASQUERADE
//	-A SLUICE-SVC-3UQX… -p tcp -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.244.1.5:8080
//	-A SLUICE-SVC-3UQX… -p tcp -j DNAT --to-destination 10.244.2.7:8080
//
// The chain of a destination address is found by the last byte of it, four bits
// at a time, and that of a NodePort by ranges of ports: a packet passes some
// dozens of rules where kube-proxy has one list of all Services, and a change
// writes the rules that differ. Backends get no chain of their own, other than
// those that may connect to themselves by way of this node, because the cost of
// the programs grows with the number of chains, in the nft variant with its
// square.
//
// What is not translated stays at its old address until the filter table, which
// rejects or drops it there. So that is a short list of exceptions, and no
// translated packet passes it.
//
// A step is one run of iptables-restore a family, which holds up to three
// transactions: refusals that are new, the translation, refusals that are gone.
package iptables
