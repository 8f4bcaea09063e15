package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// handover is how agents of one machine, or name servers that run alone, know of
// each other, while one takes over from another. They meet on sockets without a file, which belong to the
// network that they program, wherever their directories are.
//
// A process that has its Services in force says so to those that were there before,
// and stays connected; while it is, they program nothing. So two never program
// against each other, and if the newer one ends early the older one goes on.
type handover struct {
	part string // of the agents that succeed each other: node or dns

	mu         sync.Mutex // guards the rest
	successors int
	changed    chan struct{} // closed when successors becomes 0 or more than that
}

func newHandover(part string) *handover {
	return &handover{part: part, changed: make(chan struct{})}
}

// meetings is how many processes of a machine can know of each other.
const meetings = 4

func meeting(part string, n int) string { return fmt.Sprintf("@sluice/%s/%d", part, n) }

// inForce is what a successor says.
const inForce = '!'

// predecessors connects to the agents of a part that are there.
func predecessors(ctx context.Context, part string) []net.Conn {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var out []net.Conn
	var d net.Dialer
	for n := range meetings {
		if c, err := d.DialContext(ctx, "unix", meeting(part, n)); err == nil {
			out = append(out, c)
		}
	}
	return out
}

// hasPredecessor reports whether another agent of a part runs on this machine.
func hasPredecessor(ctx context.Context, part string) bool {
	conns := predecessors(ctx, part)
	for _, c := range conns {
		_ = c.Close()
	}
	return len(conns) > 0
}

var errMeetings = fmt.Errorf("%d others run on this machine already; stop the oldest of them", meetings)

// attend lets successors find this process, until the context ends. They find it, for
// it has its ports, while it drains after that, too: until gone ends, which nobody
// waits for.
func (h *handover) attend(ctx, gone context.Context) error {
	var l net.Listener
	var lc net.ListenConfig
	for n := 0; l == nil; n++ {
		if n == meetings {
			return fmt.Errorf("sluice %s: %w", h.part, errMeetings)
		}
		var err error
		if l, err = lc.Listen(ctx, "unix", meeting(h.part, n)); err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("hand-over: %w", err)
		}
	}
	context.AfterFunc(gone, func() { _ = l.Close() })
	failed := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				failed <- err
				return
			}
			go h.listen(gone, c.(*net.UnixConn))
		}
	}()
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return fmt.Errorf("hand-over: %w", err)
	}
}

// listen counts a successor for as long as it is there.
func (h *handover) listen(ctx context.Context, c *net.UnixConn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	defer func() { _ = c.Close() }()
	var word [1]byte
	if n, _ := c.Read(word[:]); n == 0 || word[0] != inForce || !sameUser(c) {
		return // somebody only looks
	}
	h.count(1)
	defer h.count(-1)
	_, _ = io.Copy(io.Discard, c) // until it ends
}

// sameUser reports whether the peer runs as this process's user.
func sameUser(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	same := false
	err = raw.Control(func(fd uintptr) {
		peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		same = err == nil && int(peer.Uid) == os.Geteuid()
	})
	return same && err == nil
}

func (h *handover) count(by int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.successors
	if h.successors += by; (before == 0) != (h.successors == 0) {
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

// superseded reports whether a successor is in force, and what is closed when that
// changes.
func (h *handover) superseded() (yes bool, changed <-chan struct{}) {
	if h == nil {
		return false, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.successors > 0, h.changed
}

// while calls f whenever no successor is in force; its context ends when one is.
// It returns the context's error, or f's that has another reason.
func (h *handover) while(ctx context.Context, f func(context.Context) error) error {
	for {
		yes, changed := h.superseded()
		if yes {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
				continue
			}
		}
		working, cancel := context.WithCancel(ctx)
		go func() {
			select {
			case <-changed:
				cancel()
			case <-working.Done():
			}
		}()
		err := f(working)
		over := working.Err() != nil && ctx.Err() == nil
		cancel()
		if !over {
			return err
		}
	}
}

// succeed says to those that were there before that this process is in force, and
// stays connected until the context ends.
func succeed(ctx context.Context, before []net.Conn) {
	for _, c := range before {
		_, _ = c.Write([]byte{inForce}) // one that is gone need not know
		context.AfterFunc(ctx, func() { _ = c.Close() })
	}
}
