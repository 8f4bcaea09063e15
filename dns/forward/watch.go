package forward

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// rereadEvery is for what the kernel does not tell, such as a file of the host
// that is mounted into a container.
const rereadEvery = 30 * time.Second

// settle is how long a file has to be left alone before it is read again: those
// who write it do so in several steps.
const settle = 50 * time.Millisecond

// WatchFile calls changed at once and whenever the file may have changed, also by way of a
// symbolic link on the way to it or of what further files hold, until the context
// ends. The error is that inotify is not to be had; then it is called every half
// minute.
func WatchFile(ctx context.Context, changed func(), path string, further ...string) error {
	events := make(chan struct{}, 1)
	n, err := newNotifier(events)
	if err == nil {
		defer closeQuietly(n.file)
	}
	paths := append([]string{path}, further...)
	again := time.NewTicker(rereadEvery)
	defer again.Stop()
	for first := true; ; first = false {
		if n != nil {
			n.watch(paths)
		}
		if first { // it may have changed since it was read
			changed()
		}
		select {
		case <-ctx.Done():
			return err
		case <-again.C:
		case <-events:
			select {
			case <-time.After(settle):
			case <-ctx.Done():
				return err
			}
			select {
			case <-events:
			default:
			}
		}
		changed()
	}
}

// notifier tells that something happened in directories.
type notifier struct{ file *os.File }

func newNotifier(events chan<- struct{}) (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w (raise sysctl fs.inotify.max_user_instances if it is used up)", err)
	}
	n := &notifier{os.NewFile(uintptr(fd), "inotify")}
	go func() {
		buf := make([]byte, 4096)
		for {
			if _, err := n.file.Read(buf); err != nil {
				return
			}
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}()
	return n, nil
}

// watch watches the directories of the files, and of what they are links to.
// Doing so again is no error, and follows links that changed. A directory that
// does not exist is passed over.
func (n *notifier) watch(paths []string) {
	const mask = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CREATE | unix.IN_DELETE | unix.IN_ONLYDIR
	raw, err := n.file.SyscallConn()
	if err != nil {
		return
	}
	add := func(dir string) {
		// What cannot be watched is read again after a while.
		_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyAddWatch(int(fd), dir, mask) })
	}
	for _, p := range paths {
		add(filepath.Dir(p)) // first, so that a change of the link is seen
		if real, err := filepath.EvalSymlinks(p); err == nil {
			add(filepath.Dir(real))
		}
	}
}
