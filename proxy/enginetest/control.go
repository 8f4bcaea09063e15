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
	o.mirror("control")
	return o.put
}

// watcher makes connections to a Service all the time, and keeps some.
type watcher struct {
	w     *World
	to    string
	udp   bool
	pause time.Duration // between two new connections
	ended chan struct{}
	group sync.WaitGroup
	// made and asked count new connections, and requests on those and on kept ones.
	made, asked atomic.Int64
	// forgetful tells that kept connections may end.
	forgetful atomic.Bool
	phase     atomic.Value // what the test is doing, for the messages
	mu        sync.Mutex
	failures  []string
	failed    int
}

// watch begins to connect to the control Service, which must never fail: new TCP
// connections and UDP flows all the time, and one kept connection, from two
// clients in each family.
func (w *World) watch(t *testing.T) *watcher {
	t.Helper()
	o := &watcher{w: w, to: "control", ended: make(chan struct{}), udp: true, pause: 15 * time.Millisecond}
	t.Cleanup(o.end)
	for _, client := range []string{"a", "client"} {
		for _, family := range []int{4, 6} {
			o.begin(t, w.hosts[client], family)
		}
	}
	return o
}

// load connects to a Service as fast as its clients can: each makes one new
// connection after the other, with one request on each, and sends one request
// after the other on some that it keeps, in each family.
func (w *World) load(t *testing.T, to string, clients ...string) *watcher {
	t.Helper()
	o := &watcher{w: w, to: to, ended: make(chan struct{})}
	t.Cleanup(o.end)
	for _, client := range clients {
		for _, family := range []int{4, 6} {
			o.begin(t, w.hosts[client], family)
			for range 2 {
				o.keep(t, w.hosts[client], family)
			}
		}
	}
	return o
}

// keep sends requests on one connection.
func (o *watcher) keep(t *testing.T, h *host, family int) {
	t.Helper()
	to, err := o.w.destination(o.to, family)
	must(t, err)
	conn, err := h.dial("tcp", to, patience)
	must(t, err)
	o.group.Go(func() {
		defer func() { _ = conn.Close() }()
		for o.going(0) {
			began := time.Now()
			got := exchange(conn, patience)
			if o.forgetful.Load() && got.source == "" {
				return
			}
			o.note(h, "kept", to.String(), began, got)
		}
	})
}

// begin makes new connections, and asks on a kept one in between.
func (o *watcher) begin(t *testing.T, h *host, family int) {
	t.Helper()
	to, err := o.w.destination(o.to, family)
	must(t, err)
	conn, err := h.dial("tcp", to, patience)
	must(t, err)
	o.group.Go(func() {
		defer func() { _ = conn.Close() }()
		for i := 0; o.going(o.pause); i++ {
			o.made.Add(1)
			o.note(h, "tcp", to.String(), time.Now(), h.ask("tcp", to, patience))
			if i%4 == 0 {
				if o.udp {
					o.note(h, "udp", to.String(), time.Now(), h.ask("udp", to, patience))
				}
				began := time.Now()
				if got := exchange(conn, patience); !o.forgetful.Load() {
					o.note(h, "kept", to.String(), began, got)
				}
			}
		}
	})
}

// going waits, and reports whether the watcher goes on.
func (o *watcher) going(pause time.Duration) bool {
	if pause == 0 {
		select {
		case <-o.ended:
			return false
		default:
			return true
		}
	}
	select {
	case <-o.ended:
		return false
	case <-time.After(pause):
		return true
	}
}

func (o *watcher) note(h *host, what, to string, began time.Time, got outcome) {
	o.asked.Add(1)
	if got.source != "" {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failed++; len(o.failures) < 10 {
		o.failures = append(o.failures, fmt.Sprintf("%s from %s to %s, at %v: %s after %v", what, h.name, to, o.phase.Load(), got.by, time.Since(began)))
	}
}

// wait lets some more connections happen.
func (o *watcher) wait(n int64) {
	for until, end := o.made.Load()+n, time.Now().Add(20*time.Second); o.made.Load() < until && time.Now().Before(end); {
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

// stop ends watchers, fails the test if any connection failed, and says how many
// there were.
func stop(t *testing.T, watchers ...*watcher) {
	t.Helper()
	var made, asked int64
	failed := 0
	for _, o := range watchers {
		o.end()
		for _, f := range o.failures {
			t.Errorf("a connection to a Service that must not fail failed: %s", f)
		}
		made, asked, failed = made+o.made.Load(), asked+o.asked.Load(), failed+o.failed
	}
	t.Logf("%d new connections, %d requests, %d failed", made, asked, failed)
}
