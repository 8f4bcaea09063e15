package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"time"
)

// turn is how long a server is measured before the next one is.
const turn = 250 * time.Millisecond

// latency is how long a server's answers take at a rate that all servers can do.
type latency struct {
	Server  string  `json:"server"`
	Queries string  `json:"queries"`
	CPU     float64 `json:"cpu_us_per_answer"`
	P50     float64 `json:"p50_us"`
	P99     float64 `json:"p99_us"`        // the median of the turns' own
	P99All  float64 `json:"p99_of_all_us"` // with whatever the machine's host did meanwhile
	Lost    int     `json:"lost"`
}

// measureLatency measures all servers by short turns, each for a time altogether. What
// takes the longest on a virtual machine is that its host has something else to do: that
// happens to all of them then, and to fewer than half of the turns. Their core is kept
// awake, because to wake it is the host's work, too, and takes up to milliseconds.
func measureLatency(ctx context.Context, o options, worlds []*world) ([]latency, error) {
	ctx, cancel := context.WithCancel(ctx)
	awake := exec.CommandContext(ctx, "taskset", "-c", strconv.Itoa(serverCore), "chrt", "--idle", "0", "sh", "-c", "while :; do :; done")
	defer func() {
		cancel()
		_ = awake.Wait()
	}()
	if err := awake.Start(); err != nil {
		return nil, err
	}
	fmt.Printf("at %d queries a second, by turns of %v; ours as a share of theirs\n", o.rate, turn)
	fmt.Printf("%-9s %-9s %10s %6s %10s %10s %6s %10s %8s\n", "queries", "server", "CPU µs", "", "p50 µs", "p99 µs", "", "of all", "lost")
	var out []latency
	for _, m := range mixes() {
		if !m.latency {
			continue
		}
		of, err := measureTurns(ctx, o, m, worlds)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		for i := range of {
			l, ours := &of[i], &of[0]
			l.Server = worlds[i].name
			fmt.Printf("%-9s %-9s %10.1f %6.2f %10.1f %10.1f %6.2f %10.1f %8d\n", l.Queries, l.Server,
				l.CPU, ours.CPU/l.CPU, l.P50, l.P99, ours.P99/l.P99, l.P99All, l.Lost)
		}
		out = append(out, of...)
	}
	return out, nil
}

// measureTurns measures one kind of queries.
func measureTurns(ctx context.Context, o options, m mix, worlds []*world) ([]latency, error) {
	loads := make([]*paced, len(worlds))
	spent := make([]time.Duration, len(worlds))
	took := make([][]float64, len(worlds)) // µs, of each answer
	p99s := make([][]float64, len(worlds)) // of each turn
	for i, w := range worlds {
		if _, err := w.prepare(ctx, m); err != nil {
			return nil, err
		}
		var err error
		if loads[i], err = w.pace(ctx, m.names(), o.rate); err != nil {
			return nil, err
		}
		defer loads[i].close()
	}
	for range max(1, o.length*time.Duration(o.repeat)/turn) {
		for i, w := range worlds {
			cpu, err := w.spent(func() error { return loads[i].run(ctx, turn) })
			if err != nil {
				return nil, err
			}
			spent[i] += cpu
			p99s[i] = append(p99s[i], quantile(loads[i].took, 0.99))
			took[i] = append(took[i], loads[i].took...)
		}
	}
	var out []latency
	for i, p := range loads {
		out = append(out, latency{
			Queries: m.name, CPU: perAnswer(spent[i], len(took[i])), Lost: p.asked - len(took[i]),
			P50: quantile(took[i], 0.5), P99: quantile(p99s[i], 0.5), P99All: quantile(took[i], 0.99),
		})
	}
	return out, nil
}

// quantile returns the value that a share of some values reach at most, and sorts them.
func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	return values[min(len(values)-1, int(q*float64(len(values))))]
}
