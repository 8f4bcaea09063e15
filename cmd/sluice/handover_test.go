package main

import (
	"context"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
)

// TestHandover proves that an agent stops programming while a successor is in
// force, and goes on when that one has gone.
func TestHandover(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	node := l.MustNode("node1")
	// One that has no successor: it is asked before anybody attends.
	h := newHandover("node")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	attending := make(chan error, 1)
	go func() { attending <- node.Do(func() error { return h.attend(ctx, ctx) }) }()
	in := func(f func()) {
		t.Helper()
		if err := node.Do(func() error { f(); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for found := false; !found; time.Sleep(time.Millisecond) {
		in(func() { found = hasPredecessor(ctx, "node") })
	}
	if yes, _ := h.superseded(); yes {
		t.Fatal("superseded by somebody who only looked")
	}
	begun, ended := make(chan struct{}), make(chan struct{})
	go func() {
		_ = h.while(ctx, func(ctx context.Context) error {
			begun <- struct{}{}
			<-ctx.Done()
			ended <- struct{}{}
			return ctx.Err()
		})
	}()
	for range 2 {
		<-begun
		successor, die := context.WithCancel(ctx)
		in(func() { succeed(successor, predecessors(successor, "node")) })
		<-ended
		if yes, _ := h.superseded(); !yes {
			t.Error("not superseded by one that is in force")
		}
		die()
	}
	<-begun
	cancel()
	<-ended
	if err := <-attending; err != nil {
		t.Error(err)
	}
}
