package enginetest

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluicenet/sluice/model"
)

// control are the objects of a Service that no case and no walk touches, for a
// proxy of that name.
func (w *World) control(proxyName string) map[model.Key]any {
	o := &objects{w: w, put: map[model.Key]any{}}
	words := []string{"vip=control", "nodeport=32100"}
	if proxyName != "" {
		words = append(words, "proxy-name="+proxyName)
	}
	err := o.service("control", words)
	if err == nil {
		err = o.endpoints("control", nil, []string{"c", "d"})
	}
	if err != nil {
		panic(err) // the words above are wrong
	}
	return o.put
}

// watcher makes connections to a Service all the time, and keeps some.
type watcher struct {
	w     *World
	to    string
	udp   bool
	ended chan struct{}
	group sync.WaitGroup
	sent  atomic.Int64
	// forgetful tells that kept connections may end.
	forgetful atomic.Bool
	phase     atomic.Value // what the test is doing, for the messages
	mu        sync.Mutex
	failures  []string
}

// watchControl watches the control Service.
func (w *World) watchControl(t *testing.T, _ *driver) *watcher {
	t.Helper()
	return w.watch(t, "control", "a", "client")
}

// watch begins to connect to a Service that must never fail: new TCP connections
// and UDP flows all the time, one kept connection a family, from each client.
func (w *World) watch(t *testing.T, to string, clients ...string) *watcher {
	t.Helper()
	return w.begin(t, &watcher{w: w, to: to, ended: make(chan struct{}), udp: true}, clients)
}

// watchTCP is watch without UDP, for a Service whose endpoints change: a UDP flow
// ends with its endpoint.
func (w *World) watchTCP(t *testing.T, to string, clients ...string) *watcher {
	t.Helper()
	return w.begin(t, &watcher{w: w, to: to, ended: make(chan struct{})}, clients)
}

func (w *World) begin(t *testing.T, o *watcher, clients []string) *watcher {
	t.Helper()
	for _, client := range clients {
		for _, family := range []int{4, 6} {
			o.begin(t, w.hosts[client], family)
		}
	}
	t.Cleanup(func() { o.end() })
	return o
}

func (o *watcher) begin(t *testing.T, h *host, family int) {
	t.Helper()
	to, err := o.w.destination(o.to, family)
	must(t, err)
	conn, err := h.dial("tcp", to, patience)
	must(t, err)
	o.group.Go(func() {
		defer func() { _ = conn.Close() }()
		for i := 0; ; i++ {
			select {
			case <-o.ended:
				return
			case <-time.After(3 * time.Millisecond):
			}
			o.note(h, "tcp", to.String(), h.ask("tcp", to, patience))
			if i%4 == 0 {
				if o.udp {
					o.note(h, "udp", to.String(), h.ask("udp", to, patience))
				}
				if got := exchange(conn, patience); !o.forgetful.Load() {
					o.note(h, "kept", to.String(), got)
				}
			}
		}
	})
}

func (o *watcher) note(h *host, what, to string, got outcome) {
	o.sent.Add(1)
	if got.source != "" {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.failures) < 10 {
		o.failures = append(o.failures, fmt.Sprintf("%s from %s to %s, at %v: %s", what, h.name, to, o.phase.Load(), got.by))
	}
}

// wait lets some more connections happen.
func (o *watcher) wait(n int64) {
	for until, end := o.sent.Load()+n, time.Now().Add(20*time.Second); o.sent.Load() < until && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

func (o *watcher) end() {
	select {
	case <-o.ended:
	default:
		close(o.ended)
	}
	o.group.Wait()
}

// stop ends it and fails the test if any connection failed.
func (o *watcher) stop(t *testing.T) {
	t.Helper()
	o.end()
	for _, f := range o.failures {
		t.Errorf("a connection to a Service that nothing touches failed: %s", f)
	}
	t.Logf("%d connections to a Service that nothing touches", o.sent.Load())
}
