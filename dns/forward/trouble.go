package forward

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// Trouble is a zone no server of which is asked.
type Trouble struct {
	Zone     string   // with its last dot
	Failures []string // of its servers, see [Forwarder.Failures]
}

// Health delivers when [Forwarder.Troubles] may have changed.
func (f *Forwarder) Health() <-chan struct{} { return f.health }

func (f *Forwarder) healthChanged() {
	select {
	case f.health <- struct{}{}:
	default:
	}
}

// Failures returns what the servers that know the name, in lower case, failed with
// last, each with its server, without those that have answered since.
func (f *Forwarder) Failures(name []byte) []string {
	s := f.table.Load().find(name)
	if s == nil {
		return nil
	}
	return s.failures()
}

// Troubles returns the zones that have servers of which none is asked, since all are
// left out.
func (f *Forwarder) Troubles() []Trouble {
	t := f.table.Load()
	var out []Trouble
	for i := range t.stubs {
		if s := &t.stubs[i]; s.dead() {
			out = append(out, Trouble{Zone: zoneText(t.zones[s.index].Name), Failures: s.failures()})
		}
	}
	return out
}

func zoneText(name string) string {
	if name == "" || name == "." {
		return "."
	}
	return name + "."
}

// dead reports whether none of the servers answered lately.
func (s *stub) dead() bool {
	for _, u := range s.servers {
		if !u.down.Load() && !u.looped.Load() {
			return false
		}
	}
	return true
}

func (s *stub) failures() []string {
	var out []string
	for _, u := range s.servers {
		switch last := u.last.Load(); {
		case u.looped.Load():
			out = append(out, fmt.Sprintf("%v: asks this server", u.Server))
		case last != nil:
			out = append(out, fmt.Sprintf("%v: %s", u.Server, failureText(*last)))
		}
	}
	return out
}

// failureText says in words why a server did not answer.
func failureText(err error) string {
	switch {
	case errors.Is(err, errSlower):
		return "others answered before it did"
	case errors.Is(err, ErrUnanswered), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	if number, ok := errors.AsType[syscall.Errno](err); ok {
		return number.Error() // without the port that was asked from, which says nothing
	}
	return err.Error()
}
