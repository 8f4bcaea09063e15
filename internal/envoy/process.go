package envoy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Options say how an Envoy is run.
type Options struct {
	// Path is the binary; empty: what [Find] finds.
	Path string
	// Bootstrap is Envoy's bootstrap in YAML or JSON, up to 100 kB.
	Bootstrap []byte
	// Admin is where the bootstrap puts the administration interface: the
	// path of a Unix socket or host:port. A Unix socket can be reached from
	// other network namespaces.
	Admin string
	// Concurrency is the number of worker threads; 0: GOMAXPROCS.
	Concurrency int
	// DrainTime is how long connections of a removed listener or filter
	// chain may go on, rounded to seconds; 0: Envoy's 600 s.
	DrainTime time.Duration
	// StopTimeout is how long open connections may go on when the process is
	// to end; 0: they are cut at once.
	StopTimeout time.Duration
	// Logger takes Envoy's own log; nil: slog.Default().
	Logger *slog.Logger
	// Within, if set, calls its argument on an OS thread that is in the
	// network namespace where Envoy should run, and returns when it
	// returned. The argument lasts as long as the Envoy that it starts.
	Within func(func() error) error
	// Credential is the user to run as; nil: this process's. That user must
	// be allowed to execute the binary, but need not see the folders that it
	// is in. The administration interface's socket becomes the user's.
	Credential *syscall.Credential
}

// limits of starting again after an exit.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 10 * time.Second
	// stable is how long an Envoy must have run for its exit to be taken as
	// a first one.
	stable = 30 * time.Second
	// killAfter is how long Envoy may take to exit after SIGTERM.
	killAfter = 5 * time.Second
)

// ExitError says that Envoy exited though it should not have.
type ExitError struct {
	Err       error  // how: of package os/exec
	LastWords string // the last of its log
}

// Error implements error.
func (e *ExitError) Error() string {
	if e.LastWords == "" {
		return fmt.Sprintf("Envoy exited: %v", e.Err)
	}
	return fmt.Sprintf("Envoy exited: %v: %s", e.Err, e.LastWords)
}

// Unwrap returns how it exited.
func (e *ExitError) Unwrap() error { return e.Err }

// Process is an Envoy that is kept running. [Process.Run] does the work.
type Process struct {
	opt   Options
	log   *slog.Logger
	admin *Admin

	mu       sync.Mutex
	pid      int           // 0: none at the moment
	exits    int           // since Run
	lastExit error         // of the last one
	changed  chan struct{} // closed and replaced when any of these change
}

// New returns an Envoy that is not yet running. If there is no binary the
// error is a [*NotFoundError].
func New(opt Options) (*Process, error) {
	path, err := Find(opt.Path)
	if err != nil {
		return nil, err
	}
	opt.Path = path
	if opt.Concurrency == 0 {
		opt.Concurrency = runtime.GOMAXPROCS(0)
	}
	log := opt.Logger
	if log == nil {
		log = slog.Default()
	}
	return &Process{opt: opt, log: log, admin: NewAdmin(opt.Admin), changed: make(chan struct{})}, nil
}

// Admin returns the client of the administration interface.
func (p *Process) Admin() *Admin { return p.admin }

// PID returns the process id of the running Envoy, 0 if none runs just now.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Run starts Envoy, starts it again with growing delays whenever it exits, and
// ends it when ctx is done: it is told to drain, and once its connections are
// closed or StopTimeout has passed it gets SIGTERM, at last SIGKILL. Run
// returns when Envoy is gone; nil, unless Envoy could not be started at all
// (not found, no such user, no such namespace). Call it once.
func (p *Process) Run(ctx context.Context) error {
	backoff := minBackoff
	for {
		started := time.Now()
		err := p.runOnce(ctx)
		var exit *ExitError
		switch {
		case ctx.Err() != nil:
			return nil
		case !errors.As(err, &exit):
			return err
		}
		if time.Since(started) > stable {
			backoff = minBackoff
		}
		p.log.Error("Envoy exited, starting it again", "error", exit, "delay", backoff)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// runOnce runs one Envoy until it exits. It returns nil if ctx ended it, an
// [*ExitError] if it exited by itself.
func (p *Process) runOnce(ctx context.Context) error {
	logs := &logWriter{log: p.log}
	cmd := exec.Command(p.opt.Path, p.args()...)
	cmd.Stderr, cmd.Stdout = logs, logs
	// What Envoy started must not keep the pipe, and thereby Wait.
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // Ctrl-C in a terminal is for us; Envoy is drained
		Credential: p.opt.Credential,
	}

	if p.opt.Credential != nil {
		// The binary is executed by descriptor: a cache in root's home is
		// closed to the user that Envoy runs as.
		binary, err := os.Open(p.opt.Path)
		if err != nil {
			return fmt.Errorf("starting Envoy: %w", err)
		}
		defer func() { _ = binary.Close() }()
		cmd.ExtraFiles = []*os.File{binary}
		cmd.Path = "/proc/self/fd/3"
	}

	within := p.opt.Within
	if within == nil {
		within = func(f func() error) error { return f() }
	}
	type result struct {
		started bool
		err     error
	}
	up, done := make(chan struct{}), make(chan result, 1)
	go func() {
		// The death signal is sent when the thread that started the child
		// ends (prctl(2), PR_SET_PDEATHSIG), so the thread is kept for as
		// long as the child lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var r result
		err := within(func() error {
			if err := cmd.Start(); err != nil {
				return fmt.Errorf("starting Envoy: %w", err)
			}
			r.started = true
			p.set(cmd.Process.Pid, nil)
			close(up)
			return cmd.Wait()
		})
		r.err = err
		done <- r
	}()

	select {
	case r := <-done:
		return p.ended(r.started, r.err, logs)
	case <-up:
	}
	select {
	case r := <-done:
		return p.ended(r.started, r.err, logs)
	case <-ctx.Done():
	}
	logs.ending.Store(true)
	exited := make(chan struct{})
	go func() { <-done; close(exited) }()
	p.stop(cmd.Process, exited)
	p.set(0, nil)
	return nil
}

func (p *Process) args() []string {
	level := "warning"
	if p.log.Enabled(context.Background(), slog.LevelDebug) {
		level = "info"
	}
	args := []string{
		"--config-yaml", string(p.opt.Bootstrap),
		"--concurrency", strconv.Itoa(p.opt.Concurrency),
		"--disable-hot-restart",
		"--log-level", level,
		"--log-format", logFormat,
		// With the gradual strategy most connections would get to know of a
		// drain only near its end, when they are cut.
		"--drain-strategy", "immediate",
	}
	if p.opt.DrainTime > 0 {
		args = append(args, "--drain-time-s", strconv.Itoa(max(1, int(p.opt.DrainTime.Seconds()))))
	}
	return args
}

// ended takes note of an exit that nobody asked for.
func (p *Process) ended(started bool, err error, logs *logWriter) error {
	if !started {
		p.set(0, err)
		return err
	}
	if err == nil {
		err = errors.New("exit status 0")
	}
	exit := &ExitError{Err: err, LastWords: logs.lastWords()}
	p.set(0, exit)
	return exit
}

func (p *Process) set(pid int, exit error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = pid
	if exit != nil {
		p.exits++
		p.lastExit = exit
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// stop drains the process and ends it; exited is closed when it is gone.
func (p *Process) stop(process *os.Process, exited <-chan struct{}) {
	if p.opt.StopTimeout > 0 {
		p.drain(exited)
	}
	_ = process.Signal(syscall.SIGTERM) // an error means that it is gone
	select {
	case <-exited:
		return
	case <-time.After(killAfter):
	}
	p.log.Warn("Envoy does not end by SIGTERM, killing it", "pid", process.Pid)
	_ = process.Kill()
	<-exited
}

// drain asks for an end of all connections and waits until they are closed,
// StopTimeout has passed or the process is gone.
func (p *Process) drain(exited <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), p.opt.StopTimeout)
	defer cancel()
	if _, err := p.admin.Post(ctx, "/drain_listeners?graceful"); err != nil {
		p.log.Warn("Envoy cannot be drained", "error", err)
		return
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if n, err := p.admin.Connections(ctx); err != nil || n == 0 {
			return
		}
		select {
		case <-exited:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Ready waits until Envoy is live. It returns early, with an [*ExitError], if
// Envoy exits meanwhile, as it does with a bad bootstrap.
func (p *Process) Ready(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	first := -1
	for {
		p.mu.Lock()
		changed, pid, exits, last := p.changed, p.pid, p.exits, p.lastExit
		p.mu.Unlock()
		if first < 0 {
			first = exits
		}
		if exits > first {
			return last
		}
		err := last
		if pid != 0 {
			if err = p.admin.Ready(ctx); err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for Envoy: %w", errors.Join(ctx.Err(), err))
		case <-changed:
		case <-tick.C:
		}
	}
}

// Validate has the binary check a bootstrap without running it. The error
// carries Envoy's words.
func Validate(ctx context.Context, path string, bootstrap []byte) error {
	path, err := Find(path)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, "--mode", "validate", "--disable-hot-restart", "--log-level", "warning",
		"--log-format", logFormat, "--config-yaml", string(bootstrap))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the bootstrap is not valid: %w: %s", err, out)
	}
	return nil
}
