package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// summary is the medians of what was measured several times, and what share ours are
// of the others', for people.
func summary(results []result) string {
	var b strings.Builder
	type key struct{ server, queries string }
	all := map[key][]result{}
	var keys []key
	for _, r := range results {
		k := key{r.Server, r.Queries}
		if r.Coalesced > 0 {
			continue
		}
		if all[k] == nil {
			keys = append(keys, k)
		}
		all[k] = append(all[k], r)
	}
	middle := func(k key) float64 { return median(all[k], func(r *result) float64 { return r.CPU }) }
	slices.SortStableFunc(keys, func(a, b key) int { return cmp.Compare(a.queries, b.queries) })
	fmt.Fprintf(&b, "medians, and ours as a share of them\n%-9s %-9s %10s %6s\n", "queries", "server", "CPU µs", "")
	for _, k := range keys {
		theirs, ours := middle(k), middle(key{"sluice", k.queries})
		fmt.Fprintf(&b, "%-9s %-9s %10.1f %6.2f\n", k.queries, k.server, theirs, ours/theirs)
	}
	return b.String()
}

// median returns the middle one of a figure of some results; none: 0.
func median(results []result, of func(*result) float64) float64 {
	if len(results) == 0 {
		return 0
	}
	var values []float64
	for i := range results {
		values = append(values, of(&results[i]))
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}
