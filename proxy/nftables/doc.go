// Package nftables is the service proxy's engine on the kernel's nf_tables, by
// native netlink. The nft program is not needed, and what it prints of our
// tables can be loaded by it again.
//
// There is one table "sluice" a family, with a handful of maps for all Services
// and no chain of any Service's own:
//
//	map services  { typeof ip daddr . meta l4proto . th dport : verdict }
//	map slots     { typeof ip daddr . meta l4proto . th dport . numgen random mod 65536 : ip daddr . th dport }
//	chain cluster-3 { dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 3 map @slots }
//
// A Service's backends fill its numbered slots, a backend of weight w as many
// as w; the chain that its verdict goes to chooses among so many. Everything is
// done in chains of type nat, which only see the first packet of a connection;
// only where packets are to be counted, chains of type filter see all.
//
// What no rule of anybody's has translated meets the chain unserved: unknown
// ports of ClusterIPs are refused, and addresses of the ranges of ClusterIPs
// that no Service has are dropped before connection tracking remembers them. A
// flow that was there before its rules is not ours to end.
//
// A change is one transaction. Slots that are not used any more are removed a
// moment after nothing points at them, because a packet may have read the old
// verdict and not yet the slot.
package nftables
