// Package vm runs tests again inside a virtual machine with a stock kernel, where
// the kernel of this machine lacks what they need, such as IPVS.
//
// Such tests are the subtests of one, so that the guest starts once:
//
//	func TestKernel(t *testing.T) {
//		if !vm.Here(t, ipvs.Probe) {
//			return // the same test has run in a guest, and t has its result
//		}
//		t.Run("NodePort", testNodePort)
//	}
//
// In the guest the test binary runs as root with this machine's files, which it
// cannot change, and with that test alone. It is some ten times slower there: give
// everything much time, and poll. A name after a slash in -run chooses a subtest
// in the guest, too; so do -short, and flags of the test's own. The script hack/vm
// is what starts the guest.
package vm

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// guestVariable is set in the guest.
const guestVariable = "SLUICE_VM"

// Guest reports whether the process is in a guest that [Here] started.
func Guest() bool { return os.Getenv(guestVariable) != "" }

// Here reports whether t is to go on here, because the kernel has what probe
// looks for. Otherwise it runs t in a guest, gives t its result, and returns
// false. Where no guest can be started t is skipped, and fails with CI set.
func Here(t *testing.T, probe func() error) bool {
	t.Helper()
	lacking := probe()
	if lacking == nil {
		return true
	}
	if Guest() {
		t.Fatalf("the guest lacks it, too: %v", lacking)
	}
	ctx := t.Context()
	if deadline, ok := t.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-5*time.Second))
		defer cancel()
	}
	var err error
	for range starts {
		began := false
		err = run(ctx, t.Name(), func(line string) {
			began = began || strings.HasPrefix(line, "=== RUN")
			t.Log(line)
		})
		if began || !errors.Is(err, errNoGuest) || ctx.Err() != nil {
			break
		}
	}
	switch {
	case errors.Is(err, errNoGuest) && os.Getenv("CI") == "":
		t.Skipf("%v; and no guest: %v", lacking, err)
	case err != nil:
		t.Fatalf("in a guest, because here %v: %v", lacking, err)
	}
	return false
}

// starts is how often a guest is started whose emulator ends before the test
// begins, as it does at times on a machine that is busy.
const starts = 3

// errNoGuest indicates that it is not the test that failed.
var errNoGuest = errors.New("the guest did not get to the end of the test")

// noGuest is the status of hack/vm for that.
const noGuest = 125

// run runs one test in a guest and calls log for each line that it prints.
func run(ctx context.Context, test string, log func(string)) error {
	script, err := script()
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the test's binary: %w", err)
	}
	args := []string{"env", guestVariable + "=1", exe, "-test.run=" + pattern(test), "-test.v"}
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "test.short" || !strings.HasPrefix(f.Name, "test.") {
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	if deadline, ok := ctx.Deadline(); ok {
		args = append(args, "-test.timeout="+time.Until(deadline).Round(time.Second).String())
	}
	cmd := exec.CommandContext(ctx, script, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it ends the guest
	cmd.WaitDelay = 5 * time.Second
	out, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pipe: %w", err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	_ = w.Close()
	defer func() { _ = out.Close() }()
	if err != nil {
		return fmt.Errorf("start %s: %w", script, err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		log(strings.TrimRight(lines.Text(), "\r"))
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == noGuest {
		return errNoGuest
	}
	return err
}

// pattern returns the value of -run for a test, and for the subtests of it that
// this process was asked for.
func pattern(test string) string {
	p := "^" + strings.ReplaceAll(test, "/", "$/^") + "$"
	if f := flag.Lookup("test.run"); f != nil {
		asked := strings.Split(f.Value.String(), "/")
		if depth := strings.Count(test, "/") + 1; len(asked) > depth {
			p += "/" + strings.Join(asked[depth:], "/")
		}
	}
	return p
}

// script returns the path of hack/vm. Tests run in their package's folder.
func script() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find hack/vm: %w", err)
	}
	for {
		path := filepath.Join(dir, "hack", "vm")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find hack/vm: not in a folder of the sources")
		}
		dir = parent
	}
}
