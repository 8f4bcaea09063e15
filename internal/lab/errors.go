package lab

import (
	"fmt"
	"os"
	"strings"
)

// UnsupportedError says that this machine does not let the lab make its
// namespaces, and what to do about it.
type UnsupportedError struct {
	// Op is what was tried, such as "make a user namespace".
	Op string
	// Err is what the kernel answered.
	Err error
	// Remedy is what whoever runs the lab can do.
	Remedy string
}

// Error names the step, the kernel's answer and the remedy.
func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("lab: cannot %s: %v; %s", e.Op, e.Err, e.Remedy)
}

// Unwrap gives the kernel's answer.
func (e *UnsupportedError) Unwrap() error { return e.Err }

// unsupported makes the error for op with the remedy that fits this machine.
func unsupported(op string, err error) *UnsupportedError {
	return &UnsupportedError{Op: op, Err: err, Remedy: remedy(readSysctl)}
}

// remedy finds the switch that forbids user namespaces. The switches are
// Debian's (kernel.unprivileged_userns_clone), Ubuntu's (AppArmor's, since
// 23.10) and the kernel's own limit; a container's seccomp filter shows none.
func remedy(sysctl func(name string) string) string {
	switch {
	case sysctl("kernel/unprivileged_userns_clone") == "0":
		return "run as root, or allow user namespaces: sysctl -w kernel.unprivileged_userns_clone=1"
	case sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "run as root, or allow user namespaces: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	case sysctl("user/max_user_namespaces") == "0":
		return "run as root, or allow user namespaces: sysctl -w user.max_user_namespaces=10000"
	}
	return "run as root; in a container, give it the right to make namespaces (docker run --privileged)"
}

// readSysctl returns the value of a sysctl by its path below /proc/sys, or ""
// where the kernel does not have it.
func readSysctl(name string) string {
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
