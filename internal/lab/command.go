package lab

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"syscall"
)

// Cmd is an [exec.Cmd] whose Start, Run, Output and CombinedOutput put the
// process into a namespace. It dies when the lab is closed or this process ends.
type Cmd struct {
	*exec.Cmd
	ns *Namespace
}

// Command prepares a program to be run in the namespace; it is killed when the
// context ends.
func (n *Namespace) Command(ctx context.Context, name string, args ...string) *Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	// A process group of its own: the terminal's ^C is for the lab's process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return &Cmd{Cmd: cmd, ns: n}
}

// Start starts the program in the namespace.
func (c *Cmd) Start() error {
	// The thread that lives in the namespace is the parent, for PDEATHSIG is
	// sent when the parent's thread ends, and that one stays.
	c.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return c.ns.resident(c.Cmd.Start)
}

// Run starts the program and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the program and returns what it wrote to its standard output; the
// error of a program that failed holds what it wrote to its standard error.
func (c *Cmd) Output() ([]byte, error) {
	if c.Stdout != nil {
		return nil, errors.New("lab: Stdout is already set")
	}
	var stdout, stderr bytes.Buffer
	c.Stdout = &stdout
	if c.Stderr == nil {
		c.Stderr = &stderr
	}
	err := c.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		exit.Stderr = stderr.Bytes()
	}
	return stdout.Bytes(), err
}

// CombinedOutput runs the program and returns all that it wrote.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	if c.Stdout != nil || c.Stderr != nil {
		return nil, errors.New("lab: Stdout or Stderr is already set")
	}
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}
