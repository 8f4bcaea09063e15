package proxy

import (
	"context"
	"fmt"

	"github.com/sluicenet/sluice/model"
)

// Engine makes the kernel of a node do what a plan says. Its methods are called
// by one goroutine.
//
// Every step leaves connections alone that it does not concern, established or
// new, and points at nothing that is not there yet.
type Engine interface {
	// Sync makes the kernel match the plan, whatever is there: nothing, what
	// an earlier process left, or what an earlier call left when it failed.
	// It takes over what fits, so that connections survive a restart.
	Sync(ctx context.Context, plan *Plan) error
	// Apply makes the step from the plan that is in force to the next. Its
	// cost depends on the changes alone. After an error, only Sync may follow.
	Apply(ctx context.Context, changes Changes) error
	// Verify looks whether somebody else has changed what the engine made, and
	// repairs that. It finishes what was put off, too, so it is to be called
	// every few seconds. It reports whether something had to be repaired.
	Verify(ctx context.Context) (repaired bool, err error)
	// Cleanup removes all that any process has made with this engine.
	Cleanup(ctx context.Context) error
	// Close gives up the engine's resources and leaves the kernel as it is.
	Close() error
}

// Tracer is an [Engine] that can say what the kernel's own rules do, so that
// somebody who asks learns where they differ from the plan. Trace may be called
// by any goroutine at any time.
type Tracer interface {
	// Trace reads from the kernel what happens to the connection of a decision
	// that [Trace] made. It reads nothing that the engine remembers.
	Trace(ctx context.Context, d Decision) (Observed, error)
}

// Observed is what the kernel's rules do with a new connection.
type Observed struct {
	// Rules are the lines that decide, as the kernel's own tools print them.
	Rules []string
	// Found tells that a frontend answers; the rest is as in [Decision].
	Found   bool
	Miss    Miss
	Action  Action
	Refused bool
	Choices []Choice
}

// Counter is an [Engine] whose rules count. Count may be called by any goroutine
// at any time.
type Counter interface {
	// Count calls each for every frontend that had traffic. The counts only
	// grow, other than by a restart of the machine or a repair.
	Count(ctx context.Context, each func(FrontendKey, Traffic)) error
}

// ByteCounter is a [Counter] that may count packets and bytes. Others count
// connections alone.
type ByteCounter interface {
	Counter
	CountsBytes() bool
}

// CountsBytes reports whether packets and bytes are counted, so that nobody takes
// a 0 for a count.
func CountsBytes(c Counter) bool {
	b, ok := c.(ByteCounter)
	return ok && b.CountsBytes()
}

// Traffic is what went through a frontend, in both directions together.
type Traffic struct {
	Connections, Packets, Bytes uint64
}

// Limited is an [Engine] that may lack what a Service asks for.
type Limited interface {
	// Problems returns what the last step could not do for a Service, other than
	// the problems in the plan. It is called by the engine's goroutine.
	Problems(name model.Name) []Problem
}

// UnsupportedError indicates that the machine cannot run an engine.
type UnsupportedError struct {
	Engine  string // such as "nftables"
	Feature string // what is missing
	Remedy  string // what to do about it
	Err     error  // what the kernel said
}

// Error says what is missing and what to do about it.
func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("%s: %s: %v; %s", e.Engine, e.Feature, e.Err, e.Remedy)
}

// Unwrap returns what the kernel said.
func (e *UnsupportedError) Unwrap() error { return e.Err }
