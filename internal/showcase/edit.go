package showcase

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// The edits of canary.yaml: all traffic to version 2, and all to version 1.
var (
	promote = strings.NewReplacer(
		"weight: 90}", "weight: 0}", "weight: 10}", "weight: 100}",
		"externalName: quotes-v1.", "externalName: quotes-v2.").Replace
	rollBack = strings.NewReplacer(
		"weight: 0}", "weight: 100}", "weight: 100}", "weight: 0}",
		"externalName: quotes-v2.", "externalName: quotes-v1.").Replace
)

// probe asks all the time, and knows an old answer from a new one.
type probe struct {
	what string
	ask  Ask
	old  func(who string) bool

	mu    sync.Mutex // guards the rest
	last  time.Time  // when the last question with an old answer was asked
	first time.Time  // when the first one since was asked
	after int        // how many were answered since, all in the new way
	err   error
}

// pace is the pause between two questions of a probe, which leaves the
// processors to those that are asked.
const pace = 2 * time.Millisecond

// run asks until the context ends.
func (p *probe) run(ctx context.Context) {
	for ctx.Err() == nil {
		started := time.Now()
		who, err := p.ask(ctx)
		p.mu.Lock()
		switch {
		case err != nil && ctx.Err() == nil:
			p.err = err
		case err == nil && p.old(who):
			p.last, p.first, p.after = started, time.Time{}, 0
		case err == nil:
			p.after++
			if p.first.IsZero() {
				p.first = started
			}
		}
		p.mu.Unlock()
		time.Sleep(pace)
	}
}

// settled says that no old answer has come for a while.
func (p *probe) settled(since time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(since) > calm && time.Since(p.last) > calm && p.after >= 50
}

// calm is how long no old answer may come until an edit counts as in force: at
// ten old answers in eleven, one would have come.
const calm = 700 * time.Millisecond

// result says how long after the edit a question was asked that was answered in
// the new way, as were all since.
func (p *probe) result(edited time.Time) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lag := max(0, p.first.Sub(edited))
	counted := fmt.Sprintf("within %.1f ms, %d of %d since", float64(lag.Microseconds())/1000, p.after, p.after)
	switch {
	case p.err != nil:
		return counted, p.err
	case p.after < 50 || time.Since(p.last) < calm:
		return "", fmt.Errorf("the old one still answers after %.1f s", time.Since(edited).Seconds())
	}
	return counted, nil
}

// follow runs all probes, makes the edit, and waits until all have settled.
func follow(ctx context.Context, probes []*probe, edit func() (time.Time, error)) (time.Time, error) {
	asking, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	for _, p := range probes {
		running.Go(func() { p.run(asking) })
	}
	defer running.Wait()
	defer stop()
	if err := Sleep(ctx, 200*time.Millisecond); err != nil {
		return time.Time{}, err
	}
	edited, err := edit()
	if err != nil {
		return edited, err
	}
	for end := edited.Add(20 * time.Second); time.Now().Before(end); {
		all := true
		for _, p := range probes {
			all = all && p.settled(edited)
		}
		if all {
			break
		}
		if err := Sleep(ctx, 20*time.Millisecond); err != nil {
			return edited, err
		}
	}
	return edited, nil
}

// Sleep waits, or returns why the context ended.
func Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// Until tries again and again, and gives up after the given time.
func Until(ctx context.Context, patience time.Duration, what string, try func(context.Context) error) error {
	var last error
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if last = try(ctx); last == nil {
			return nil
		}
		if err := Sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: not within %v: %w", what, patience, last)
}

// Succeeds is the asking of [Until].
func (a Ask) Succeeds(ctx context.Context) error {
	_, err := a(ctx)
	return err
}
