package kuberules

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// batchChains is how many chains one transaction flushes or deletes, so that
// it fits into a socket's buffer.
const batchChains = 200

// findTables finds kube-proxy's own tables, and its chains in those of
// iptables-nft, which are tables of nf_tables like all others.
func findTables(context.Context) ([]Leftover, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return nil, nil // a kernel without nf_tables
	}
	if err != nil {
		return nil, fmt.Errorf("list the tables of nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list the chains of nftables: %w", err)
	}
	var out []Leftover
	for _, t := range tables {
		if t.Family != nftables.TableFamilyIPv4 && t.Family != nftables.TableFamilyIPv6 {
			continue
		}
		name := familyName(t.Family) + " " + t.Name
		switch t.Name {
		case "kube-proxy":
			out = append(out, Leftover{"table " + name, func(context.Context) error { return deleteTable(t) }})
		case "nat", "filter", "mangle", "raw":
			var mine, others []*nftables.Chain
			for _, c := range chains {
				switch {
				case c.Table.Name != t.Name || c.Table.Family != t.Family:
				case kubeProxyChain(c.Name):
					mine = append(mine, c)
				default:
					others = append(others, c)
				}
			}
			if len(mine) > 0 {
				what := fmt.Sprintf("%d chains KUBE-* in table %s of iptables-nft", len(mine), name)
				out = append(out, Leftover{what, func(ctx context.Context) error { return deleteChains(ctx, t, mine, others) }})
			}
		}
	}
	return out, nil
}

func familyName(f nftables.TableFamily) string {
	if f == nftables.TableFamilyIPv6 {
		return "ip6"
	}
	return "ip"
}

func deleteTable(t *nftables.Table) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(t)
	return conn.Flush()
}

// deleteChains deletes chains of a table, first the rules of others that lead to
// them: from then on no packet meets them.
func deleteChains(ctx context.Context, t *nftables.Table, mine, others []*nftables.Chain) error {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseLasting() }()
	names := map[string]bool{}
	for _, c := range mine {
		names[c.Name] = true
	}
	for _, c := range others {
		rules, err := conn.GetRules(t, c)
		if err != nil {
			return fmt.Errorf("read chain %s: %w", c.Name, err)
		}
		for _, r := range rules {
			if !leadsTo(r, names) {
				continue
			}
			if err := conn.DelRule(r); err != nil {
				return err
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return err
	}
	for _, step := range []func(*nftables.Chain){conn.FlushChain, conn.DelChain} {
		for i, c := range mine {
			step(c)
			if i%batchChains != batchChains-1 && i != len(mine)-1 {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := conn.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func leadsTo(r *nftables.Rule, chains map[string]bool) bool {
	for _, e := range r.Exprs {
		if v, ok := e.(*expr.Verdict); ok && chains[v.Chain] {
			return true
		}
	}
	return false
}
