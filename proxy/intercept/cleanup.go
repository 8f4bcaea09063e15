package intercept

import (
	"context"
	"errors"
	"time"

	"github.com/sluicenet/sluice/proxy"
)

// Cleanup removes all that any process has made.
func Cleanup() error {
	t, err := openTable()
	if err != nil {
		return err
	}
	defer t.close()
	return errors.Join(t.remove(), deleteRoute(proxy.IPv4), deleteRoute(proxy.IPv6))
}

// lookEvery is how often [Retire] looks for others.
const lookEvery = time.Second

// Retire is [Cleanup] by a server that does not intercept, when no other process has
// done so for a time: what earlier ones left leads to endpoints that nobody keeps
// current any more. The time has to be longer than a process that crashes waits for its
// next start, because until then Pods need what it left. It reports whether there was
// anything.
func Retire(ctx context.Context, after time.Duration) (found bool, err error) {
	t, err := openTable()
	if err != nil {
		return false, err
	}
	defer t.close()
	for _, f := range both {
		there, err := t.exists(ctx, f)
		if err != nil {
			return false, unsupported(err)
		}
		found = found || there
	}
	if !found {
		return false, nil
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for used := time.Now(); time.Since(used) < after; {
		if inUse() {
			used = time.Now()
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return false, nil
		}
	}
	return true, Cleanup()
}

// inUse reports whether any process has a seat.
func inUse() bool {
	for _, f := range both {
		for seat := range seats {
			if taken(f, seat) {
				return true
			}
		}
	}
	return false
}
