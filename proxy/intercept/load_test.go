package intercept

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// load asks all the time on one way, and notes when there were answers.
type load struct {
	target
	mu      sync.Mutex // guards the rest
	gap     time.Duration
	last    time.Time
	answers map[string]int
	lost    []string // questions without an answer
	stop    chan struct{}
	done    chan struct{}
}

// begin starts asking every few milliseconds. keep says that one connection is
// used for all questions, as long as it works.
func (w *world) begin(keep bool, patience time.Duration, targets ...target) []*load {
	var out []*load
	for _, x := range targets {
		l := &load{target: x, last: time.Now(), answers: map[string]int{}, stop: make(chan struct{}), done: make(chan struct{})}
		go l.run(keep, patience)
		out = append(out, l)
	}
	w.t.Cleanup(func() { end(out) })
	return out
}

func (l *load) run(keep bool, patience time.Duration) {
	defer close(l.done)
	var c *dns.Conn
	hangUp := func() {
		if c != nil {
			_ = c.Close()
			c = nil
		}
	}
	defer hangUp()
	for {
		select {
		case <-l.stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		var err error
		if c == nil {
			c, err = l.dial()
		}
		var who string
		if err == nil {
			who, err = askOn(c, l.to.Is6(), patience)
		}
		if err != nil || !keep {
			hangUp()
		}
		l.note(who, err)
	}
}

func (l *load) note(who string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.lost = append(l.lost, fmt.Sprint(err))
		return
	}
	now := time.Now()
	l.gap = max(l.gap, now.Sub(l.last))
	l.last = now
	l.answers[who]++
}

// count returns how many answers somebody has given.
func (l *load) count(who string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers[who]
}

// longest returns the longest time without an answer since it was last asked for.
func longest(loads []*load) (gap time.Duration, where target) {
	for _, l := range loads {
		l.mu.Lock()
		l.gap = max(l.gap, time.Since(l.last))
		if l.gap > gap {
			gap, where = l.gap, l.target
		}
		l.gap, l.last = 0, time.Now()
		l.mu.Unlock()
	}
	return gap, where
}

// more waits until somebody has answered some more on each way.
func more(t testing.TB, who string, loads []*load) {
	t.Helper()
	for _, l := range loads {
		before := l.count(who)
		eventually(t, fmt.Sprintf("%v: more answers by %s", l.target, who), func() bool { return l.count(who) >= before+5 })
	}
}

func end(loads []*load) {
	for _, l := range loads {
		select {
		case <-l.stop:
		default:
			close(l.stop)
		}
	}
	for _, l := range loads {
		<-l.done
	}
}
