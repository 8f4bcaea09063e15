package hostile

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
)

// serveDNS starts a name server that runs alone.
func (w *world) serveDNS(t *testing.T, upstream string) *lab.Cmd {
	t.Helper()
	cmd := w.node.Command(t.Context(), w.binary, "dns", "--manifests", w.dir, "--node-name", w.node.Name(),
		"--state-dir", filepath.Join(w.state, "state"), "--socket", w.socket(), "--metrics", "127.0.0.1:10249",
		"--dns-listen", w.dns().String(), "--dns-upstreams", upstream, "--dns-intercept-mode", "off")
	cmd.Stdout, cmd.Stderr = w.log, w.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// runs returns what is an error until one more process runs than now.
func (w *world) runs() func() error {
	before := strings.Count(w.log.String(), "sluice runs")
	return func() error {
		if strings.Count(w.log.String(), "sluice runs") == before {
			return errors.New("it says nothing")
		}
		return nil
	}
}

// TestSucceed replaces a name server that runs alone by another one, as an upgrade
// does: both share the ports for a moment, and no query is lost.
func TestSucceed(t *testing.T) {
	w := newWorld(t)
	for name, text := range w.base(t) {
		w.write(t, name, text)
	}
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := w.lookup(ctx, baseName)
		return err
	}
	old := w.serveDNS(t, "127.0.0.1:9")
	until(t, "the first one answers", ask)
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	var asked atomic.Int64
	for range 8 {
		asking.Go(func() {
			for ctx.Err() == nil {
				if err := ask(); err != nil {
					t.Error(err)
					return
				}
				asked.Add(1)
			}
		})
	}
	for range 3 {
		runs := w.runs()
		successor := w.serveDNS(t, "127.0.0.1:9")
		until(t, "a successor runs", runs)
		time.Sleep(50 * time.Millisecond) // both answer
		if err := old.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := old.Wait(); err != nil {
			t.Errorf("the first one ended: %v\n%s", err, w.log)
		}
		old = successor
	}
	stop()
	asking.Wait()
	if _, err := w.problems(); err != nil {
		t.Errorf("the last one's socket: %v", err)
	}
	t.Logf("%d queries", asked.Load())
}

// TestSucceedDraining starts a name server while one that ends waits for an upstream
// still, and has the ports.
func TestSucceedDraining(t *testing.T) {
	w := newWorld(t)
	for name, text := range w.base(t) {
		w.write(t, name, text)
	}
	silent, err := w.node.ListenPacket("udp", "127.0.0.1:5300")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	runs := w.runs()
	old := w.serveDNS(t, "127.0.0.1:5300")
	until(t, "the first one runs", runs)
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() { _, _ = w.lookup(t.Context(), "silent.example") })
	b := make([]byte, 512)
	for n := 0; !strings.Contains(string(b[:n]), "silent"); {
		if n, _, err = silent.ReadFrom(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	runs = w.runs()
	successor := w.serveDNS(t, "127.0.0.1:5300")
	until(t, "the successor runs", runs)
	until(t, "the successor answers", func() error { _, err := w.lookup(t.Context(), baseName); return err })
	if err := old.Wait(); err != nil {
		t.Errorf("the first one ended: %v\n%s", err, w.log)
	}
	if _, err := w.lookup(t.Context(), baseName); err != nil {
		t.Error(err)
	}
	if err := successor.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := successor.Wait(); err != nil {
		t.Errorf("the successor ended: %v\n%s", err, w.log)
	}
}
