package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// load sends requests at a steady rate on several ways at once and counts what
// fails.
type load struct {
	mu       sync.Mutex // guards all below
	sent     map[string]int
	failed   map[string]int
	failures []string
}

// way is one path of requests; its function makes one.
type way struct {
	name string
	one  func(context.Context) error
}

// run sends rate requests a second, the ways in turn, until the context ends,
// and waits for the answers. A request that is late does not hold up the next.
func (l *load) run(ctx context.Context, rate int, ways []way) {
	l.sent, l.failed = map[string]int{}, map[string]int{}
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	var open sync.WaitGroup
	defer open.Wait()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w := ways[i%len(ways)]
		open.Go(func() {
			// The answer is waited for although no more are sent.
			limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			start := time.Now()
			err := w.one(limit)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.sent[w.name]++
			if err == nil {
				return
			}
			l.failed[w.name]++
			if len(l.failures) < 20 {
				l.failures = append(l.failures, fmt.Sprintf("%s %s after %v: %v", start.Format("15:04:05.000"), w.name, time.Since(start).Round(time.Millisecond), err))
			}
		})
	}
}
