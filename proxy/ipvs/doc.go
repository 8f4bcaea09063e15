// Package ipvs is the service proxy's engine on the kernel's IP Virtual Server,
// for its schedulers. Virtual servers are programmed over netlink.
//
// Every frontend with an address of its own is a virtual server with that
// address, which is bound on the dummy interface sluice-ipvs by a route of the
// table "local", because IPVS only sees what is delivered to this machine. NodePorts, and what connections from
// outside get where the external traffic policy tells them apart, are virtual
// servers with a firewall mark.
//
// What IPVS cannot do is in the nftables tables "ip sluice-ipvs" and
// "ip6 sluice-ipvs": which connections are marked, rejected, dropped and
// masqueraded. Their maps hold an element or two for each frontend, and their
// chains depend only on what frontends share. They see the first packet of a
// connection alone.
//
//	# ipvsadm -Ln
//	TCP  10.96.0.10:80 rr
//	  -> 10.244.1.10:8080             Masq    1      0          0
//	FWM  1 rr persistent 10800
//	  -> 10.244.1.10:8080             Masq    1      0          0
//	# ip route show table local dev sluice-ipvs
//	local 10.96.0.10 proto kernel scope host src 192.168.1.10
//	# nft list table ip sluice-ipvs
//	map nodeport-marks { type inet_proto . inet_service : mark; elements = { tcp . 30080 : 0x00000001 } }
//
// A destination that is taken away gets no new connections, and is removed when
// its old ones have ended or after a time; see [Options].
package ipvs
