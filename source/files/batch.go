package files

import (
	"slices"
	"time"
)

// How long a change waits. What is complete waits only for quiet, so that many
// files changed at once become one update of the model.
const (
	quiet    = time.Millisecond      // without any event, before a batch is taken
	maxDelay = 50 * time.Millisecond // a batch is taken at the latest
)

// patience is how long a change waits that may be half of an edit.
type patience struct {
	unclosed time.Duration // a file that its writer keeps open is read anyway
	gone     time.Duration // an editor may write the file again that it moved away
	mending  time.Duration // a file that broke is read again
}

var usual = patience{unclosed: 250 * time.Millisecond, gone: 5 * time.Millisecond, mending: 50 * time.Millisecond}

// batch gathers what has changed on disk until it is time to read it. Its
// methods take the time, and it starts no timers.
type batch struct {
	patience
	due   map[string]time.Time // file -> when it may be read
	open  map[string]bool      // file -> its writer has not closed it
	full  bool                 // everything is to be looked at
	first time.Time            // when the oldest thing that may be read came
	last  time.Time            // of the newest event
}

func newBatch(p patience) *batch {
	return &batch{patience: p, due: map[string]time.Time{}, open: map[string]bool{}}
}

// ready notes a file that is complete.
func (b *batch) ready(path string, now time.Time) {
	delete(b.open, path)
	b.due[path] = now
	b.touch(now)
	b.begin(now)
}

// writing notes a file that its writer has not closed yet.
func (b *batch) writing(path string, now time.Time) {
	b.open[path] = true
	b.due[path] = now.Add(b.unclosed)
	b.touch(now)
}

// removed notes a file that is gone.
func (b *batch) removed(path string, now time.Time) {
	delete(b.open, path)
	b.due[path] = now.Add(b.gone)
	b.touch(now)
}

// again notes a file that is to be read once more later.
func (b *batch) again(path string, at time.Time) {
	if _, noted := b.due[path]; !noted {
		b.due[path] = at
	}
}

// everything notes that all files are to be looked at.
func (b *batch) everything(now time.Time) {
	b.full = true
	b.touch(now)
	b.begin(now)
}

func (b *batch) touch(now time.Time) { b.last = now }

func (b *batch) begin(now time.Time) {
	if b.first.IsZero() {
		b.first = now
	}
}

// wait returns how long until something may be taken; false means that there
// is nothing.
func (b *batch) wait(now time.Time) (time.Duration, bool) {
	var at time.Time
	if b.full {
		at = b.first
	}
	for _, due := range b.due {
		if at.IsZero() || due.Before(at) {
			at = due
		}
	}
	if at.IsZero() {
		return 0, false
	}
	if !b.first.IsZero() && b.first.Before(at) {
		at = b.first
	}
	settled := b.last.Add(quiet)
	if latest := at.Add(maxDelay); settled.After(latest) {
		settled = latest
	}
	if at.Before(settled) {
		at = settled
	}
	return max(at.Sub(now), 0), true
}

// take returns the files that may be read now, in order, and whether all are
// to be looked at, and forgets them.
func (b *batch) take(now time.Time) (paths []string, full bool) {
	for path, due := range b.due {
		if !due.After(now) {
			paths = append(paths, path)
			delete(b.due, path)
			delete(b.open, path)
		}
	}
	slices.Sort(paths)
	full, b.full, b.first = b.full, false, time.Time{}
	return paths, full
}

// busy reports whether a file is noted for later: it is being written, or just
// went, and is not to be judged yet.
func (b *batch) busy(path string) bool {
	_, noted := b.due[path]
	return noted
}
