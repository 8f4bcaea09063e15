package proxy

import (
	"sync"
	"time"
)

// Progress tells how far [Run] is behind the model. It counts an update from the
// moment the model has it, so an engine that hangs shows as much as one that
// fails. The zero value is that of a proxy that has nothing to do yet.
type Progress struct {
	mu      sync.Mutex // guards all below
	applied time.Time
	// oldest is when the oldest update came that was taken and is not in force,
	// held when the one came that waits to be taken.
	oldest, held time.Time
}

// Waiting returns since when the oldest update waits that is not in force yet;
// the zero time means that there is none.
func (p *Progress) Waiting() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.oldest.IsZero() {
		return p.held
	}
	return p.oldest
}

// Applied returns when the kernel last got, or already had, all that was asked
// for; the zero time means never.
func (p *Progress) Applied() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.applied
}

// hold notes an update that came at a time and waits to be taken.
func (p *Progress) hold(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = at
}

// take notes that the update that came at a time is being worked on. By then the
// next one may be held already.
func (p *Progress) take(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.oldest.IsZero() {
		p.oldest = at
	}
	if p.held.Equal(at) {
		p.held = time.Time{}
	}
}

// done notes that all that was taken is in force.
func (p *Progress) done(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.oldest, p.applied = time.Time{}, at
}

// forget notes that nothing of what was taken is to be done: the source has not
// delivered everything yet.
func (p *Progress) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.oldest = time.Time{}
}
