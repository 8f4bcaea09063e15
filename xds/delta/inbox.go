package delta

import "sync"

// inbox collects what changed for a client until its stream looks. It holds
// each name once, so a client that does not keep up costs no more than the
// resources that there are, and gets the newest of each.
type inbox struct {
	mu    sync.Mutex
	dirty map[Ref]struct{}
	spare map[Ref]struct{}
	bell  chan struct{}
}

func newInbox() inbox {
	return inbox{dirty: map[Ref]struct{}{}, bell: make(chan struct{}, 1)}
}

func (b *inbox) put(ref Ref) {
	b.mu.Lock()
	b.dirty[ref] = struct{}{}
	b.mu.Unlock()
}

func (b *inbox) wake() {
	select {
	case b.bell <- struct{}{}:
	default:
	}
}

// take returns what changed, to be given back with done.
func (b *inbox) take() map[Ref]struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.dirty) == 0 {
		return nil
	}
	d := b.dirty
	b.dirty = b.spare
	if b.dirty == nil {
		b.dirty = map[Ref]struct{}{}
	}
	b.spare = nil
	return d
}

func (b *inbox) done(d map[Ref]struct{}) {
	if len(d) > 1024 { // a map never shrinks
		return
	}
	clear(d)
	b.mu.Lock()
	b.spare = d
	b.mu.Unlock()
}
