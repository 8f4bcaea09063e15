package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stageVariable tells a process that Enter started which one it is.
const stageVariable = "SLUICE_LAB_STAGE"

// entered says that Enter has moved this process into its own namespaces.
var entered bool

// Enter moves the program into PID, mount and network namespaces of its own,
// and, where it has no right to make those, into a user namespace in which its
// user is root. Call it first thing in main or TestMain.
//
// A running Go program cannot change its user or PID namespace, so Enter starts
// the program again with the same arguments: in that one it returns nil, and
// everything it starts ends with it, however it ends. The first process only
// hands on signals and ends with the other's exit status; there Enter returns
// only if the namespaces could not be made, with an [*UnsupportedError].
func Enter() error {
	stage := os.Getenv(stageVariable)
	if err := os.Unsetenv(stageVariable); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	switch {
	case entered:
		return nil
	case stage == "unmapped":
		awaitUsers()
		os.Exit(1)
	case stage == "init":
		os.Exit(beInit())
	case stage == "main":
		entered = true
		return nil
	}
	// The parent's thread, and not its process, is what PDEATHSIG looks at.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const own = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET
	code, err := startInit("init", &syscall.SysProcAttr{Cloneflags: own}, nil)
	if errors.Is(err, unix.EPERM) {
		err = nil
		users, some := subordinates()
		if some {
			code, err = startInit("unmapped", &syscall.SysProcAttr{Cloneflags: own | unix.CLONE_NEWUSER}, users)
		}
		if !some || errors.Is(err, errNoUsers) {
			code, err = startInit("init", &syscall.SysProcAttr{
				Cloneflags:  own | unix.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
			}, nil)
		}
	}
	if err != nil {
		return err
	}
	os.Exit(code)
	return nil
}

// Descriptors that the init process is born with.
const (
	reportFD = 3 // where it writes its initReport
	mappedFD = 4 // where it reads that it has users
)

// initReport is what the init process says to its parent once it is set up.
type initReport struct {
	Op    string        `json:"op,omitempty"`
	Errno syscall.Errno `json:"errno,omitempty"`
}

// startInit starts this program as the first process of new namespaces, and
// waits for its end. An error means that the program has not begun there. The
// process at the stage "unmapped" waits for its users.
func startInit(stage string, attr *syscall.SysProcAttr, users *userMap) (code int, err error) {
	reports, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("lab: %w", err)
	}
	defer func() { _ = reports.Close() }()
	mapped, begin, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("lab: %w", err)
	}
	defer func() { _ = begin.Close() }()
	// In a process group of its own, so that the terminal's ^C comes once, by
	// this process, and not a second time from the terminal.
	attr.Setpgid = true
	attr.Pdeathsig = syscall.SIGKILL
	cmd := again(stage, attr)
	cmd.ExtraFiles = []*os.File{w, mapped}

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	err = cmd.Start()
	_ = w.Close()
	_ = mapped.Close()
	if err != nil {
		return 0, unsupported("make namespaces", err)
	}
	if users != nil {
		if err := users.write(cmd.Process.Pid); err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return 0, err
		}
		if _, err := begin.Write([]byte{1}); err != nil {
			return 0, fmt.Errorf("lab: %w", err)
		}
	}
	go handOn(signals, cmd.Process)

	var report initReport
	err = json.NewDecoder(reports).Decode(&report)
	switch {
	case report.Errno != 0:
		_ = cmd.Wait()
		return 0, unsupported(report.Op, report.Errno)
	case err != nil && !errors.Is(err, io.EOF):
		return 0, fmt.Errorf("lab: start of the init process: %w", err)
	}
	return exitCode(cmd.Wait()), nil
}

// beInit is the life of the first process of the PID namespace: it prepares the
// mount and the network namespace, starts the program proper, and reaps what is
// orphaned until that one ends; the kernel then ends whatever is left.
func beInit() int {
	runtime.LockOSThread() // dieWithParent is a thread's
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	pipe := os.NewFile(reportFD, "report")
	op, err := prepareInit()
	report := initReport{Op: op}
	if err != nil && !errors.As(err, &report.Errno) {
		report.Errno = unix.EPERM
	}
	if err := json.NewEncoder(pipe).Encode(report); err != nil || report.Errno != 0 {
		return 1
	}
	_ = pipe.Close()

	cmd := again("main", &syscall.SysProcAttr{})
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	go handOn(signals, cmd.Process)
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1
		case pid == cmd.Process.Pid && status.Signaled():
			return 128 + int(status.Signal())
		case pid == cmd.Process.Pid:
			return status.ExitStatus()
		}
	}
}

// prepareInit sets up the namespaces that the init process was born into.
func prepareInit() (op string, err error) {
	_ = unix.Close(mappedFD)
	if err := dieWithParent(); err != nil {
		return "end with its parent", err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "have mounts of its own", err
	}
	// A /proc that shows this PID namespace. The kernel refuses it to a user
	// namespace where the old one is partly hidden, as in a container; the old
	// one serves too, it only shows other numbers.
	_ = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return "see the loopback of its own network namespace", err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return "set up its own network namespace", err
	}
	return "", nil
}

// again is this program once more, with its arguments and its terminal.
func again(stage string, attr *syscall.SysProcAttr) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), stageVariable+"="+stage)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = attr
	return cmd
}

// handOn passes signals on for as long as the program runs.
func handOn(signals <-chan os.Signal, to *os.Process) {
	for s := range signals {
		_ = to.Signal(s)
	}
}

// exitCode is the shell's number for how a process ended.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case !errors.As(err, &exit):
		return 1
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return exit.ExitCode()
}
