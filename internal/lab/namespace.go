package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a machine of the lab as seen from inside: a network and a mount
// namespace without a name. [Node], [Pod] and [Client] are namespaces.
//
// One OS thread lives in it and starts its processes, which therefore die with
// it. Everything else runs on threads that visit.
type Namespace struct {
	name string
	lab  *Lab
	net  netns.NsHandle
	link *netlink.Handle
	// work goes to the thread that lives in the namespace, until quit is closed.
	work   chan func()
	quit   chan struct{}
	ended  chan struct{}
	closed sync.Once
}

// newNamespace makes the namespaces, with the loopback up.
func newNamespace(l *Lab, name string) (*Namespace, error) {
	n := &Namespace{name: name, lab: l, net: -1, work: make(chan func()), quit: make(chan struct{}), ended: make(chan struct{})}
	ready := make(chan error)
	go n.live(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("namespace of %s: %w", name, err)
	}
	link, err := netlink.NewHandleAt(n.net, unix.NETLINK_ROUTE)
	if err != nil {
		n.close()
		return nil, fmt.Errorf("netlink in %s: %w", name, err)
	}
	n.link = link
	if err := n.up("lo"); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// live is the thread of the namespace. It is never handed back: its goroutine
// ends while locked to it, so the Go runtime ends the thread as well.
func (n *Namespace) live(ready chan<- error) {
	defer close(n.ended)
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		ready <- unsupported("make a network namespace", err)
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		ready <- unsupported("have mounts of its own", err)
		return
	}
	handle, err := netns.Get()
	if err != nil {
		ready <- err
		return
	}
	n.net = handle
	ready <- nil
	for {
		select {
		case f := <-n.work:
			f()
		case <-n.quit:
			return
		}
	}
}

// Name is the name that the lab knows the namespace by; the kernel knows none.
func (n *Namespace) Name() string { return n.name }

// Netlink is a netlink handle into the namespace, usable from any goroutine.
func (n *Namespace) Netlink() *netlink.Handle { return n.link }

// FD is the descriptor of the network namespace, open until the lab is closed,
// for libraries that take one.
func (n *Namespace) FD() int { return int(n.net) }

// Do calls f on an OS thread inside the network namespace. Sockets that f makes
// stay in the namespace and can be used anywhere afterwards; goroutines that f
// starts are outside of it. f runs on a goroutine of its own, so a test's
// FailNow does not belong in it.
func (n *Namespace) Do(f func() error) error {
	err := errors.New("lab: the function ended its goroutine")
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if e := netns.Set(n.net); e != nil {
			err = fmt.Errorf("enter the network namespace of %s: %w", n.name, e)
			return
		}
		defer func() {
			// A thread that cannot be brought home stays locked, and so ends.
			if netns.Set(n.lab.home) == nil {
				runtime.UnlockOSThread()
			}
		}()
		err = f()
	}()
	<-done
	return err
}

// resident calls f on the thread that lives in the namespace. f must be short.
func (n *Namespace) resident(f func() error) error {
	result := make(chan error, 1)
	select {
	case <-n.ended:
		return fmt.Errorf("%s: %w", n.name, os.ErrClosed)
	case n.work <- func() { result <- f() }:
		return <-result
	}
}

// SetResolvConf gives the processes of the namespace an /etc/resolv.conf of
// their own. Go code of this process that runs in it still sees the machine's.
func (n *Namespace) SetResolvConf(content string) error {
	f, err := os.CreateTemp("", "resolv.conf-*")
	if err != nil {
		return fmt.Errorf("resolv.conf of %s: %w", n.name, err)
	}
	// A bind mount holds the file, so its name can go at once.
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.WriteString(content)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err != nil {
		return fmt.Errorf("resolv.conf of %s: %w", n.name, err)
	}
	return n.resident(func() error {
		if err := unix.Mount(f.Name(), "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("resolv.conf of %s: %w", n.name, err)
		}
		return nil
	})
}

// Sysctl sets a sysctl of the network namespace, by its path below /proc/sys,
// such as "net/ipv4/ip_forward".
func (n *Namespace) Sysctl(name, value string) error {
	return n.Do(func() error {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
			return fmt.Errorf("sysctl %s of %s: %w", name, n.name, err)
		}
		return nil
	})
}

// killAll ends every process in the network namespace, also those that its
// processes have left behind.
func (n *Namespace) killAll() {
	var want unix.Stat_t
	if unix.Fstat(int(n.net), &want) != nil {
		return
	}
	// A /proc of another PID namespace would give the numbers of others.
	if self, err := os.Readlink("/proc/self"); err != nil || self != strconv.Itoa(os.Getpid()) {
		return
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		var got unix.Stat_t
		if err != nil || pid == os.Getpid() || unix.Stat(dir+"/ns/net", &got) != nil {
			continue
		}
		if got.Ino == want.Ino && got.Dev == want.Dev {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// close ends the processes of the namespace and gives it up; the kernel removes
// its links once the last socket in it is closed.
func (n *Namespace) close() {
	n.closed.Do(func() {
		n.killAll()
		close(n.quit)
		<-n.ended
		if n.link != nil {
			n.link.Close()
		}
		_ = n.net.Close()
	})
}
