package iptables

import (
	"bytes"
	"sync/atomic"
	"time"
)

// canary tells cheaply whether somebody else may have changed rules of ours:
// of the nft variant by the kernel's notifications, and of the legacy one by a
// digest of its tables. What it has seen stays seen until forget.
type canary struct {
	sense
	// commits counts our own transactions since begin.
	commits atomic.Int64
	odd     bool
}

// sense is what a variant lets us perceive.
type sense interface {
	// look reports whether somebody else has changed rules of ours since the
	// last rest, or may have. To look closely may take a while.
	look(closely bool) bool
	// unsure tells that there are changes that no look can tell of.
	unsure() bool
	// rest notes that a step of ours has ended, which had as many transactions,
	// and reports whether there were others since the last look.
	rest(commits int64) bool
	close()
}

// blind is the sense of one who perceives nothing: there may always be something.
type blind struct{}

func (blind) look(bool) bool  { return true }
func (blind) unsure() bool    { return true }
func (blind) rest(int64) bool { return true }
func (blind) close()          {}

func newCanary(v Variant, netns int) *canary {
	c := &canary{sense: blind{}}
	if v == NFT {
		if w := newWatch(netns); w != nil {
			c.sense = w
		}
	} else if d := newDigester(netns); d != nil {
		c.sense = d
	}
	return c
}

// changed reports whether there may be something that nobody has looked at.
func (c *canary) changed(closely bool) bool {
	if c.look(closely) {
		c.odd = true
	}
	return c.odd
}

// forget tells that what was seen until now is being looked at.
func (c *canary) forget() { c.odd = false }

// begin notes that a step of ours begins.
func (c *canary) begin() {
	c.changed(false)
	c.commits.Store(0)
}

// wrote counts the transactions of what iptables-restore was given.
func (c *canary) wrote(text []byte) { c.commits.Add(int64(bytes.Count(text, []byte("\nCOMMIT\n")))) }

// end notes that a step of ours has ended.
func (c *canary) end() {
	if c.rest(c.commits.Load()) {
		c.odd = true
	}
	c.commits.Store(0)
}

// share bounds what something costs that is done over and over.
type share struct {
	ended time.Time
	took  time.Duration
}

// due reports whether doing it once more takes no more than a part in n of the
// time.
func (s *share) due(n int) bool { return time.Since(s.ended) >= time.Duration(n-1)*s.took }

// done notes that it was done just now.
func (s *share) done(took time.Duration) { s.ended, s.took = time.Now(), took }
