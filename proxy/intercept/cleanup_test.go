package intercept

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRetire proves that what a process leaves is removed when no process intercepts
// any more, and not before.
func TestRetire(t *testing.T) {
	w := newWorld(t)
	w.kubeProxy("nftables")
	retire := func(ctx context.Context) (found bool) {
		t.Helper()
		err := w.node.Do(func() (err error) {
			found, err = Retire(ctx, 2*lookEvery)
			return err
		})
		if err != nil {
			t.Error(err)
		}
		return found
	}
	if retire(t.Context()) {
		t.Error("something was found on a node that no process has been on")
	}
	p := w.start(w.config())
	ctx, cancel := context.WithTimeout(t.Context(), 4*lookEvery)
	defer cancel()
	if retire(ctx) {
		t.Error("the rules of a living process are removed")
	}
	w.check(byNode, w.targets()...)
	retired := make(chan bool)
	go func() { retired <- retire(t.Context()) }()
	time.Sleep(3 * lookEvery)
	p.signal(syscall.SIGTERM)
	if err := p.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, p.log)
	}
	// Another server is no process that intercepts.
	other, err := w.node.ListenPacket("udp", "0.0.0.0:53")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if !<-retired {
		t.Error("nothing was found")
	}
	if tables := w.nft("list", "tables"); strings.Contains(tables, tableName) {
		t.Errorf("what is left:\n%s", tables)
	}
	for _, f := range both {
		if !w.routeLost(f) {
			t.Errorf("the route of %v is left", f)
		}
	}
	w.check(byRemote, w.services()...)
}
