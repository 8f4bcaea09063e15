// Package cache keeps answers of other servers in wire form, in bounded memory.
// TTLs count down and are never raised; negative answers live by their SOA (RFC
// 2308); expired ones are kept for a while, for when no server answers (RFC 8767).
package cache

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

// StaleTTL is the TTL in seconds of an answer that has expired, as RFC 8767 §4
// recommends.
const StaleTTL = 30

// Options are the limits of a cache; zero values mean the defaults.
type Options struct {
	Bytes       int           // memory for answers, by default 32 MiB
	MaxTTL      time.Duration // longest life of an answer, by default an hour
	MaxNegative time.Duration // longest life of a negative one, by default five minutes
	Stale       time.Duration // how long expired answers are kept, by default an hour
}

func (o *Options) complete() {
	if o.Bytes == 0 {
		o.Bytes = 32 << 20
	}
	if o.MaxTTL == 0 {
		o.MaxTTL = time.Hour
	}
	if o.MaxNegative == 0 {
		o.MaxNegative = 5 * time.Minute
	}
	if o.Stale == 0 {
		o.Stale = time.Hour
	}
}

const (
	shards   = 16
	overhead = 256 // octets of an item besides its message, by measurement
)

// Cache is safe for concurrent use.
type Cache struct {
	Options
	seed      maphash.Seed // kept from clients, so that none can fill one shard
	shards    [shards]shard
	evictions atomic.Uint64
}

// New returns an empty cache.
func New(o Options) *Cache {
	o.complete()
	c := &Cache{Options: o, seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].items = map[string]*Item{}
	}
	return c
}

// AppendKey appends what the answer to q is found by: the name, in lower case, the
// type, and the flags that change what a server answers. The name is given by
// itself because it may be another than q's that an alias leads to.
func AppendKey(dst, name []byte, q *wire.Query) []byte {
	flags := byte(0)
	if q.DO {
		flags |= 1
	}
	if q.Flags&wire.FlagCD != 0 {
		flags |= 2
	}
	dst = append(dst, name...)
	dst = binary.BigEndian.AppendUint16(dst, q.Type)
	return append(dst, flags)
}

// Item is one kept answer. It never changes, but for how it was used.
type Item struct {
	*wire.Response
	From   netip.AddrPort // the server that gave it; invalid for a failure
	key    string
	stored time.Time
	life   time.Duration

	slot  int         // in the shard's ring
	used  atomic.Bool // since the clock's hand passed
	retry atomic.Int64
}

// Left returns how long the answer is fresh from now on; it is negative for a
// stale one.
func (it *Item) Left(now time.Time) time.Duration { return it.stored.Add(it.life).Sub(now) }

// Stale reports whether the answer has been kept for too long. One that may not be
// kept at all is only handed on, and is as fresh as it came.
func (it *Item) Stale(now time.Time) bool { return it.Keep && it.Left(now) <= 0 }

// RefreshFailed says that no server had a newer answer. Until the time given the
// stale one is good enough and none needs to be asked (RFC 8767 §5, failure
// recheck timer).
func (it *Item) RefreshFailed(until time.Time) { it.retry.Store(until.UnixNano()) }

// Rested reports whether it is too early to ask for a newer answer again.
func (it *Item) Rested(now time.Time) bool { return now.UnixNano() < it.retry.Load() }

// Write makes the answer to q of the item in the room of buf. flags are added to
// the header's.
func (it *Item) Write(buf []byte, q *wire.Query, now time.Time, flags uint16) []byte {
	age := uint32(max(0, now.Sub(it.stored)) / time.Second)
	stale := it.Stale(now)
	return it.Response.Write(buf, q, flags, func(ttl uint32) uint32 { return aged(ttl, age, stale) })
}

// TTL returns what is left of one record's TTL.
func (it *Item) TTL(now time.Time, ttl uint32) uint32 {
	return aged(ttl, uint32(max(0, now.Sub(it.stored))/time.Second), it.Stale(now))
}

func aged(ttl, age uint32, stale bool) uint32 {
	switch {
	case stale:
		return StaleTTL
	case ttl < age:
		return 0
	}
	return ttl - age
}

func (it *Item) size() int { return len(it.key) + cap(it.Msg) + 2*cap(it.TTLs) + overhead }

func (c *Cache) shard(key []byte) *shard { return &c.shards[maphash.Bytes(c.seed, key)%shards] }

// Get returns the item of a key, fresh or stale, or nil.
func (c *Cache) Get(key []byte, now time.Time) *Item {
	s := c.shard(key)
	s.mu.Lock()
	it := s.items[string(key)]
	s.mu.Unlock()
	if it == nil {
		return nil
	}
	if left := it.Left(now); left <= -c.Stale || left <= 0 && !it.Keep {
		return nil
	}
	if !it.used.Load() { // written only if it changes, to spare the other cores' caches
		it.used.Store(true)
	}
	return it
}

// Put keeps an answer if it may be kept, and returns the item for it in any case.
func (c *Cache) Put(key []byte, r *wire.Response, from netip.AddrPort, now time.Time) *Item {
	life := min(time.Duration(r.Lifetime)*time.Second, c.MaxTTL)
	if r.Negative {
		life = min(life, c.MaxNegative)
	}
	it := &Item{Response: r, From: from, key: string(key), stored: now, life: life}
	if r.Keep {
		c.put(key, it)
	}
	return it
}

// PutFailure keeps the absence of an answer for a moment, so that a broken
// server is not asked by every client's every try (RFC 9520 §3.2). It takes no
// stale answer's place.
func (c *Cache) PutFailure(key []byte, r *wire.Response, now time.Time, life time.Duration) *Item {
	it := &Item{Response: r, key: string(key), stored: now, life: life}
	if c.Get(key, now) == nil {
		c.put(key, it)
	}
	return it
}

func (c *Cache) put(key []byte, it *Item) {
	c.evictions.Add(c.shard(key).put(it, c.Bytes/shards, c.Stale))
}

// Stats are counts of a cache's life.
type Stats struct {
	Items, Bytes int
	Evictions    uint64
}

// Stats returns the counts at this moment.
func (c *Cache) Stats() Stats {
	s := Stats{Evictions: c.evictions.Load()}
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		s.Items += len(sh.items)
		s.Bytes += sh.bytes
		sh.mu.Unlock()
	}
	return s
}

// shard is a map and a clock: items in a ring, and a hand that spares what was
// used since it passed the last time.
type shard struct {
	mu    sync.Mutex // guards all below
	items map[string]*Item
	ring  []*Item
	hand  int
	bytes int
	_     [64]byte // keeps the locks of two shards out of one cache line
}

// put adds an item and returns how many were evicted for it.
func (s *shard) put(it *Item, limit int, stale time.Duration) (evicted uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.items[it.key]; old != nil {
		s.remove(old)
	}
	size := it.size()
	if size > limit {
		return 0
	}
	for s.bytes+size > limit {
		s.hand %= len(s.ring)
		old := s.ring[s.hand]
		if old.used.Swap(false) && old.Left(it.stored) > -stale {
			s.hand++
			continue
		}
		s.remove(old)
		evicted++
	}
	it.slot = len(s.ring)
	s.ring = append(s.ring, it)
	s.items[it.key] = it
	s.bytes += size
	return evicted
}

func (s *shard) remove(it *Item) {
	delete(s.items, it.key)
	last := len(s.ring) - 1
	s.ring[it.slot] = s.ring[last]
	s.ring[it.slot].slot = it.slot
	s.ring[last] = nil
	s.ring = s.ring[:last]
	s.bytes -= it.size()
}
