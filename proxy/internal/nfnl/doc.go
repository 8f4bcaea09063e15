// Package nfnl speaks netlink with the kernel's netfilter: it builds messages,
// sends transactions and requests, and takes answers apart.
package nfnl
