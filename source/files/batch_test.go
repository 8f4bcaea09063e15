package files

import (
	"strings"
	"testing"
	"time"
)

// TestBatch plays events at certain milliseconds, looks when the batch says
// so, and writes down what is taken when.
func TestBatch(t *testing.T) {
	type at struct {
		ms int
		do func(b *batch, now time.Time)
	}
	ready := func(p string) func(*batch, time.Time) { return func(b *batch, now time.Time) { b.ready(p, now) } }
	writing := func(p string) func(*batch, time.Time) {
		return func(b *batch, now time.Time) { b.writing(p, now) }
	}
	removed := func(p string) func(*batch, time.Time) {
		return func(b *batch, now time.Time) { b.removed(p, now) }
	}
	all := func(b *batch, now time.Time) { b.everything(now) }
	stream := func(n int) (out []at) {
		for i := range n {
			out = append(out, at{i / 2, ready("a")})
		}
		return out
	}
	for _, c := range []struct {
		name   string
		events []at
		want   string
	}{
		{"one edit waits for a millisecond of quiet", []at{{0, ready("a")}}, "1:a"},
		{"edits at once are one batch", []at{{0, ready("b")}, {0, ready("a")}, {1, ready("c")}}, "2:a,b,c"},
		{"a stream of edits is cut", stream(140), "50:a 70:a"},
		{"an open file waits to be closed", []at{{0, writing("a")}, {30, writing("a")}, {31, ready("a")}}, "32:a"},
		{"an open file is read at last", []at{{0, writing("a")}, {100, writing("a")}}, "350:a"},
		{"an open file does not hold up another", []at{{0, writing("a")}, {0, ready("b")}, {5, ready("a")}}, "1:b 6:a"},
		{"a file that goes has time to come again", []at{{0, removed("a")}, {2, writing("a")}, {9, ready("a")}}, "10:a"},
		{"a file that goes is gone", []at{{0, removed("a")}}, "5:a"},
		{"a move is one batch", []at{{0, removed("a")}, {0, ready("b")}, {0, ready("a")}}, "1:a,b"},
		{"a look at everything", []at{{0, all}, {0, ready("a")}}, "1:a+all"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Unix(0, 0)
			b := newBatch(usual)
			var got []string
			events := c.events
			for ms := range 1000 {
				now := start.Add(time.Duration(ms) * time.Millisecond)
				for len(events) > 0 && events[0].ms == ms {
					events[0].do(b, now)
					events = events[1:]
				}
				if wait, some := b.wait(now); some && wait == 0 {
					paths, full := b.take(now)
					text := strings.Join(paths, ",")
					if full {
						text += "+all"
					}
					if text != "" {
						got = append(got, now.Sub(start).String()[:len(now.Sub(start).String())-2]+":"+text)
					}
				}
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("taken %q, want %q", s, c.want)
			}
		})
	}
}
