// Package intercept makes this node's name server answer for the addresses that
// clients of the cluster's DNS use: link-local ones, and the ClusterIPs of the DNS
// Service. It works beside every service proxy, ours or not.
//
// Both directions are rewritten without connection tracking, in a table of its own
// a family, before anything else sees the packet, so neither kube-proxy's rules nor
// IPVS nor conntrack have a part in it:
//
//	udp dport 53 ip daddr @alive ip daddr set ip daddr map @servers-0 notrack accept
//	ip saddr set ip saddr map @clients notrack
//
// It is tied to the server's life by the kernel. An address stays in the set alive
// for [Patience] and is put there by nothing but an answer that the server has just
// given: the interceptor asks it a few times a second, and the rule that the answer
// passes on its way renews the element. A server that is killed or stopped gives
// none, and with the element interception ends. The ClusterIP then is a Service like
// any other; a link-local address is translated to the Service's ordinary
// endpoints. When the server answers again, so does the address.
//
// Every process has a seat: internal addresses of its own, to which the queries are
// rewritten. A successor takes over by one transaction that makes its own seat the
// current one. What the predecessor has received it answers, connections stay where
// they began, and no query is between the two.
package intercept
