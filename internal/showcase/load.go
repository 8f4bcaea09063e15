package showcase

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// load asks at a steady rate, also while answers are outstanding, and counts.
type load struct {
	what string
	ask  Ask

	mu      sync.Mutex // guards the rest
	asked   int
	failed  int
	slowest time.Duration
	first   error // of those that failed
}

const (
	// rate is how many questions a load asks in a second.
	rate = 200
	// outstanding is how many a load may be waiting for. On a machine that has
	// no processor to spare it asks less rather than count its own queue.
	outstanding = 32
	// enough is how many questions say something.
	enough = 100
)

// run asks until the context ends, and waits for the last answers.
func (l *load) run(ctx context.Context) {
	ticker := time.NewTicker(time.Second / rate)
	defer ticker.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, outstanding)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		running.Go(func() {
			defer func() { <-slots }()
			began := time.Now()
			// The end of the load does not cut off what was asked before.
			_, err := l.ask(context.WithoutCancel(ctx))
			l.mu.Lock()
			defer l.mu.Unlock()
			l.asked++
			l.slowest = max(l.slowest, time.Since(began))
			if err != nil {
				l.failed++
				if l.first == nil {
					l.first = err
				}
			}
		})
	}
}

// result is "0 of 1204 failed, the slowest took 12 ms".
func (l *load) result() (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counted := fmt.Sprintf("%d of %d failed, the slowest took %d ms", l.failed, l.asked, l.slowest.Milliseconds())
	switch {
	case l.first != nil:
		return counted, l.first
	case l.asked < enough:
		return counted, errors.New("too few to say anything")
	}
	return counted, nil
}
