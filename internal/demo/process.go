package demo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
)

// process is a sluice that runs in a namespace. What it writes goes into a file,
// for a gateway that it started goes on writing when it is gone.
type process struct {
	name  string // such as "sluice up on node1"
	ns    *lab.Namespace
	argv  []string
	user  *syscall.Credential // nil: root
	log   string
	cmd   *lab.Cmd
	ended chan struct{}

	mu       sync.Mutex // guards expected
	expected bool       // its end is our doing
}

// start runs a program in a namespace. Its end, unless by kill, ends the demo.
func (w *world) start(ns *lab.Namespace, name string, argv ...string) (*process, error) {
	return w.startAs(nil, ns, name, argv...)
}

// startAs runs it as another user.
func (w *world) startAs(user *syscall.Credential, ns *lab.Namespace, name string, argv ...string) (*process, error) {
	p := &process{name: name, ns: ns, argv: argv, user: user, log: filepath.Join(w.dir, strings.ReplaceAll(name, " ", "-")+".log")}
	w.procs = append(w.procs, p)
	if w.follow != nil {
		w.follow.add(p)
	}
	return p, w.again(p)
}

// again starts a process that was killed once more.
func (w *world) again(p *process) error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := p.ns.Command(context.Background(), p.argv[0], p.argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr.Credential = p.user
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	ended := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.ended, p.expected = cmd, ended, false
	p.mu.Unlock()
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		expected := p.expected
		p.mu.Unlock()
		close(ended)
		if !expected {
			w.fail(fmt.Errorf("%s ended: %w", p.name, orEnd(err)))
		}
	}()
	return nil
}

func orEnd(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// kill ends the process as a crash would, and waits until it is gone.
func (p *process) kill() error {
	p.mu.Lock()
	p.expected = true
	cmd, ended := p.cmd, p.ended
	p.mu.Unlock()
	if err := cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-ended
	return nil
}

// tail is the end of what the process wrote.
func (p *process) tail(lines int) string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// follower writes the logs of all processes out as they grow.
type follower struct {
	out  io.Writer
	stop chan struct{}
	done chan struct{}

	mu   sync.Mutex // guards logs
	logs []*followed
}

type followed struct {
	p      *process
	offset int64
	rest   []byte // a line that is not complete
}

func newFollower(out io.Writer) *follower {
	f := &follower{out: out, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		for {
			select {
			case <-f.stop:
				f.read()
				return
			case <-time.After(50 * time.Millisecond):
				f.read()
			}
		}
	}()
	return f
}

func (f *follower) add(p *process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logs = append(f.logs, &followed{p: p})
}

func (f *follower) read() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range f.logs {
		file, err := os.Open(l.p.log)
		if err != nil {
			continue // nothing was written yet
		}
		b, _ := io.ReadAll(io.NewSectionReader(file, l.offset, 1<<20))
		_ = file.Close()
		l.offset += int64(len(b))
		l.rest = append(l.rest, b...)
		for {
			line, rest, complete := bytes.Cut(l.rest, []byte("\n"))
			if !complete {
				break
			}
			_, _ = fmt.Fprintf(f.out, "    [%s] %s\n", l.p.name, line)
			l.rest = rest
		}
	}
}

func (f *follower) close() {
	close(f.stop)
	<-f.done
}
