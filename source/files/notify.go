package files

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// notifier tells what happens in directories. It is the kernel's inotify
// without a library in between, because the libraries keep IN_CLOSE_WRITE to
// themselves, and that is the moment at which a writer is done with a file:
// with it an edit is read at once, and never half.
type notifier struct {
	file   *os.File
	events chan []event // one slice a read; closed when the notifier is

	mu    sync.Mutex        // guards following
	dirs  map[int32]string  // watch descriptor -> directory
	wds   map[string]int32  // directory -> watch descriptor
	alias map[string]string // directory -> the one that has its descriptor, where both are one inode
}

// event is something that happened to an entry of a watched directory.
type event struct {
	dir  string // as given to watch; empty if events were lost
	name string // empty if it is the directory itself
	mask uint32
	move uint32 // the same in both events of a move
}

const notifyMask = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB |
	unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

func newNotifier() (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w (raise sysctl fs.inotify.max_user_instances if it is used up)", err)
	}
	n := &notifier{
		file: os.NewFile(uintptr(fd), "inotify"), events: make(chan []event, 16),
		dirs: map[int32]string{}, wds: map[string]int32{}, alias: map[string]string{},
	}
	go n.read()
	return n, nil
}

// watch begins to watch a directory. Watching one again is no error; it
// follows the path to the directory that is there now.
func (n *notifier) watch(dir string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	wd, err := n.add(dir)
	if err != nil {
		return err
	}
	old, had := n.wds[dir]
	if had && old != wd {
		n.drop(dir, old)
	}
	if first, taken := n.dirs[wd]; taken && first != dir {
		n.alias[dir] = first
		return nil
	}
	n.dirs[wd], n.wds[dir] = dir, wd
	return nil
}

func (n *notifier) add(dir string) (int32, error) {
	raw, err := n.file.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("watch %s: %w", dir, err)
	}
	var wd int
	var addErr error
	if err := raw.Control(func(fd uintptr) { wd, addErr = unix.InotifyAddWatch(int(fd), dir, notifyMask) }); err != nil {
		return 0, fmt.Errorf("watch %s: %w", dir, err)
	}
	if addErr != nil {
		if errors.Is(addErr, unix.ENOSPC) {
			return 0, fmt.Errorf("watch %s: %w (raise sysctl fs.inotify.max_user_watches)", dir, addErr)
		}
		return 0, fmt.Errorf("watch %s: %w", dir, addErr)
	}
	return int32(wd), nil
}

// unwatch ends the watch of every directory that keep says no to.
func (n *notifier) unwatch(keep func(dir string) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for dir, wd := range n.wds {
		if !keep(dir) {
			n.drop(dir, wd)
		}
	}
	for dir := range n.alias {
		if !keep(dir) {
			delete(n.alias, dir)
		}
	}
}

func (n *notifier) drop(dir string, wd int32) {
	delete(n.wds, dir)
	delete(n.dirs, wd)
	if raw, err := n.file.SyscallConn(); err == nil {
		// An error means that the kernel has dropped it already.
		_ = raw.Control(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(wd)) })
	}
}

func (n *notifier) close() error { return n.file.Close() }

func (n *notifier) read() {
	defer close(n.events)
	buf := make([]byte, 64<<10)
	for {
		size, err := n.file.Read(buf)
		if err != nil {
			return
		}
		if evs := n.parse(buf[:size]); len(evs) > 0 {
			n.events <- evs
		}
	}
}

// parse reads struct inotify_event: wd, mask, cookie and len, then the name
// padded with zeros (inotify(7)).
func (n *notifier) parse(buf []byte) []event {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []event
	for len(buf) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(buf))
		mask := binary.NativeEndian.Uint32(buf[4:])
		move := binary.NativeEndian.Uint32(buf[8:])
		length := int(binary.NativeEndian.Uint32(buf[12:]))
		end := unix.SizeofInotifyEvent + length
		if end > len(buf) {
			break
		}
		name := string(bytes.TrimRight(buf[unix.SizeofInotifyEvent:end], "\x00"))
		buf = buf[end:]
		dir, known := n.dirs[wd]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			out = append(out, event{mask: mask})
		case !known:
		case mask&unix.IN_IGNORED != 0:
			delete(n.dirs, wd)
			delete(n.wds, dir)
		default:
			out = append(out, event{dir: filepath.Clean(dir), name: name, mask: mask, move: move})
			for other, first := range n.alias {
				if first == dir {
					out = append(out, event{dir: other, name: name, mask: mask, move: move})
				}
			}
		}
	}
	return out
}
