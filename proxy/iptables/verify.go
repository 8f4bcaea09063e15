package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluicenet/sluice/proxy"
)

// Looking at everything may take a twentieth of the time where something has
// changed, and a fiftieth where nothing seems to have: the legacy variant does
// not tell of a rule that took the place of another.
const (
	lookShare = 20
	idleShare = 50
)

// Verify implements [proxy.Engine]. It lists the tables if somebody may have
// changed them since.
func (e *Engine) Verify(ctx context.Context) (bool, error) {
	if !e.valid {
		return false, nil
	}
	since := time.Since(e.looked)
	e.foreign = e.foreign || e.canary.changed()
	if since < lookShare*e.took || !e.foreign && (e.variant == NFT || since < idleShare*e.took) {
		return false, nil
	}
	e.canary.begin()
	repaired, err := e.reconcile(ctx)
	if err != nil {
		e.valid = false
		return false, err
	}
	if repaired {
		if err := e.learn(ctx); err != nil {
			return true, err
		}
	}
	e.canary.odd = false // what was there before has been looked at
	e.foreign = e.canary.rest()
	return repaired, nil
}

// learn finds the chains that this version of iptables prints in other words
// than ours, so that it is not taken for drift for ever.
func (e *Engine) learn(ctx context.Context) error {
	return e.each(func(f *family) error {
		found, err := list(ctx, e.kernel, f.Family)
		if err != nil {
			return err
		}
		printed := make(map[ref][]string, len(found.chains))
		maps.Copy(printed, found.chains)
		s := newRuleset(f.rules.renderer).compare(found, e.plan.Services(), f.printed)
		for r, rules := range s.write {
			if have, ok := printed[r]; ok && len(have) == len(rules) {
				f.printed[r] = words{slices.Clone(rules), slices.Clone(have)}
			}
		}
		return nil
	})
}

// Cleanup implements [proxy.Engine]. It removes what either variant has.
func (e *Engine) Cleanup(ctx context.Context) error {
	e.valid = false
	all := e.others
	if c, ok := e.kernel.(*commands); ok {
		all = append(slices.Clone(all), c)
	}
	for _, c := range all {
		if err := removeAll(ctx, c); err != nil {
			return fmt.Errorf("iptables: remove the rules: %w", err)
		}
	}
	return nil
}

// removeAll removes all our chains and what leads to them.
func removeAll(ctx context.Context, c *commands) error {
	variant := NFT
	for _, p := range c.programs {
		variant = variantOf(p.tables)
	}
	errs := forFamilies(variant, func(f proxy.Family) error {
		if _, ok := c.programs[f]; !ok {
			return nil
		}
		return remove(ctx, c, f, variant == Legacy)
	})
	return errors.Join(errs[:]...)
}

// remove is removeAll for one family.
func remove(ctx context.Context, c *commands, f proxy.Family, legacy bool) error {
	// To ask for a table of the legacy variant makes it.
	var there map[string]bool
	if legacy {
		there = legacyTables(c.netns, f)
	}
	l := &listing{chains: map[ref][]string{}}
	for _, t := range [...]table{nat, filter} {
		if legacy && !there[t.String()] {
			continue
		}
		out, err := c.save(ctx, f, t, false)
		if err != nil {
			return err
		}
		if err := l.parse(t, out); err != nil {
			return err
		}
	}
	s := &step{unjump: l.foreign, write: map[ref][]string{}, leave: true}
	for r := range l.chains {
		s.gone = append(s.gone, r)
	}
	if s.empty() {
		return nil
	}
	return c.restore(ctx, f, s.text())
}
