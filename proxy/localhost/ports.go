package localhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/proxy"
)

// part is who speaks on the status board.
const part = "localhost"

// listeners are the open ports. They belong to Run's goroutine.
type listeners struct {
	*Relay
	ctx      context.Context
	open     map[port]*listener
	failed   map[port]failure
	failures map[model.Name]map[port]string // by Service, of those that are told
	work     sync.WaitGroup
	tcp, udp limit
}

// failure is why a port is not open. A family that the machine has not is no
// fault of the Service.
type failure struct {
	service model.Name
	err     error
}

// listener is one open port.
type listener struct {
	picker picker
	// close ends listening, and UDP flows. TCP connections go on, as they do
	// where the kernel translates.
	close func()
	// changed tells UDP flows that the target did.
	changed func(*target)
}

// limit bounds how many there are of something.
type limit chan struct{}

func (l limit) try() bool {
	select {
	case l <- struct{}{}:
		return true
	default:
		return false
	}
}

func (l limit) release() { <-l }

// Run keeps the ports open until the context ends, and returns its error. What
// is relayed ends with it.
func (r *Relay) Run(ctx context.Context) error {
	l := &listeners{
		Relay: r, ctx: ctx, open: map[port]*listener{}, failed: map[port]failure{}, failures: map[model.Name]map[port]string{},
		tcp: make(limit, r.Connections), udp: make(limit, r.Sessions),
	}
	defer l.work.Wait()
	defer func() {
		for _, p := range l.open {
			p.close()
		}
	}()
	retry := time.NewTicker(r.Retry)
	defer retry.Stop()
	for {
		var more []port
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.wake:
		case <-retry.C:
			for p := range l.failed {
				more = append(more, p)
			}
		}
		l.step(more)
	}
}

// step does what the newest plan wants.
func (l *listeners) step(more []port) {
	wanted, node := l.take(more)
	for _, p := range sorted(wanted) {
		t, is := wanted[p], l.open[p]
		var err error
		switch {
		case t == nil && is != nil:
			is.close()
			delete(l.open, p)
			l.metrics.listeners.WithLabelValues(familyLabel(p.family)).Dec()
		case t != nil && is != nil:
			is.picker.set(t)
			is.changed(t)
		case t != nil:
			err = l.listen(p, t)
		}
		l.report(p, t, node, err)
	}
}

func (l *listeners) listen(p port, t *target) error {
	is := &listener{}
	is.picker.set(t)
	var err error
	if p.protocol == proxy.UDP {
		err = l.listenUDP(p, is)
	} else {
		err = l.listenTCP(p, is)
	}
	if err != nil {
		l.metrics.failures.WithLabelValues(familyLabel(p.family)).Inc()
		return err
	}
	l.open[p] = is
	l.metrics.listeners.WithLabelValues(familyLabel(p.family)).Inc()
	return nil
}

// report tells the owner of a Service of a port that is taken.
func (l *listeners) report(p port, t *target, node string, err error) {
	before, had := l.failed[p]
	if err == nil {
		delete(l.failed, p)
	} else {
		l.failed[p] = failure{t.service, err}
		if !had || before.service != t.service || before.err.Error() != err.Error() {
			l.Log.Error("cannot serve a NodePort on loopback", "service", t.service, "port", p.address(), "protocol", p.protocol, "error", err)
		}
	}
	if had && (err == nil || before.service != t.service) {
		delete(l.failures[before.service], p)
		l.tell(before.service, node)
	}
	if err != nil && !missing(err) {
		if l.failures[t.service] == nil {
			l.failures[t.service] = map[port]string{}
		}
		l.failures[t.service][p] = err.Error()
		l.tell(t.service, node)
	}
}

// missing reports whether the machine has no such address at all.
func missing(err error) bool {
	return errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)
}

func (l *listeners) tell(service model.Name, node string) {
	key := model.Key{Kind: model.KindService, Namespace: service.Namespace, Name: service.Name}
	message := ""
	ports := map[port]*target{}
	for p := range l.failures[service] {
		ports[p] = nil
	}
	for _, p := range sorted(ports) {
		if message != "" {
			message += "; "
		}
		message += fmt.Sprintf("node %s cannot serve the NodePort on loopback: %s", node, l.failures[service][p])
	}
	if message == "" {
		delete(l.failures, service)
	}
	switch {
	case l.Status == nil:
	case message == "":
		l.Status.Clear(part, key)
	default:
		l.Status.Set(part, key, status.Report{Conditions: []metav1.Condition{{
			Type: "LocalhostNodePortOpen", Status: metav1.ConditionFalse, Reason: "PortInUse", Message: message,
		}}})
	}
}

// closer closes several once.
func closer(all ...io.Closer) func() {
	var once sync.Once
	return func() {
		once.Do(func() {
			for _, c := range all {
				_ = c.Close()
			}
		})
	}
}
