package enginetest

import (
	"context"
	"log/slog"

	"github.com/sluicenet/sluice/proxy"
)

// Engine is an engine under test.
type Engine struct {
	// Name is that of the subtests, such as "nftables" or "iptables-legacy".
	Name string
	// New makes the engine for a network namespace.
	New func(Options) (proxy.Engine, error)
	// Damage is what somebody else may do to the engine's rules while the
	// Services of [Drift] are programmed.
	Damage []Damage
	// Dump is a command that prints all that the engine programmed in a
	// namespace, without what changes by itself: counters, and clients that it
	// remembers.
	Dump func(context.Context, *World) (string, error)
	// Mark is in every dump of its rules, and the same for engines each of which
	// removes the other's rules when it has made its own.
	Mark string
	// Lock keeps the engine from programming until it is taken back; nil: nobody
	// can.
	Lock func(context.Context, *World) (unlock func(), err error)
	// ForgetsConnections tells that kept connections do not survive the
	// engine's cleanup: the kernel keeps them in the engine's own part of it.
	ForgetsConnections bool
}

// Options of an engine under test.
type Options struct {
	// NetNS is a descriptor of the network namespace; 0: the process's.
	NetNS int
	// Intercept, if not nil, stands between the engine and the kernel, and may
	// fail what the engine does before or after it is done.
	Intercept func(do func() error) error
	Log       *slog.Logger
}

// Damage is something that somebody else does to an engine's rules.
type Damage struct {
	Name string
	// Command is run on the node; alternatively Do is called.
	Command []string
	Do      func(context.Context, *World) error
}
