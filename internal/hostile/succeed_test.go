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

// TestSucceed replaces a name server that runs alone by another one, as an upgrade
// does: both share the ports for a moment, and no query is lost.
func TestSucceed(t *testing.T) {
	w := newWorld(t)
	for name, text := range w.base(t) {
		w.write(t, name, text)
	}
	serve := func() *lab.Cmd {
		cmd := w.node.Command(t.Context(), w.binary, "dns", "--manifests", w.dir, "--node-name", w.node.Name(),
			"--state-dir", filepath.Join(w.state, "state"), "--socket", w.socket(), "--metrics", "127.0.0.1:10249",
			"--dns-listen", w.dns().String(), "--dns-upstreams", "127.0.0.1:9", "--dns-intercept-mode", "off")
		cmd.Stdout, cmd.Stderr = w.log, w.log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := w.lookup(ctx, baseName)
		return err
	}
	old := serve()
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
		runs := strings.Count(w.log.String(), "sluice runs")
		successor := serve()
		until(t, "a successor runs", func() error {
			if strings.Count(w.log.String(), "sluice runs") == runs {
				return errors.New("it says nothing")
			}
			return nil
		})
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
