package showcase

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
)

// Ask makes one connection or request and says who answered it.
type Ask func(ctx context.Context) (who string, err error)

// tally is who answered how often.
type tally struct {
	counts map[string]int
	errs   []error
}

// workers is how many ask at the same time.
const workers = 4

// count asks n times.
func count(ctx context.Context, n int, ask Ask) tally {
	t := tally{counts: map[string]int{}}
	var mu sync.Mutex // guards t and left
	var running sync.WaitGroup
	left := n
	for range workers {
		running.Go(func() {
			for {
				mu.Lock()
				left--
				done := left < 0 || ctx.Err() != nil
				mu.Unlock()
				if done {
					return
				}
				who, err := ask(ctx)
				mu.Lock()
				if err != nil {
					t.errs = append(t.errs, err)
				} else {
					t.counts[who]++
				}
				mu.Unlock()
			}
		})
	}
	running.Wait()
	return t
}

// String is "quotes-v1-1 904, quotes-v2-1 96", and the failures.
func (t tally) String() string {
	var parts []string
	for _, who := range slices.Sorted(maps.Keys(t.counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", who, t.counts[who]))
	}
	if len(t.errs) > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", len(t.errs)))
	}
	return strings.Join(parts, ", ")
}

// shares compares the counts with the share that each name should have. Nobody
// else may have answered, and nothing may have failed.
func (t tally) shares(want map[string]float64) error {
	if len(t.errs) > 0 {
		return t.errs[0]
	}
	total := 0
	for who, n := range t.counts {
		if _, expected := want[who]; !expected {
			return fmt.Errorf("%s answered", who)
		}
		total += n
	}
	if total == 0 {
		return errors.New("nobody was asked")
	}
	var out []string
	for _, who := range slices.Sorted(maps.Keys(want)) {
		if low, high := bounds(total, want[who]); t.counts[who] < low || t.counts[who] > high {
			out = append(out, fmt.Sprintf("%s is not within %d and %d", who, low, high))
		}
	}
	if len(out) > 0 {
		return errors.New(strings.Join(out, ", "))
	}
	return nil
}

// bounds are five standard deviations of the binomial distribution around its
// mean: chance alone is outside once in 1.7 million.
func bounds(n int, p float64) (low, high int) {
	mean, spread := float64(n)*p, 5*math.Sqrt(float64(n)*p*(1-p))
	return max(0, int(math.Ceil(mean-spread))), min(n, int(math.Floor(mean+spread)))
}
