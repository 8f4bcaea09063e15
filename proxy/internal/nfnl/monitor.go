package nfnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Monitor learns what others change in nf_tables.
type Monitor struct {
	fd     int
	joined bool
	recv   []byte
}

// monitorBuffer holds what others change between two calls of Read, in the
// kernel.
const monitorBuffer = 4 << 20

// DialMonitor opens a monitor that leaves out what a socket does itself. It
// learns nothing until Join.
func DialMonitor(netns int, except *Socket) (*Monitor, error) {
	m := &Monitor{fd: -1, recv: make([]byte, 1<<16)}
	name, err := unix.Getsockname(except.fd)
	own, ok := name.(*unix.SockaddrNetlink)
	if err != nil || !ok {
		return nil, fmt.Errorf("netlink: name of a socket: %w", err)
	}
	err = inNamespace(netns, func() (err error) {
		m.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("netlink: netlink socket: %w", err)
	}
	err = unix.Bind(m.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err == nil {
		err = m.leaveOut(own.Pid)
	}
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("netlink: monitor: %w", err)
	}
	if unix.SetsockoptInt(m.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, monitorBuffer) != nil {
		_ = unix.SetsockoptInt(m.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, monitorBuffer)
	}
	return m, nil
}

// leaveOut has the kernel drop the notifications of one sender, whose number is
// in the header of a message. The filter reads it in the order of the network.
func (m *Monitor) leaveOut(sender uint32) error {
	const at = 12 // nlmsg_pid
	number := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, sender))
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: number, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
	}
	return unix.SetsockoptSockFprog(m.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// Join starts to learn. What was learnt before is forgotten.
func (m *Monitor) Join() error {
	if _, err := m.Read(func(Message) {}); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(m.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("netlink: monitor: %w", err)
	}
	m.joined = true
	return nil
}

// Leave ends that. The kernel writes a notification for every element of a
// transaction while anybody wants them, which takes time where they are many.
func (m *Monitor) Leave() error {
	if !m.joined {
		return nil
	}
	if err := unix.SetsockoptInt(m.fd, unix.SOL_NETLINK, unix.NETLINK_DROP_MEMBERSHIP, unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("netlink: monitor: %w", err)
	}
	m.joined = false
	return nil
}

// Read calls each for what others have changed since it was called last. It does
// not wait. Lost tells that there was more than the kernel kept.
func (m *Monitor) Read(each func(Message)) (lost bool, err error) {
	for {
		n, err := unix.Read(m.fd, m.recv)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return lost, nil
		case errors.Is(err, unix.ENOBUFS):
			lost = true
			continue
		case err != nil:
			return true, fmt.Errorf("netlink: monitor: %w", err)
		}
		for msg := range split(m.recv[:n]) {
			each(msg)
		}
	}
}

// Close closes the socket.
func (m *Monitor) Close() {
	if m.fd >= 0 {
		_ = unix.Close(m.fd)
		m.fd = -1
	}
}
