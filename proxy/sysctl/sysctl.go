// Package sysctl sizes the kernel's connection tracking as kube-proxy does, by the
// fields of KubeProxyConfiguration.conntrack.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Conntrack is KubeProxyConfiguration.conntrack. What is zero is left as it is.
type Conntrack struct {
	// MaxPerCore is the number of connections to track for each CPU, and Min the
	// least in total; without the former the latter means nothing.
	MaxPerCore, Min                            int
	TCPEstablishedTimeout, TCPCloseWaitTimeout time.Duration // in whole seconds
	TCPBeLiberal                               bool
	UDPTimeout, UDPStreamTimeout               time.Duration // in whole seconds
}

// Setting is a wanted value of one file.
type Setting struct {
	Path  string // such as "proc/sys/net/netfilter/nf_conntrack_max"
	Value int
	// Raise says that a higher value stays.
	Raise bool
	// Optional says that the value is good to have: where it cannot be written,
	// connection tracking is only slower.
	Optional bool
}

// mostScaled bounds what MaxPerCore leads to, as kube-proxy does since 1.36.
const mostScaled = 1 << 20

// Files of the kernel.
const (
	dir      = "proc/sys/net/netfilter/"
	hashsize = "sys/module/nf_conntrack/parameters/hashsize"
)

// Settings returns what is wanted on a machine with that many CPUs.
func (c Conntrack) Settings(cpus int) []Setting {
	var out []Setting
	if c.MaxPerCore > 0 {
		most := max(min(c.MaxPerCore*cpus, mostScaled), c.Min)
		out = append(out,
			Setting{Path: dir + "nf_conntrack_max", Value: most, Raise: true},
			Setting{Path: hashsize, Value: most / 4, Raise: true, Optional: true})
	}
	seconds := func(name string, d time.Duration) {
		if d >= time.Second {
			out = append(out, Setting{Path: dir + name, Value: int(d / time.Second)})
		}
	}
	seconds("nf_conntrack_tcp_timeout_established", c.TCPEstablishedTimeout)
	seconds("nf_conntrack_tcp_timeout_close_wait", c.TCPCloseWaitTimeout)
	if c.TCPBeLiberal {
		out = append(out, Setting{Path: dir + "nf_conntrack_tcp_be_liberal", Value: 1})
	}
	seconds("nf_conntrack_udp_timeout", c.UDPTimeout)
	seconds("nf_conntrack_udp_timeout_stream", c.UDPStreamTimeout)
	return out
}

// Change is a value that was written.
type Change struct {
	Setting
	Before int
}

// ReadOnlyError indicates that a value cannot be written from here.
type ReadOnlyError struct {
	Setting
	Err error
}

// Error says what to do about it.
func (e *ReadOnlyError) Error() string {
	remedy := "run privileged, with the host's /proc/sys writable, or set it on the host and give 0 here"
	if e.Optional {
		remedy = "set it on the host, or load nf_conntrack with hashsize=" + strconv.Itoa(e.Value)
	}
	return fmt.Sprintf("sysctl: cannot set /%s to %d: %v; %s", e.Path, e.Value, e.Err, remedy)
}

// Unwrap returns what the kernel said.
func (e *ReadOnlyError) Unwrap() error { return e.Err }

// MissingError indicates that the kernel has no such value.
type MissingError struct {
	Setting
	Err error
}

// Error says what to do about it.
func (e *MissingError) Error() string {
	return fmt.Sprintf("sysctl: no /%s; load the module nf_conntrack", e.Path)
}

// Unwrap returns what the kernel said.
func (e *MissingError) Unwrap() error { return e.Err }

// Applier writes settings. Its zero value is that of the process's own network
// namespace.
type Applier struct {
	// Root is where proc and sys are mounted; empty: "/".
	Root string
	// Do runs a function in another network namespace; nil: in the current one.
	Do func(func() error) error
}

// Apply writes what differs. One that cannot be written hinders no other; the
// errors are joined, each a [*ReadOnlyError], a [*MissingError] or what the file
// system says. Those of optional settings are in warnings alone.
func (a Applier) Apply(settings []Setting) (changed []Change, warnings, err error) {
	run := a.Do
	if run == nil {
		run = func(f func() error) error { return f() }
	}
	failed := run(func() error {
		for _, s := range settings {
			before, wrote, e := a.apply(s)
			switch {
			case e != nil && s.Optional:
				warnings = errors.Join(warnings, e)
			case e != nil:
				err = errors.Join(err, e)
			case wrote:
				changed = append(changed, Change{s, before})
			}
		}
		return nil
	})
	return changed, warnings, errors.Join(err, failed)
}

func (a Applier) apply(s Setting) (before int, wrote bool, err error) {
	path := filepath.Join("/", a.Root, s.Path)
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, false, &MissingError{s, err}
	case err != nil:
		return 0, false, fmt.Errorf("sysctl: %w", err)
	}
	before, err = strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, false, fmt.Errorf("sysctl: /%s: %w", s.Path, err)
	}
	if before == s.Value || s.Raise && before > s.Value {
		return before, false, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		_, err = f.WriteString(strconv.Itoa(s.Value))
		err = errors.Join(err, f.Close())
	}
	switch {
	// The hash table is of all namespaces, and the kernel lets only the first
	// one change it.
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL) && s.Optional:
		return before, false, &ReadOnlyError{s, err}
	case err != nil:
		return before, false, fmt.Errorf("sysctl: /%s: %w", s.Path, err)
	}
	return before, true, nil
}
