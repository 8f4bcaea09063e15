package cache

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

var from = netip.MustParseAddrPort("192.0.2.53:53")

func query(t testing.TB, name string, flags uint16, edns, do bool) *wire.Query {
	t.Helper()
	n, err := wire.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	q := &wire.Query{}
	if v := q.Parse(wire.AppendQuery(nil, 1, flags, n, wire.TypeA, edns, do), false); v != wire.Answer {
		t.Fatal(v)
	}
	return q
}

func response(t testing.TB, name string, ttl uint32) *wire.Response {
	t.Helper()
	n, err := wire.ParseName(name)
	if err != nil {
		t.Fatal(err)
	}
	msg := wire.AppendQuery(nil, 0, wire.FlagQR, n, wire.TypeA, false, false)
	msg[7] = 1
	r, err := wire.ParseResponse(wire.AppendPacked(msg, wire.TypeA, ttl, []byte{192, 0, 2, 1}), n, wire.TypeA)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func key(q *wire.Query) []byte { return AppendKey(nil, q.Name, q) }

var start = time.Unix(1700000000, 0)

func ttl(t testing.TB, it *Item, q *wire.Query, now time.Time) uint32 {
	t.Helper()
	msg := it.Write(make([]byte, 0, wire.MaxUDP), q, now, 0)
	var rr wire.RR
	if !rr.Parse(msg, wire.HeaderLen+len(q.Question)) {
		t.Fatalf("%x", msg)
	}
	return rr.TTL
}

func TestTTLCountsDown(t *testing.T) {
	c := New(Options{MaxTTL: 100 * time.Second, Stale: time.Hour})
	q := query(t, "a.example", 0, true, false)
	for name, r := range map[string]uint32{"a.example": 60, "short.example": 1, "long.example": 5000} {
		q := query(t, name, 0, true, false)
		c.Put(key(q), response(t, name, r), from, start)
	}
	for after, want := range map[time.Duration]uint32{0: 60, 500 * time.Millisecond: 60, time.Second: 59, 59 * time.Second: 1, 60 * time.Second: StaleTTL, time.Hour: StaleTTL} {
		if it := c.Get(key(q), start.Add(after)); it == nil || ttl(t, it, q, start.Add(after)) != want {
			t.Errorf("after %v: %v, want TTL %d", after, it, want)
		}
	}
	if it := c.Get(key(q), start.Add(time.Hour+time.Minute)); it != nil {
		t.Error("kept for longer than stale answers are")
	}
	long := query(t, "long.example", 0, true, false)
	if it := c.Get(key(long), start.Add(101*time.Second)); it == nil || it.Left(start.Add(101*time.Second)) > 0 {
		t.Error("an answer lives longer than the longest")
	}
}

// TestNotKept are answers that are only handed on, with the TTL as it came.
func TestNotKept(t *testing.T) {
	c := New(Options{})
	q := query(t, "a.example", 0, true, false)
	it := c.Put(key(q), response(t, "a.example", 0), from, start)
	if c.Get(key(q), start) != nil {
		t.Error("TTL 0 is kept")
	}
	if got := ttl(t, it, q, start); got != 0 {
		t.Errorf("TTL 0 became %d", got)
	}
	failure := wire.Failure(q.Name, q.Type, wire.RcodeServFail)
	c.PutFailure(key(q), failure, from, start)
	if c.Get(key(q), start) == nil || c.Get(key(q), start.Add(time.Second)) != nil {
		t.Error("a failure is not kept for its second, or as stale answer")
	}
	c.Put(key(q), response(t, "a.example", 1), from, start)
	c.PutFailure(key(q), failure, from, start.Add(time.Minute))
	if it := c.Get(key(q), start.Add(time.Minute)); it == nil || it.Rcode != wire.RcodeSuccess {
		t.Error("a failure took a stale answer's place")
	}
}

func TestFlagsAreKeptApart(t *testing.T) {
	c := New(Options{})
	for i, q := range []*wire.Query{query(t, "a.example", 0, true, false), query(t, "a.example", 0, true, true), query(t, "a.example", wire.FlagCD, true, false)} {
		if c.Get(key(q), start) != nil {
			t.Errorf("query %d finds another's answer", i)
		}
		c.Put(key(q), response(t, "a.example", 60), from, start)
	}
	if q := query(t, "A.EXAMPLE", 0, false, false); c.Get(key(q), start) == nil {
		t.Error("case or EDNS make a difference")
	}
}

// TestMemoryIsBounded puts in far more than fits: what is used stays.
func TestMemoryIsBounded(t *testing.T) {
	const limit = 1 << 20
	c := New(Options{Bytes: limit})
	hot := query(t, "hot.example", 0, true, false)
	c.Put(key(hot), response(t, "hot.example", 600), from, start)
	for i := range 20_000 {
		q := query(t, fmt.Sprintf("n%d.example", i), 0, true, false)
		c.Put(key(q), response(t, fmt.Sprintf("n%d.example", i), 600), from, start)
		if c.Get(key(hot), start) == nil {
			t.Fatalf("the name that is always used was evicted after %d others", i)
		}
	}
	s := c.Stats()
	if s.Bytes > limit || s.Bytes < limit/2 || s.Items+int(s.Evictions) != 20_001 {
		t.Errorf("%+v", s)
	}
	for i := range c.shards {
		sh := &c.shards[i]
		sum := 0
		n := 0
		for it := sh.newest; it != nil; it = it.older {
			n++
			if sum += it.size(); sh.items[it.key] != it || it.older != nil && it.older.newer != it || it.older == nil && sh.oldest != it {
				t.Fatalf("shard %d, item %d: %+v", i, n, it)
			}
		}
		if sum != sh.bytes || n != len(sh.items) {
			t.Errorf("shard %d: %d octets counted, %d kept", i, sh.bytes, sum)
		}
	}
	huge := wire.Failure(hot.Name, hot.Type, 0)
	huge.Keep, huge.Lifetime, huge.Msg = true, 60, make([]byte, 65535)
	c.Put(key(query(t, "huge.example", 0, true, false)), huge, from, start)
	if c.Stats().Bytes > limit {
		t.Error("an answer bigger than a shard is kept")
	}
}

// TestEviction proves that names that are asked for once go through the cache
// without pushing out those that are used, in the order in which they came.
func TestEviction(t *testing.T) {
	c := New(Options{Bytes: shards * 100 * (overhead + 100)})
	put := func(name string) *wire.Query {
		q := query(t, name, 0, true, false)
		c.Put(key(q), response(t, name, 600), from, start)
		return q
	}
	var hot []*wire.Query
	for i := range 200 {
		hot = append(hot, put(fmt.Sprintf("hot%d.example", i)))
	}
	var once []*wire.Query
	for i := range 10_000 {
		once = append(once, put(fmt.Sprintf("once%d.example", i)))
		if i%50 == 0 {
			for _, q := range hot {
				if c.Get(key(q), start) == nil {
					t.Fatalf("a name that is used was evicted after %d others", i)
				}
			}
		}
	}
	// The newest of those that are not used are there, the oldest are not.
	for i, q := range once {
		kept := c.Get(key(q), start) != nil
		if i < 5000 && kept || i >= len(once)-100 && !kept {
			t.Errorf("name %d of %d: kept %v", i, len(once), kept)
		}
	}
}

// TestDue proves that an answer is due once, near its end and only if it is used.
func TestDue(t *testing.T) {
	c := New(Options{Prefetch: 3})
	put := func(name string, life uint32) *Item {
		return c.Put(key(query(t, name, 0, true, false)), response(t, name, life), from, start)
	}
	late := start.Add(595 * time.Second)
	it := put("used.example", 600)
	for range 3 {
		if c.Due(it, start) {
			t.Error("due at the start")
		}
	}
	if c.Due(it, start.Add(500*time.Second)) || !c.Due(it, late) || c.Due(it, late) {
		t.Error("not due once near the end")
	}
	idle := put("idle.example", 600)
	for range 3 {
		if c.Due(idle, late) {
			t.Error("due although it is not used")
		}
	}
	short := put("short.example", 5)
	for range 10 {
		if c.Due(short, start.Add(4900*time.Millisecond)) {
			t.Error("an answer that lives shortly is due")
		}
	}
}
