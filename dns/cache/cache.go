// Package cache keeps answers of other servers in wire form, in bounded memory.
// TTLs count down and are never raised; negative answers live by their SOA (RFC
// 2308); expired ones are kept for a while, for when no server answers (RFC 8767).
//
// What makes room is found by SIEVE (Zhang et al., NSDI '24): a hand goes from the
// oldest answer to the newest, spares once each that was used since it passed, and
// takes the first that was not. A flood of names that are asked for once goes
// through without pushing out those that are used, and a hit costs no more than one
// bit, which is written only if it changes.
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

// MaxFailure is the longest that a failure may be kept: five seconds, so that a
// server that is back is asked soon. (RFC 9520 §3.2 allows five minutes.)
const MaxFailure = 5 * time.Second

// MaxKey is the length of the longest key.
const MaxKey = wire.MaxName + 3 + wire.MaxSubnet

// Options are the limits of a cache; zero values mean the defaults.
type Options struct {
	Bytes       int           // memory for answers, by default 16 MiB
	MaxTTL      time.Duration // longest life of an answer, by default an hour
	MaxNegative time.Duration // longest life of a negative one, by default five minutes
	// Stale is how long expired answers are kept, by default a day (RFC 8767 §5
	// has one to three days); negative: not at all.
	Stale time.Duration
	// Failure is how long a failure is kept, by default a second (RFC 9520
	// §3.2: at least that) and at most [MaxFailure].
	Failure time.Duration
	// Prefetch is how often an answer has to be used to be asked for again
	// before it expires, by default 3; negative: none is.
	Prefetch int
}

func (o *Options) complete() {
	setDefault(&o.Bytes, 16<<20)
	setDefault(&o.MaxTTL, time.Hour)
	setDefault(&o.MaxNegative, 5*time.Minute)
	setDefault(&o.Stale, 24*time.Hour)
	setDefault(&o.Failure, time.Second)
	setDefault(&o.Prefetch, 3)
	o.Stale = max(0, o.Stale)
	o.Failure = min(max(0, o.Failure), MaxFailure)
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

const (
	shards   = 16
	overhead = 352 // octets of an item besides its message, by measurement

	// prefetchPart of an answer's life is left when it is asked for again; of one
	// that lives shorter than prefetchLeast that would be too often.
	prefetchPart  = 10
	prefetchLeast = 10 * time.Second
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
// type, the flags that change what a server answers, and the client's subnet if q
// has one. The name is given by itself because it may be another than q's that an
// alias leads to.
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
	dst = append(dst, flags)
	return append(dst, q.Subnet...)
}

// Item is one kept answer. It never changes, but for how it was used.
type Item struct {
	*wire.Response
	From   netip.AddrPort // the server that gave it; invalid where none did
	key    string
	stored time.Time
	life   time.Duration

	older, newer *Item // guarded by the shard's lock
	used         atomic.Bool
	claimed      atomic.Bool // somebody asks for it before it expires
	hits         atomic.Int32
	retry        atomic.Int64
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
	most := ^uint32(0)
	if it.Keep { // what the cache's limits leave of it
		most = uint32(it.life / time.Second)
	}
	return it.Response.Write(buf, q, flags, func(ttl uint32) uint32 { return aged(min(ttl, most), age, stale) })
}

// TTL returns what is left of one record's TTL.
func (it *Item) TTL(now time.Time, ttl uint32) uint32 {
	if it.Keep {
		ttl = min(ttl, uint32(it.life/time.Second))
	}
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

// Due counts a hit and reports whether the answer is to be asked for again now,
// before it expires: it is used often and does not live much longer. It says so
// once.
func (c *Cache) Due(it *Item, now time.Time) bool {
	if c.Prefetch < 0 || it.life < prefetchLeast {
		return false
	}
	if hits := it.hits.Load(); int(hits) < c.Prefetch {
		it.hits.Add(1)
		return false
	}
	return it.Left(now) < it.life/prefetchPart && !it.claimed.Load() && it.claimed.CompareAndSwap(false, true)
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
// server is not asked by every client's every try (RFC 9520 §3.2). from is the server
// that said it failed, if one did. It takes no stale answer's place.
func (c *Cache) PutFailure(key []byte, r *wire.Response, from netip.AddrPort, now time.Time) *Item {
	it := &Item{Response: r, From: from, key: string(key), stored: now, life: c.Failure}
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
	Denials      int // of Items: negative answers and failures
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
		s.Denials += sh.denials
		sh.mu.Unlock()
	}
	return s
}

// shard is a map, and a list from the newest item to the oldest with SIEVE's hand
// on it.
type shard struct {
	mu      sync.Mutex // guards all below
	items   map[string]*Item
	newest  *Item
	oldest  *Item
	hand    *Item // nil: at the oldest
	bytes   int
	denials int
	_       [64]byte // keeps the locks of two shards out of one cache line
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
		s.evict(it.stored, stale)
		evicted++
	}
	it.older = s.newest
	if s.newest != nil {
		s.newest.newer = it
	} else {
		s.oldest = it
	}
	s.newest = it
	s.items[it.key] = it
	s.bytes += size
	if it.Negative {
		s.denials++
	}
	return evicted
}

// evict moves the hand to the next item that is not used, and removes it. There is
// one after at most two rounds, since the first leaves none that is.
func (s *shard) evict(now time.Time, stale time.Duration) {
	it := s.hand
	for {
		if it == nil {
			it = s.oldest
		}
		if !it.used.Load() || it.Left(now) <= -stale {
			break
		}
		it.used.Store(false)
		it = it.newer
	}
	s.hand = it.newer
	s.remove(it)
}

func (s *shard) remove(it *Item) {
	delete(s.items, it.key)
	if s.hand == it {
		s.hand = it.newer
	}
	if it.older != nil {
		it.older.newer = it.newer
	} else {
		s.oldest = it.newer
	}
	if it.newer != nil {
		it.newer.older = it.older
	} else {
		s.newest = it.older
	}
	it.older, it.newer = nil, nil // others may still answer from it
	s.bytes -= it.size()
	if it.Negative {
		s.denials--
	}
}
