package enginetest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
)

// process is a child in the node's namespace.
type process struct {
	cmd   *lab.Cmd
	ready chan struct{} // closed when it has programmed everything, or ended
	ended chan struct{}
	said  []string
}

// child starts the test's binary again in the node's namespace.
func (w *World) child(t *testing.T, r role) *process {
	t.Helper()
	r.Hosts = map[string][2]netip.Addr{}
	for name, h := range w.hosts {
		r.Hosts[name] = h.addrs
	}
	text, err := json.Marshal(r)
	must(t, err)
	exe, err := os.Executable()
	must(t, err)
	p := &process{cmd: w.Node.Command(context.WithoutCancel(t.Context()), exe), ready: make(chan struct{}), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	out, err := p.cmd.StdoutPipe()
	must(t, err)
	p.cmd.Stderr = p.cmd.Stdout
	must(t, p.cmd.Start())
	t.Cleanup(func() { p.kill() })
	go func() {
		defer close(p.ended)
		ready := false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if lines.Text() == "ready" && !ready {
				ready = true
				close(p.ready)
				continue
			}
			p.said = append(p.said, lines.Text())
		}
		_ = p.cmd.Wait()
		if !ready {
			close(p.ready)
		}
	}()
	return p
}

// kill ends the process by SIGKILL and returns what it said.
func (p *process) kill() string {
	_ = p.cmd.Process.Kill()
	<-p.ended
	return strings.Join(p.said, "\n")
}

// Kill kills the process that drives the engine at random moments, so many times,
// while endpoints change and clients connect as fast as they can: no connection
// fails, new or kept.
func Kill(t *testing.T, engine Engine, times int) {
	w := NewWorld(t)
	start := time.Now()
	p := w.child(t, role{Engine: engine.Name})
	<-p.ready
	startup := time.Since(start)
	watches := w.loadAll(t)
	start = time.Now()
	for i := range times {
		if i%4 == 3 {
			<-p.ready
		}
		time.Sleep(rand.N(2 * startup))
		if said := p.kill(); said != "" {
			t.Errorf("the process said: %s", said)
		}
		for _, o := range watches {
			o.phase.Store(fmt.Sprintf("kill %d", i))
		}
		p = w.child(t, role{Engine: engine.Name})
	}
	<-p.ready
	for _, o := range watches {
		o.wait(20)
	}
	stop(t, watches...)
	t.Logf("killed %d times in %v, within %v of a start that takes %v", times, time.Since(start).Round(time.Second), 2*startup, startup)
}

// loadAll loads the frontends of the Service web, of which an engine's change
// must not cost a connection: a UDP flow would end with its endpoint.
func (w *World) loadAll(t *testing.T) []*watcher {
	t.Helper()
	return []*watcher{w.load(t, "vip", "a", "node", "client"), w.load(t, "nodeport", "client"), w.load(t, "lb", "stranger")}
}
