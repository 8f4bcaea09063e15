// Package memory bounds how much memory a process has beyond what it needs. A
// node's agent holds the cluster's whole model and changes little of it at a
// time: Go's usual garbage of as much as the model again would be most of its
// size, and save nothing. Of the program itself it needs little, once it runs.
package memory

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The garbage that a heap may have before it is collected: a part of what is
// alive, but not so little that small heaps are collected all the time, nor so
// little that a busy one is collected more often than somebody looks; and at most
// as much as is alive, which is Go's default. Of a small heap, which is soon
// collected, it is less than half: what a start leaves lies between what stays, and the
// more of it there is at a time the more of the room between stays empty.
const (
	leastGarbage = 8 << 20
	part         = 8
	small        = 48 << 20
	most         = 100
	mostOfSmall  = 40
)

// percent returns the GOGC of a heap of which so many bytes are alive, and to
// which so many were added since the last look.
func percent(alive, added uint64) int {
	limit := most
	if alive < small {
		limit = mostOfSmall
	}
	return int(min(uint64(limit), 100*max(leastGarbage, alive/part, added)/max(alive, 1)))
}

// The time between two looks at the heap, what is little to add in that time, how
// much idle memory is worth giving back at once, and how much never is; the runtime
// gives back the rest by and by.
const (
	interval = 2 * time.Second
	little   = 4 << 20
	idle     = 16 << 20
	spare    = 1 << 20
)

// Tend keeps the bound until the context ends, and gives back what a start or a
// burst of changes left. It does nothing where the environment has GOGC or
// GOMEMLIMIT: then somebody else decides.
func Tend(ctx context.Context) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	heap := newReader()
	before := heap.read()
	current := mostOfSmall
	debug.SetGCPercent(current)
	var freed uint64 // what was allocated when memory was given back last
	started := false // as far as that takes memory
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := heap.read()
		added := now.allocated - before.allocated
		if p := percent(now.alive, added); p < current*9/10 || p > current*11/10 {
			debug.SetGCPercent(p)
			current = p
		}
		back := giveBack(now, added, now.allocated-freed, current)
		if back {
			debug.FreeOSMemory()
			freed = now.allocated
		}
		if back || !started && added < little {
			started = true
			_ = releaseProgram() // or there is no /proc, and they stay
		}
		before = now
	}
}

// giveBack reports whether a heap that collects at a percentage should give back
// what it holds for nothing, given how much was allocated since the last look and
// since it gave back last. It does not while something allocates, which would need
// it again. To give back is to collect: for a little that is held for nothing it is
// worth it only when two collections' worth of garbage have come since.
func giveBack(now sample, added, since uint64, percent int) bool {
	garbage := now.alive * uint64(percent) / 100
	bound := now.alive + garbage
	return added < little && (now.held > bound+idle || now.held > now.alive+spare && since > 2*garbage)
}

// sample is the heap at a moment, in bytes.
type sample struct {
	alive     uint64 // at the last collection
	held      uint64 // from the operating system, and could be given back but for what is alive
	allocated uint64 // since the start of the process
}

// reader reads the runtime's metrics.
type reader []metrics.Sample

func newReader() reader {
	return reader{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/heap/allocs:bytes"},
	}
}

func (r reader) read() sample {
	metrics.Read(r)
	value := func(i int) uint64 { return r[i].Value.Uint64() }
	// The holes between objects (heap/unused) are left out: no collection gives
	// them back, so it would be tried for ever.
	return sample{alive: value(0), held: value(1) + value(2), allocated: value(3)}
}
