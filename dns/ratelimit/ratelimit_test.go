package ratelimit

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

var flooder = netip.MustParseAddr("10.0.0.1")

func TestBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{PerSecond: 10, Burst: 5})
		count := func(n int) (verdicts [3]int) {
			for range n {
				verdicts[l.Query(flooder, time.Now())]++
			}
			return verdicts
		}
		if got := count(15); got != [3]int{5, 5, 5} {
			t.Errorf("at once: answered, dropped, slipped %v", got)
		}
		time.Sleep(200 * time.Millisecond)
		if got := count(4); got[Answer] != 2 {
			t.Errorf("after two tokens' time: %v", got)
		}
		time.Sleep(time.Hour)
		if got := count(20); got[Answer] != 5 {
			t.Errorf("after an hour: %v", got)
		}
		if dropped, slipped := l.Counts(); dropped+slipped != 10+2+15 {
			t.Errorf("counted %d and %d", dropped, slipped)
		}
		time.Sleep(time.Hour)
		var waited time.Duration
		for range 10 {
			w := l.Wait(flooder, time.Now())
			waited += w
			time.Sleep(w)
		}
		if waited != 500*time.Millisecond {
			t.Errorf("waited %v for the five queries over the burst", waited)
		}
	})
}

// TestOthersAreFree proves that a flood takes nothing from anybody else, and that
// one cannot wash its debt away by making up clients.
func TestOthersAreFree(t *testing.T) {
	l := New(Options{PerSecond: 1, Burst: 10})
	now := time.Now()
	for range 100 {
		l.Query(flooder, now)
	}
	a := netip.MustParseAddr("fd00::1")
	for range 10 * sets * ways {
		if v := l.Query(a, now); v != Answer {
			t.Fatalf("%v: %d", a, v)
		}
		a = a.Next()
	}
	if v := l.Query(flooder, now); v == Answer {
		t.Error("the debt is forgotten")
	}
}

func TestPrefixes(t *testing.T) {
	l := New(Options{PerSecond: 1, IPv4Prefix: 24, IPv6Prefix: 64, Slip: -1})
	now := time.Now()
	for _, c := range []struct {
		addr string
		want Verdict
	}{
		{"10.0.0.1", Answer}, {"10.0.0.2", Drop}, {"10.0.1.1", Answer}, {"::ffff:10.0.1.2", Drop},
		{"fd00::1", Answer}, {"fd00::2", Drop}, {"fd00:0:0:1::1", Answer},
	} {
		if got := l.Query(netip.MustParseAddr(c.addr), now); got != c.want {
			t.Errorf("%s: %d, want %d", c.addr, got, c.want)
		}
	}
}

func TestQueriesDoNotAllocate(t *testing.T) {
	l := New(Options{PerSecond: 1})
	now := time.Now()
	if allocs := testing.AllocsPerRun(100, func() { l.Query(flooder, now) }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}
