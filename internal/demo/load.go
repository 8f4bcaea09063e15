package demo

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// load asks at a steady rate, whether the answers come or not, and counts.
type load struct {
	what string
	ask  asking

	mu     sync.Mutex // guards the rest
	asked  int
	failed int
	first  error
}

// rate is how many questions a load asks in a second.
const rate = 200

// run asks until the context ends, and waits for the last answers.
func (l *load) run(ctx context.Context) {
	ticker := time.NewTicker(time.Second / rate)
	defer ticker.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		running.Go(func() {
			// The end of the load does not cut off what was asked before.
			_, err := l.ask(context.WithoutCancel(ctx))
			l.mu.Lock()
			defer l.mu.Unlock()
			l.asked++
			if err != nil {
				l.failed++
				if l.first == nil {
					l.first = err
				}
			}
		})
	}
}

// result is "0 of 1204 failed".
func (l *load) result() (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counted := fmt.Sprintf("%d of %d failed", l.failed, l.asked)
	switch {
	case l.first != nil:
		return counted, l.first
	case l.asked < rate:
		return counted, fmt.Errorf("too few to say anything")
	}
	return counted, nil
}
