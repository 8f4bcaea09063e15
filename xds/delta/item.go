package delta

import (
	"strings"
	"time"
)

// typeState is a client's interest in one type.
type typeState struct {
	url      string
	rank     int
	level    int
	seen     bool // the client asked for it
	wildcard bool
	globs    map[string]struct{} // "prefix/" of names subscribed as "prefix/*"
	items    map[string]*item
	queue    fifo // items that may be ready
	alone    fifo // those that go in a response of their own
	missing  map[string]struct{}
	// opening is set until the answer to the first request was sent, which
	// waits a little so that a starting proxy begins with all it should have.
	opening bool
	opened  time.Time
	blocked int // items waiting for others

	nacks     int
	lastError string
}

// item is what a client has of one resource.
type item struct {
	typ        *typeState
	name       string
	acked      *entry // in force; nil: none
	refs       int32  // of resources in force or on their way that need it
	member     uint8  // index of the group that it is of
	subscribed bool   // by name
	queued     bool   // is in a fifo
	work       *work  // nil: nothing to do
}

func (it *item) ref() Ref { return Ref{it.typ.url, it.name} }

type state uint8

const (
	settled state = iota
	pending       // to be sent, waiting for another, or on its way
	stuck         // refused, or held back for want of what it needs
)

// work is what is being done about an item.
type work struct {
	state state
	want  *entry // the group's; nil: to be removed
	since uint64 // the oldest change set of it that is not in force
	at    time.Time

	sent      *entry // the newest on its way; nil: its removal
	flights   int
	firstSent time.Time // of those on their way
	lastSent  time.Time
	ackedAt   uint64 // nonce of the response that brought item.acked

	force bool   // to be sent though it is nothing new
	alone bool   // was refused together with others
	maybe *entry // of a refused response of many: it may be in force

	rejected *entry
	reason   string
	held     string // why it is held back
	blocker  *item
	counted  bool // in its type's blocked
}

func (t *typeState) item(name string) *item {
	it := t.items[name]
	if it == nil {
		it = &item{typ: t, name: name}
		t.items[name] = it
	}
	return it
}

// wants reports whether the client subscribed to a name.
func (t *typeState) wants(it *item) bool {
	if !t.seen {
		return false
	}
	if t.wildcard || it.subscribed {
		return true
	}
	if len(t.globs) > 0 {
		_, ok := t.globs[it.name[:strings.LastIndexByte(it.name, '/')+1]]
		return ok
	}
	return false
}

// fifo is a queue that does not allocate once it has grown.
type fifo struct {
	items []*item
	head  int
}

func (q *fifo) len() int { return len(q.items) - q.head }

func (q *fifo) push(it *item) {
	q.items = append(q.items, it)
	it.queued = true
}

func (q *fifo) pop() *item {
	it := q.items[q.head]
	q.items[q.head] = nil
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	it.queued = false
	return it
}
