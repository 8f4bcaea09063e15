package ipvs

import (
	"math/bits"

	"github.com/sluicenet/sluice/proxy"
)

// markKey is what has a mark: a frontend, and if it is a NodePort, for connections
// from outside or for the others. Of a frontend with an address only one of the two
// has a mark.
type markKey struct {
	frontend proxy.FrontendKey
	outside  bool
}

// marks gives each virtual server without an address its firewall mark. A mark
// is of one family's frontend; the kernel would tell the families apart.
type marks struct {
	mask  uint32 // the bits that marks may have
	byKey map[markKey]uint32
	taken map[uint32]markKey
	next  uint32 // the number that is tried next
}

func newMarks(mask uint32) *marks {
	return &marks{mask: mask, byKey: map[markKey]uint32{}, taken: map[uint32]markKey{}, next: 1}
}

// deposit spreads the bits of a number over those of a mask.
func deposit(n, mask uint32) uint32 {
	out := uint32(0)
	for ; mask != 0; mask &= mask - 1 {
		out |= (n & 1) << bits.TrailingZeros32(mask)
		n >>= 1
	}
	return out
}

// take keeps a mark that the kernel has already.
func (m *marks) take(k markKey, mark uint32) {
	if _, ok := m.taken[mark]; ok || mark == 0 || mark&^m.mask != 0 {
		return
	}
	if _, ok := m.byKey[k]; !ok {
		m.byKey[k], m.taken[mark] = mark, k
	}
}

// of returns the mark of a frontend, or 0 if there are no more.
func (m *marks) of(k markKey) uint32 {
	if mark, ok := m.byKey[k]; ok {
		return mark
	}
	limit := uint64(1) << bits.OnesCount32(m.mask)
	for range limit {
		n := m.next
		if m.next++; uint64(m.next) >= limit {
			m.next = 1
		}
		mark := deposit(n, m.mask)
		if _, ok := m.taken[mark]; !ok && mark != 0 {
			m.byKey[k], m.taken[mark] = mark, k
			return mark
		}
		if uint64(len(m.taken)) >= limit-1 {
			break
		}
	}
	return 0
}

// release gives back the mark of a frontend.
func (m *marks) release(k markKey) {
	delete(m.taken, m.byKey[k])
	delete(m.byKey, k)
}
