// Package gateways runs the Envoys of Gateways and Ingresses where there is no
// Kubernetes to run them: each in a process of its own that outlives the one
// that started it, so that a restart, or a crash, of sluice cuts no connection.
package gateways

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/route"
)

// check is how often a gateway process that should run is looked after.
const check = 2 * time.Second

// Standalone is a [route.Publisher] that hands all changes on, and sees that
// for every gateway with a listener there is a process.
type Standalone struct {
	next    route.Publisher
	dir     string
	command func(group route.Group) []string
	log     *slog.Logger

	mu        sync.Mutex // guards listeners
	listeners map[route.Group]map[string]bool
	wake      chan struct{}
}

// NewStandalone returns a publisher in front of next. dir holds a lock file
// for each gateway; command returns the arguments that make this program the
// gateway of a group, which must call [Hold] first.
func NewStandalone(next route.Publisher, dir string, command func(route.Group) []string, log *slog.Logger) *Standalone {
	return &Standalone{
		next: next, dir: dir, command: command, log: log,
		listeners: map[route.Group]map[string]bool{}, wake: make(chan struct{}, 1),
	}
}

// Publish implements [route.Publisher].
func (s *Standalone) Publish(changes []route.Change) {
	s.next.Publish(changes)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		if c.Ref.Kind != route.KindListener || !strings.HasPrefix(string(c.Group), "gateway/") {
			continue
		}
		of := s.listeners[c.Group]
		if of == nil {
			of = map[string]bool{}
			s.listeners[c.Group] = of
		}
		if c.Resource != nil {
			of[c.Ref.ID] = true
		} else {
			delete(of, c.Ref.ID)
		}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// Run starts, watches and ends the gateways' processes until the context ends.
// Those that run then are left running: they hold what they were told last,
// and the next Run finds them. [Stop] ends them.
func (s *Standalone) Run(ctx context.Context) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("gateways: %w", err)
	}
	tick := time.NewTicker(check)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wake:
		case <-tick.C:
		}
		for group, wanted := range s.wanted() {
			if err := s.see(group, wanted); err != nil {
				s.log.Error("gateway", "group", group, "error", err)
			}
		}
	}
}

func (s *Standalone) wanted() map[route.Group]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[route.Group]bool{}
	for g, of := range s.listeners {
		out[g] = len(of) > 0
	}
	return out
}

// see makes the group's process be there, or not.
func (s *Standalone) see(group route.Group, wanted bool) error {
	path := lockPath(s.dir, group)
	pid, err := holder(path)
	switch {
	case err != nil:
		return err
	case wanted && pid == 0:
		return s.start(group)
	case !wanted && pid != 0:
		s.log.Info("gateway ends", "group", group, "pid", pid)
		return end(pid)
	}
	return nil
}

func (s *Standalone) start(group route.Group) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, s.command(group)...)
	// The file itself and not a pipe, so that the process can write when we
	// are gone.
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.log.Info("gateway starts", "group", group, "pid", cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // reap it
	return s.holds(cmd.Process.Pid, group)
}

// holds waits until the process has its lock, so that it is not started twice.
func (s *Standalone) holds(pid int, group route.Group) error {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if held, err := holder(lockPath(s.dir, group)); err != nil || held != 0 {
			return err
		}
		if syscall.Kill(pid, 0) != nil {
			return fmt.Errorf("process %d ended at once", pid)
		}
	}
	return fmt.Errorf("process %d does not take its lock", pid)
}

// HeldError says that another process is the group's gateway already.
type HeldError struct {
	Group route.Group
	PID   int
}

// Error implements error.
func (e *HeldError) Error() string {
	return fmt.Sprintf("process %d is %s already", e.PID, e.Group)
}

// Hold makes this process the gateway of the group until it ends. If there is
// one already the error is a [*HeldError].
func Hold(dir string, group route.Group) error {
	path := lockPath(dir, group)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// The descriptor is never closed: the lock lasts as long as the process.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		pid, _ := holder(path)
		return &HeldError{group, pid}
	} else if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := unix.Ftruncate(fd, 0); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := unix.Pwrite(fd, []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Stop ends all gateways of the directory, waits until they are gone and removes
// what they left there.
func Stop(ctx context.Context, dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.lock"))
	if err != nil {
		return err
	}
	pids := map[int]bool{}
	for _, path := range paths {
		pid, err := holder(path)
		if err != nil {
			return err
		}
		if pid == 0 {
			continue
		}
		if err := end(pid); err != nil {
			return err
		}
		pids[pid] = true
	}
	for len(pids) > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
		maps.DeleteFunc(pids, func(pid int, _ bool) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	}
	sockets, err := filepath.Glob(filepath.Join(dir, "*.sock"))
	for _, path := range append(paths, sockets...) {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

func end(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("ending process %d: %w", pid, err)
	}
	return nil
}

// holder returns the process that holds a lock, 0 if none does.
func holder(path string) (int, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return 0, err // free, and ours until the file is closed
	}
	var b [20]byte
	n, _ := f.Read(b[:])
	pid, err := strconv.Atoi(string(b[:n]))
	if err != nil {
		return 0, nil // taken, but not yet written: asked again soon
	}
	return pid, nil
}

func lockPath(dir string, group route.Group) string {
	name := strings.ReplaceAll(strings.TrimPrefix(string(group), "gateway/"), "/", "_")
	return filepath.Join(dir, name+".lock")
}
