package nfnl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is a netlink socket of netfilter. The kernel does a request while it is
// being sent, so sending blocks for as long as that takes, and answers are there
// afterwards.
type Socket struct {
	fd    int
	limit int // bytes that one transaction may have
	recv  []byte
	stale bool // answers may be under way that nobody waits for any more
}

// patience is how long an answer may take. The kernel has given it before it
// returns from what asks for it; it must not be lost for ever if it is.
const patience = 10 * time.Second

// maxBatch bounds a transaction, which holds a lock of all of nf_tables.
const maxBatch = 4 << 20

// Dial opens a socket in a network namespace; netns < 0 is the current one.
func Dial(netns int) (*Socket, error) {
	s := &Socket{fd: -1, recv: make([]byte, 1<<18)}
	err := inNamespace(netns, func() (err error) {
		s.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("netlink: netlink socket: %w", err)
	}
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		s.Close()
		return nil, fmt.Errorf("netlink: netlink socket: %w", err)
	}
	// FORCE needs a privilege in the namespace's user namespace; without it
	// the limit of the system holds.
	for _, opt := range [][2]int{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, opt[0], 2*maxBatch) != nil {
			_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, opt[1], 2*maxBatch)
		}
	}
	// Errors need not repeat what they are about.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	timeout := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		s.Close()
		return nil, fmt.Errorf("netlink: netlink socket: %w", err)
	}
	size, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("netlink: netlink socket: %w", err)
	}
	s.limit = min(maxBatch, size/2)
	return s, nil
}

// inNamespace calls f on a thread that is in a network namespace.
func inNamespace(netns int, f func() error) error {
	if netns < 0 {
		return f()
	}
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() { _ = home.Close() }()
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err = f()
	// A thread that cannot go back stays locked, and ends with its goroutine.
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// Close closes the socket.
func (s *Socket) Close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
}

// Refused is the kernel's refusal of a message.
type Refused struct {
	Errno    unix.Errno
	Sequence uint32 // see [Messages.At]
}

func (e *Refused) Error() string { return "netlink: " + e.Errno.Error() }

// Unwrap returns the error number.
func (e *Refused) Unwrap() error { return e.Errno }

// Commit ends a transaction and sends it. It returns nil if the transaction is in
// force, and a [*Refused] if the kernel does not do it.
func (s *Socket) Commit(m *Messages) error {
	m.EndBatch()
	return s.exchange(m)
}

// exchange sends the messages and reads the kernel's answers, which it has given
// when it returns from sending.
func (s *Socket) exchange(m *Messages) error {
	if err := s.send(m.buf); err != nil {
		return err
	}
	answered := false
	var refused error
	for {
		n, _, err := unix.Recvfrom(s.fd, s.recv, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			if refused == nil && !answered {
				refused = errors.New("netlink: the kernel did not answer")
			}
			return refused
		case err != nil:
			s.stale = true
			return fmt.Errorf("netlink: receive: %w", err)
		}
		for msg := range split(s.recv[:n]) {
			if msg.Kind != unix.NLMSG_ERROR || len(msg.Body) < 4 {
				continue
			}
			answered = true
			if code := int32(binary.NativeEndian.Uint32(msg.Body)); code != 0 && refused == nil {
				refused = &Refused{unix.Errno(-code), msg.Sequence}
			}
		}
	}
}

func (s *Socket) send(b []byte) error {
	for s.stale {
		if _, _, err := unix.Recvfrom(s.fd, s.recv, unix.MSG_DONTWAIT); errors.Is(err, unix.EAGAIN) {
			s.stale = false
		} else if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("netlink: receive: %w", err)
		}
	}
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("netlink: send %d bytes: %w", len(b), err)
		}
		return nil
	}
}

// Ask sends a request and calls each for every answer to it. The error is a
// [unix.Errno] if the kernel says so, and [ErrInterrupted] if what was listed
// changed meanwhile.
//
// Requests that have the flag NLM_F_ACK may be several and have any number of
// answers, which tell by their sequence numbers what they answer. Of several, it
// is no error if what one asks for is not there.
func (s *Socket) Ask(ctx context.Context, m *Messages, each func(Message)) error {
	if err := s.send(m.buf); err != nil {
		return err
	}
	flags := binary.NativeEndian.Uint16(m.buf[6:])
	a := answers{ctx: ctx, each: each, dump: flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP, acked: flags&unix.NLM_F_ACK != 0, several: m.count > 1, waiting: m.count}
	for {
		done, err := s.receive(&a)
		if done || err != nil {
			return err
		}
	}
}

// answers is what is still to come.
type answers struct {
	ctx            context.Context
	each           func(Message)
	dump           bool
	acked, several bool
	waiting        int // for the acknowledgements of so many requests, if they have any
	failed         error
}

// receive takes one datagram. It reports whether it was the last.
func (s *Socket) receive(a *answers) (done bool, err error) {
	n, err := unix.Read(s.fd, s.recv)
	if errors.Is(err, unix.EINTR) {
		return false, nil
	}
	if err != nil {
		s.stale = true
		return false, fmt.Errorf("netlink: receive: %w", err)
	}
	for msg := range split(s.recv[:n]) {
		switch {
		case msg.Kind == unix.NLMSG_ERROR && len(msg.Body) >= 4:
			code := unix.Errno(-int32(binary.NativeEndian.Uint32(msg.Body)))
			if code != 0 && a.failed == nil && (!a.several || code != unix.ENOENT) {
				a.failed = code
			}
			if a.waiting--; !a.acked || a.waiting == 0 {
				return true, a.failed
			}
			continue
		case msg.Kind == unix.NLMSG_DONE:
			return true, a.failed
		}
		if msg.Flags&unix.NLM_F_DUMP_INTR != 0 && a.failed == nil {
			a.failed = ErrInterrupted
		}
		if a.failed == nil {
			a.failed = a.ctx.Err()
		}
		if a.failed == nil {
			a.each(msg)
		}
		if !a.dump && !a.acked {
			return true, a.failed
		}
	}
	return false, nil
}

// Listing is a list that is read in portions. The kernel goes on where it was,
// so what is changed meanwhile may be in the list, or be left out.
type Listing struct{ socket *Socket }

// List starts a list. The socket must do nothing else until it is read to its
// end.
func (s *Socket) List(m *Messages) (*Listing, error) {
	return &Listing{s}, s.send(m.buf)
}

// Next reads the next portion, which is some hundred elements, and reports
// whether it was the last.
func (l *Listing) Next(ctx context.Context, each func(Message)) (done bool, err error) {
	done, err = l.socket.receive(&answers{ctx: ctx, each: each, dump: true})
	if errors.Is(err, ErrInterrupted) {
		err = nil
	}
	return done, err
}

// ErrInterrupted indicates that the tables changed while they were listed.
var ErrInterrupted = errors.New("netlink: listing was interrupted by a change")

// Message is one netlink message.
type Message struct {
	Kind     uint16 // subsystem and message
	Flags    uint16
	Body     []byte
	Sequence uint32 // of the request, see [Messages.Sequence]
}

// split yields the messages in a buffer.
func split(b []byte) func(func(Message) bool) {
	return func(yield func(Message) bool) {
		for len(b) >= nlmsgHeader {
			size := int(binary.NativeEndian.Uint32(b))
			if size < nlmsgHeader || size > len(b) {
				return
			}
			msg := Message{
				Kind: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
				Sequence: binary.NativeEndian.Uint32(b[8:]), Body: b[nlmsgHeader:size],
			}
			if !yield(msg) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// Attributes yields the attributes in a buffer.
func Attributes(b []byte) func(func(kind uint16, value []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			size := int(binary.NativeEndian.Uint16(b))
			if size < 4 || size > len(b) {
				return
			}
			kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, b[4:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

// Try sends a transaction without its end, so that the kernel checks it and then
// forgets it.
func (s *Socket) Try(m *Messages) error {
	end := len(m.buf)
	m.EndBatch()
	m.buf = m.buf[:end]
	return s.exchange(m)
}

// Limit returns how many bytes a transaction may have.
func (s *Socket) Limit() int { return s.limit }
