// Package ratelimit bounds how much one client may ask, in memory that does not
// grow with the number of clients.
//
// Each client has a token bucket. The buckets are a set-associative table with a
// hash that is kept from clients. Where a set is full the fullest bucket makes room,
// since a client that has asked for nothing lately is no different from a new one;
// one that is over its limit cannot get out of its bucket by way of others.
package ratelimit

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the limit of each client.
type Options struct {
	PerSecond int // queries that a client may ask in the long run; required
	Burst     int // queries at once, by default PerSecond
	// Slip is which of the queries over the limit gets an answer that says to come
	// over TCP, instead of none: 1 each, 2 every second (the default), as in Response
	// Rate Limiting. A client whose address is forged by others gets its answers so.
	// Negative: none is answered.
	Slip int
	// Clients are told apart by these prefixes of their addresses, by default all
	// of it.
	IPv4Prefix, IPv6Prefix int
}

const (
	ways  = 4
	sets  = 4096
	locks = 64
)

// bucket is what a client has left. It is empty as long as mark is 0.
type bucket struct {
	mark   uint64        // of the client
	debt   time.Duration // time until the bucket is full again, at the moment then
	then   time.Duration // since the limiter's start
	denied uint32
}

// Limiter is safe for concurrent use, and takes half a MiB.
type Limiter struct {
	o       Options
	each    time.Duration // a query's
	full    time.Duration // all a client has
	seed    maphash.Seed
	start   time.Time
	buckets [sets][ways]bucket
	locks   [locks]struct {
		sync.Mutex
		_ [56]byte // a cache line each
	}
	dropped, slipped atomic.Uint64
}

// New returns a limiter.
func New(o Options) *Limiter {
	if o.Burst == 0 {
		o.Burst = o.PerSecond
	}
	if o.Slip == 0 {
		o.Slip = 2
	}
	if o.IPv4Prefix == 0 {
		o.IPv4Prefix = 32
	}
	if o.IPv6Prefix == 0 {
		o.IPv6Prefix = 128
	}
	l := &Limiter{o: o, each: time.Second / time.Duration(max(1, o.PerSecond)), seed: maphash.MakeSeed(), start: time.Now()}
	l.full = l.each * time.Duration(max(1, o.Burst))
	return l
}

// Verdict is what is to be done with a query.
type Verdict uint8

// The verdicts.
const (
	Answer Verdict = iota
	Drop           // say nothing
	Slip           // answer that the client is to ask over TCP
)

// Query takes a token for one query of a client and says what to do with it.
func (l *Limiter) Query(client netip.Addr, now time.Time) Verdict {
	verdict := Answer
	l.with(client, now, func(b *bucket) {
		if b.debt+l.each <= l.full {
			b.debt += l.each
			return
		}
		verdict = Drop
		if b.denied++; l.o.Slip > 0 && b.denied%uint32(l.o.Slip) == 0 {
			verdict = Slip
		}
	})
	switch verdict {
	case Drop:
		l.dropped.Add(1)
	case Slip:
		l.slipped.Add(1)
	}
	return verdict
}

// Wait takes a token for one query of a client and returns how long it is to wait:
// for clients that can be made to.
func (l *Limiter) Wait(client netip.Addr, now time.Time) (wait time.Duration) {
	l.with(client, now, func(b *bucket) {
		// The debt of many connections is bounded, too: it is one client's.
		b.debt = min(b.debt+l.each, l.full+time.Second)
		wait = max(0, b.debt-l.full)
	})
	return wait
}

// Counts returns how many queries got no answer, and how many were sent to TCP.
func (l *Limiter) Counts() (dropped, slipped uint64) { return l.dropped.Load(), l.slipped.Load() }

// with calls f with a client's bucket as it is now.
func (l *Limiter) with(client netip.Addr, now time.Time, f func(*bucket)) {
	h := l.hash(client)
	set := h % sets
	lock := &l.locks[set%locks]
	at := now.Sub(l.start)
	lock.Lock()
	defer lock.Unlock()
	room := &l.buckets[set][0]
	least := time.Duration(1<<63 - 1)
	for i := range l.buckets[set] {
		b := &l.buckets[set][i]
		left := max(0, b.debt-max(0, at-b.then))
		if b.mark == h {
			room, least = b, left
			break
		}
		if b.mark == 0 {
			left = -1
		}
		if left < least {
			room, least = b, left
		}
	}
	if room.mark != h {
		*room, least = bucket{mark: h}, 0
	}
	room.debt, room.then = least, max(at, room.then)
	f(room)
}

// hash returns the mark of a client, which is never 0.
func (l *Limiter) hash(client netip.Addr) uint64 {
	client = client.Unmap()
	bits := l.o.IPv6Prefix
	if client.Is4() {
		bits = l.o.IPv4Prefix
	}
	// The widths are checked where they are read; all of an address otherwise.
	if p, err := client.Prefix(bits); err == nil {
		client = p.Addr()
	}
	octets := client.As16()
	return maphash.Bytes(l.seed, octets[:]) | 1<<63
}
