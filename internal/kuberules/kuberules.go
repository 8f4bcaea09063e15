// Package kuberules finds and removes what a kube-proxy has left in the kernel,
// in any of its modes: its nftables tables, its chains in the tables of iptables
// of either variant, its virtual servers and their interface, and its IP sets.
// They would translate connections before or after our own rules do.
//
// It goes by names, as "kube-proxy --cleanup" does. What belongs to a kubelet
// stays, which has chains KUBE-* of its own.
package kuberules

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Leftover is something that a kube-proxy has left.
type Leftover struct {
	What   string // such as "table ip kube-proxy"
	remove func(context.Context) error
}

// Remove removes it.
func (l Leftover) Remove(ctx context.Context) error {
	if err := l.remove(ctx); err != nil {
		return fmt.Errorf("remove %s: %w", l.What, err)
	}
	return nil
}

// Find looks for what a kube-proxy has left in the network namespace of the
// thread that calls it, in the order in which it is to be removed. It changes
// nothing, and returns what it found along with the error where it could not
// look everywhere. Without the right to look, the error is EPERM.
func Find(ctx context.Context) ([]Leftover, error) {
	var out []Leftover
	var errs []error
	for _, find := range []func(context.Context) ([]Leftover, error){findTables, findLegacy, findServers, findSets} {
		found, err := find(ctx)
		out = append(out, found...)
		errs = append(errs, err)
	}
	return out, errors.Join(errs...)
}

// kubeletChains are not kube-proxy's (KEP-3178).
var kubeletChains = map[string]bool{
	"KUBE-FIREWALL": true, "KUBE-KUBELET-CANARY": true, "KUBE-IPTABLES-HINT": true, "KUBE-MARK-DROP": true,
}

// kubeProxyChain reports whether a chain of iptables is kube-proxy's.
func kubeProxyChain(name string) bool {
	return strings.HasPrefix(name, "KUBE-") && !kubeletChains[name]
}
