package lab_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
)

// holdVariable makes TestHold do its work; its value marks the processes.
const holdVariable = "LAB_TEST_HOLD"

// TestHold is not a test of its own: it is the program that the others start. It
// makes a lab with processes in it, says so, and waits for a signal.
func TestHold(t *testing.T) {
	mark := os.Getenv(holdVariable)
	if mark == "" {
		return // not started by the others
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	l, err := lab.New(lab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pod := l.MustNode("node1").MustPod("a")
	// One child, and one that has left its parents.
	for _, script := range []string{"exec sleep 86400." + mark, "setsid sleep 86400." + mark + " & sleep 86400." + mark} {
		if err := pod.Command(context.Background(), "sh", "-c", script).Start(); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Println("holding")
	<-interrupted
	if os.Getenv("LAB_TEST_EXIT") != "" {
		l.Close()
		fmt.Println("closed, left:", strings.Join(marked(t, mark), " "))
		os.Exit(7)
	}
}

// marked returns the processes that carry a mark, of all that /proc shows.
func marked(t *testing.T, mark string) []string {
	t.Helper()
	var out []string
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && bytes.Contains(b, []byte("sleep\x0086400."+mark)) {
			out = append(out, f)
		}
	}
	return out
}

// hold starts TestHold in a process that enters a lab of its own.
func hold(t *testing.T, mark string, env ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHold$", "-test.v")
	cmd.Env = append(append(os.Environ(), holdVariable+"="+mark), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewReader(out)
	waitLine(t, lines, "holding")
	eventually(t, "three processes in the lab", func() bool { return len(marked(t, mark)) >= 3 })
	return cmd, lines
}

func waitLine(t *testing.T, lines *bufio.Reader, want string) string {
	t.Helper()
	for {
		line, err := lines.ReadString('\n')
		if strings.HasPrefix(line, want) {
			return line
		}
		if err != nil {
			t.Fatalf("the process ended before it said %q: %v", want, err)
		}
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// cannot skips the test with the reason, and fails it with CI set.
func cannot(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func needsLab(t *testing.T) {
	t.Helper()
	lab.ForTest(t, lab.Options{}).Close()
}

func TestNothingIsLeft(t *testing.T) {
	needsLab(t)
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/stat", os.Getpid())); err != nil {
		cannot(t, "/proc shows other processes than this test's")
	}
	links := linkNames(t)
	t.Run("killed", func(t *testing.T) {
		mark := fmt.Sprintf("1%d", os.Getpid())
		cmd, out := hold(t, mark)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, out) // ends when nobody holds the pipe any more
		_ = cmd.Wait()
		eventually(t, "no process left after SIGKILL", func() bool { return len(marked(t, mark)) == 0 })
	})
	t.Run("interrupted", func(t *testing.T) {
		mark := fmt.Sprintf("2%d", os.Getpid())
		cmd, out := hold(t, mark, "LAB_TEST_EXIT=1")
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		waitLine(t, out, "closed")
		_, _ = io.Copy(io.Discard, out)
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 7 {
			t.Errorf("the exit status was not handed on: %v", err)
		}
		if left := marked(t, mark); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	})
	if now := linkNames(t); now != links {
		t.Errorf("links here were %s and are %s", links, now)
	}
}

func linkNames(t *testing.T) string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	return strings.Join(names, " ")
}

// TestCloseEndsProcesses is about a lab that is closed while its process lives on.
func TestCloseEndsProcesses(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	pod := l.MustNode("node1").MustPod("a")
	mark := fmt.Sprintf("3%d", os.Getpid())
	cmd := pod.Command(t.Context(), "sh", "-c", "setsid sleep 86400."+mark+" & exec sleep 86400."+mark)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two processes", func() bool { return len(marked(t, mark)) == 2 })
	l.Close()
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended well")
	}
	eventually(t, "no process left", func() bool { return len(marked(t, mark)) == 0 })
	if err := pod.Command(t.Context(), "true").Start(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("start in a closed lab: %v", err)
	}
}

// TestHasUser compares what HasUser says with what the kernel does.
func TestHasUser(t *testing.T) {
	l := lab.ForTest(t, lab.Options{})
	cmd := l.MustNode("node1").Command(t.Context(), "id", "-u")
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 1337, Gid: 1337}
	out, err := cmd.Output()
	if is := err == nil && string(out) == "1337\n"; is != lab.HasUser(1337) {
		t.Errorf("HasUser(1337) is %v, and it ran: %q, %v", lab.HasUser(1337), out, err)
	}
	if !lab.HasUser(0) {
		t.Error("there is no root")
	}
}

// TestOrdinaryUser runs the packet tests as nobody. A user whose number is mapped
// is one already, and then all of these tests show the same.
func TestOrdinaryUser(t *testing.T) {
	needsLab(t)
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	if fields := strings.Fields(string(users)); len(fields) != 3 || fields[2] == "1" {
		cannot(t, "these tests are run by an ordinary user")
	}
	if readable, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err != nil || strings.TrimSpace(string(readable)) == "0" {
		cannot(t, "the kernel permits no user namespaces")
	}
	const nobody = 65534
	cmd := exec.Command("/proc/self/exe", "-test.run=^(TestReach|TestHairpin|TestResolvConf)$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "CI=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestHairpin")) {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}
