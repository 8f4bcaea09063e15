package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// programs are the paths of one variant's programs for one family.
type programs struct{ restore, save, tables string }

// kernel runs the programs; tests put faults in between.
type kernel interface {
	// restore gives text to iptables-restore, which leaves alone what it does
	// not name.
	restore(ctx context.Context, f proxy.Family, text []byte) error
	// save returns what iptables-save prints of a table, with counts or without.
	save(ctx context.Context, f proxy.Family, t table, counts bool) ([]byte, error)
	// list returns what "iptables -S" prints of a chain.
	list(ctx context.Context, f proxy.Family, r ref) ([]byte, error)
}

// commands is the kernel by way of a variant's programs.
type commands struct {
	netns    int // negative: the process's
	legacy   bool
	programs map[proxy.Family]programs
	// lock has one program of the legacy variant wait for the other: versions
	// before 1.8.8 ask for the lock that they share only once a second.
	lock sync.Mutex
	// intercept stands around what changes something; nil: nothing does.
	intercept func(do func() error) error
}

// lockSeconds is how long iptables waits for its lock.
const lockSeconds = 2

func (c *commands) restore(ctx context.Context, f proxy.Family, text []byte) error {
	do := func() error {
		return c.change(ctx, text, c.programs[f].restore, "--noflush", "--wait", strconv.Itoa(lockSeconds))
	}
	if c.intercept != nil {
		return c.intercept(do)
	}
	return do()
}

func (c *commands) save(ctx context.Context, f proxy.Family, t table, counts bool) ([]byte, error) {
	args := []string{"-t", t.String()}
	if counts {
		args = append(args, "-c")
	}
	return c.run(ctx, nil, c.programs[f].save, args...)
}

func (c *commands) list(ctx context.Context, f proxy.Family, r ref) ([]byte, error) {
	return c.run(ctx, nil, c.programs[f].tables, "--wait", strconv.Itoa(lockSeconds), "-t", r.table.String(), "-S", r.name)
}

// change is run for a program that takes the lock.
func (c *commands) change(ctx context.Context, in []byte, program string, args ...string) error {
	if c.legacy {
		c.lock.Lock()
		defer c.lock.Unlock()
	}
	_, err := c.run(ctx, in, program, args...)
	return err
}

// run runs a program in the network namespace.
func (c *commands) run(ctx context.Context, in []byte, program string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &stdout, &stderr
	// A process that is being born is in its parent thread's namespace.
	err := nfnl.InNamespace(c.netns, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err == nil {
		return stdout.Bytes(), nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return nil, failure(program, args, strings.TrimSpace(stderr.String()), err)
}

// CommandError is the failure of a program.
type CommandError struct {
	Command string
	Said    string // what it wrote to its standard error, shortened
	Err     error
}

// Error says what failed and why.
func (e *CommandError) Error() string {
	if e.Said == "" {
		return e.Command + ": " + e.Err.Error()
	}
	return e.Command + ": " + e.Said + " (" + e.Err.Error() + ")"
}

// Unwrap returns how the program ended.
func (e *CommandError) Unwrap() error { return e.Err }

// LockError indicates that another program has held iptables' lock for too long.
type LockError struct {
	Path   string // of the lock
	Holder string // the program and its number, where that can be told
	Err    error
}

// Error names the lock and who holds it.
func (e *LockError) Error() string {
	holder := "another program"
	if e.Holder != "" {
		holder = e.Holder
	}
	return fmt.Sprintf("iptables' lock %s is held by %s: %v", e.Path, holder, e.Err)
}

// Unwrap returns what the program said.
func (e *LockError) Unwrap() error { return e.Err }

// resourceProblem is the exit code of iptables where it did not get its lock.
const resourceProblem = 4

func failure(program string, args []string, said string, err error) error {
	const limit = 400
	if len(said) > limit {
		said = said[:limit] + "…"
	}
	said = strings.Join(strings.Fields(said), " ")
	e := &CommandError{Command: program + " " + strings.Join(args, " "), Said: said, Err: err}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == resourceProblem && strings.Contains(said, "lock") {
		path := lockPath()
		return &LockError{Path: path, Holder: lockHolder(path), Err: e}
	}
	return e
}

// lockPath is the file that the legacy variant locks.
func lockPath() string {
	if p := os.Getenv("XTABLES_LOCKFILE"); p != "" {
		return p
	}
	return "/run/xtables.lock"
}

// lockHolder says who has locked a file; empty: that cannot be told.
func lockHolder(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return ""
	}
	inode := ":" + strconv.FormatUint(st.Ino, 10)
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF
		f := strings.Fields(line)
		if len(f) < 6 || f[1] == "->" || !strings.HasSuffix(f[5], inode) {
			continue
		}
		name, err := os.ReadFile("/proc/" + f[4] + "/comm")
		if err != nil {
			return "process " + f[4]
		}
		return strings.TrimSpace(string(name)) + " (process " + f[4] + ")"
	}
	return ""
}

// lockAttempts is how often a step waits for the lock, before somebody is told.
const lockAttempts = 2

// restore is kernel.restore that has patience with whoever holds the lock.
func (e *Engine) restore(ctx context.Context, f proxy.Family, text []byte) error {
	for attempt := 1; ; attempt++ {
		err := e.kernel.restore(ctx, f, text)
		if err == nil {
			e.canary.wrote(text)
		}
		var lock *LockError
		if err == nil || !errors.As(err, &lock) || attempt == lockAttempts || ctx.Err() != nil {
			return err
		}
		e.log.Warn("waiting for iptables' lock", "lock", lock.Path, "holder", lock.Holder, "waited", time.Duration(attempt)*lockSeconds*time.Second)
	}
}
