package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
)

// socket is a netlink socket of nf_tables. The kernel does a request while it is
// being sent, so sending blocks for as long as that takes, and answers are there
// afterwards.
type socket struct {
	fd    int
	limit int // bytes that one transaction may have
	recv  []byte
}

// maxBatch bounds a transaction, which holds a lock of all of nf_tables.
const maxBatch = 4 << 20

// dial opens a socket in a network namespace; netns < 0 is the current one.
func dial(netns int) (*socket, error) {
	s := &socket{fd: -1, recv: make([]byte, 1<<18)}
	err := inNamespace(netns, func() (err error) {
		s.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("nftables: netlink socket: %w", err)
	}
	if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		s.close()
		return nil, fmt.Errorf("nftables: netlink socket: %w", err)
	}
	// FORCE needs a privilege in the namespace's user namespace; without it
	// the limit of the system holds.
	for _, opt := range [][2]int{{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, opt[0], 2*maxBatch) != nil {
			_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, opt[1], 2*maxBatch)
		}
	}
	size, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		s.close()
		return nil, fmt.Errorf("nftables: netlink socket: %w", err)
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

func (s *socket) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
}

// batchError is the kernel's refusal of a transaction.
type batchError struct {
	Errno unix.Errno
	What  string // the message that it refused
}

func (e *batchError) Error() string {
	return fmt.Sprintf("nftables: transaction refused at %s: %v", e.What, e.Errno)
}

func (e *batchError) Unwrap() error { return e.Errno }

// commit sends a transaction and returns nil if it is in force.
func (s *socket) commit(m *messages) error {
	m.batchEnd()
	return s.exchange(m)
}

// exchange sends the messages and reads the kernel's answers, which it has given
// when it returns from sending.
func (s *socket) exchange(m *messages) error {
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
				refused = errors.New("nftables: the kernel did not answer")
			}
			return refused
		case err != nil:
			return fmt.Errorf("nftables: receive: %w", err)
		}
		for msg := range split(s.recv[:n]) {
			if msg.kind != unix.NLMSG_ERROR || len(msg.body) < 4 {
				continue
			}
			answered = true
			if code := int32(binary.NativeEndian.Uint32(msg.body)); code != 0 && refused == nil {
				refused = &batchError{unix.Errno(-code), m.describe(int(msg.sequence))}
			}
		}
	}
}

func (s *socket) send(b []byte) error {
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("nftables: send %d bytes: %w", len(b), err)
		}
		return nil
	}
}

// ask sends one request and calls each for every answer to it.
func (s *socket) ask(ctx context.Context, m *messages, each func(message)) error {
	if err := s.send(m.buf); err != nil {
		return err
	}
	dump := binary.NativeEndian.Uint16(m.buf[6:])&unix.NLM_F_DUMP == unix.NLM_F_DUMP
	var failed error
	for {
		n, _, err := unix.Recvfrom(s.fd, s.recv, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("nftables: receive: %w", err)
		}
		for msg := range split(s.recv[:n]) {
			switch {
			case msg.kind == unix.NLMSG_ERROR && len(msg.body) >= 4:
				if code := int32(binary.NativeEndian.Uint32(msg.body)); code != 0 {
					return unix.Errno(-code)
				}
				return failed
			case msg.kind == unix.NLMSG_DONE:
				return failed
			}
			if msg.flags&unix.NLM_F_DUMP_INTR != 0 && failed == nil {
				failed = errInterrupted
			}
			if failed == nil {
				failed = ctx.Err()
			}
			if failed == nil {
				each(msg)
			}
			if !dump {
				return failed
			}
		}
	}
}

// errInterrupted indicates that the tables changed while they were listed.
var errInterrupted = errors.New("nftables: listing was interrupted by a change")

// message is one netlink message.
type message struct {
	kind     uint16
	flags    uint16
	sequence uint32
	body     []byte
}

// split yields the messages in a buffer.
func split(b []byte) func(func(message) bool) {
	return func(yield func(message) bool) {
		for len(b) >= nlmsgHeader {
			size := int(binary.NativeEndian.Uint32(b))
			if size < nlmsgHeader || size > len(b) {
				return
			}
			msg := message{
				kind: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]),
				sequence: binary.NativeEndian.Uint32(b[8:]), body: b[nlmsgHeader:size],
			}
			if !yield(msg) {
				return
			}
			b = b[min(padded(size), len(b)):]
		}
	}
}

// attributes yields the attributes in a buffer.
func attributes(b []byte) func(func(kind uint16, value []byte) bool) {
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
			b = b[min(padded(size), len(b)):]
		}
	}
}

// describe says what the message at a position of the buffer asks for.
func (m *messages) describe(at int) string {
	if at < 0 || at+nlmsgHeader+4 > len(m.buf) {
		return "an unknown message"
	}
	for msg := range split(m.buf[at:]) {
		kind, family := msg.kind, proxy.IPv4
		if msg.body[0] == unix.NFPROTO_IPV6 {
			family = proxy.IPv6
		}
		names := map[uint16]string{
			unix.NFT_MSG_NEWTABLE: "add table", unix.NFT_MSG_DELTABLE: "delete table",
			unix.NFT_MSG_NEWCHAIN: "add chain", unix.NFT_MSG_DELCHAIN: "delete chain",
			unix.NFT_MSG_NEWRULE: "add rule of chain", unix.NFT_MSG_DELRULE: "flush chain",
			unix.NFT_MSG_NEWSET: "add set", unix.NFT_MSG_DELSET: "delete set",
			unix.NFT_MSG_NEWSETELEM: "add elements of", unix.NFT_MSG_DELSETELEM: "delete elements of",
		}
		if kind>>8 != unix.NFNL_SUBSYS_NFTABLES {
			return "the frame"
		}
		what := names[kind&0xff]
		for k, v := range attributes(msg.body[4:]) {
			if isText := len(v) > 1 && v[len(v)-1] == 0; isText && (k == 2 || k == 3 && kind&0xff == unix.NFT_MSG_NEWCHAIN) {
				return fmt.Sprintf("%s %s (%s)", what, v[:len(v)-1], family)
			}
		}
		return what
	}
	return "an unknown message"
}
