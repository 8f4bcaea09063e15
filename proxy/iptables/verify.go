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

// Looking at everything takes at most one part in so many of the time: where
// somebody has changed something, and where that cannot be told.
const (
	lookShare   = 4
	unsureShare = 20
)

// Where it cannot be told, nobody looks while steps of ours follow each other,
// for the next would wait until all is listed; but for once in a while.
const (
	quiet    = 3 * time.Second
	patience = time.Minute
)

// Verify implements [proxy.Engine]. It lists the tables if somebody may have
// changed them since.
func (e *Engine) Verify(ctx context.Context) (bool, error) {
	if !e.valid {
		return false, nil
	}
	unsure := e.canary.unsure() && (time.Since(e.stepped) > quiet || time.Since(e.looks.ended) > patience)
	odd := e.canary.changed(unsure || !e.canary.unsure())
	if !odd && !unsure || !e.looks.due(lookShare) || !odd && !e.looks.due(unsureShare) {
		return false, nil
	}
	e.canary.begin()
	e.canary.forget() // what is changed after this, the lists need not show
	repaired, err := e.reconcile(ctx)
	if err != nil {
		e.valid = false
		return false, err
	}
	again := e.repaired
	if e.repaired = repaired; repaired && again {
		return true, e.learn(ctx)
	}
	return repaired, nil
}

// learn finds the chains that this version of iptables prints in other words
// than ours, so that it is not taken for drift for ever. It is called when two
// looks, one after the other, have found something.
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
	errs := forFamilies(func(f proxy.Family) error {
		if _, ok := c.programs[f]; !ok {
			return nil
		}
		return remove(ctx, c, f)
	})
	return errors.Join(errs[:]...)
}

// remove is removeAll for one family.
func remove(ctx context.Context, c *commands, f proxy.Family) error {
	// To ask for a table of the legacy variant makes it.
	var there map[string]bool
	if c.legacy {
		there = legacyTables(c.netns, f)
	}
	l := &listing{chains: map[ref][]string{}}
	for _, t := range [...]table{nat, filter} {
		if c.legacy && !there[t.String()] {
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
