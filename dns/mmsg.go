package dns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/dns/wire"
)

const (
	batchSize  = 32 // messages a system call; the gain is flat from 8 on
	queryRoom  = 4096
	controlLen = 64 // for a packet's destination, IPv4 or IPv6
)

// batch receives and sends several datagrams with one system call each, on
// buffers that are made once. (The net package, and with it golang.org/x/net's
// ReadBatch, allocates the addresses of every message.)
//
// The calls never wait, and are made without telling Go's scheduler: a batch takes
// long enough for it to think otherwise, give the processor to another thread, and
// look for such calls thousands of times a second.
//
// Each message is answered from its own slot, so that its sender's address and
// the address that it was sent to serve the answer as they came.
type batch struct {
	conn syscall.RawConn
	in   [batchSize]unix.Mmsghdr
	out  [batchSize]unix.Mmsghdr

	queries  [batchSize][queryRoom]byte
	replies  [batchSize][wire.MaxUDP]byte
	peers    [batchSize]unix.RawSockaddrInet6 // room for IPv4's too
	control  [batchSize][controlLen]byte
	inVecs   [batchSize]unix.Iovec
	outVecs  [batchSize]unix.Iovec
	wildcard bool

	// Results of the callbacks below, which are made once because a closure
	// at each call would be allocated.
	n            int
	errno        syscall.Errno
	sent, toSend int
	read, write  func(fd uintptr) bool
	readNow      bool // do not wait for more
}

// newBatch prepares for conn. wildcard says that the socket is bound to no
// address, so that each answer has to name the one that it comes from.
func newBatch(conn *net.UDPConn, wildcard bool) (*batch, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("socket of %v: %w", conn.LocalAddr(), err)
	}
	b := &batch{conn: raw, wildcard: wildcard}
	b.read, b.write = b.recvmmsg, b.sendmmsg
	for i := range batchSize {
		b.inVecs[i].Base = &b.queries[i][0]
		b.inVecs[i].SetLen(queryRoom)
		b.in[i].Hdr.Iov = &b.inVecs[i]
		b.in[i].Hdr.SetIovlen(1)
		b.in[i].Hdr.Name = (*byte)(unsafe.Pointer(&b.peers[i]))
	}
	return b, nil
}

// receive waits for messages and returns how many there are; with now it returns
// what is there. The error is that of the connection.
func (b *batch) receive(now bool) (int, error) {
	for i := range batchSize {
		h := &b.in[i].Hdr
		h.Namelen = unix.SizeofSockaddrInet6
		if b.wildcard {
			h.Control = &b.control[i][0]
			h.SetControllen(controlLen)
		}
	}
	b.n, b.errno, b.readNow = 0, 0, now
	if err := b.conn.Read(b.read); err != nil {
		return 0, err
	}
	if b.errno != 0 && b.errno != unix.EAGAIN {
		return 0, os.NewSyscallError("recvmmsg", b.errno)
	}
	return b.n, nil
}

func (b *batch) recvmmsg(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.in[0])), batchSize, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			b.n, b.errno = int(n), 0
			return true
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return b.readNow
		}
		b.errno = errno
		return true
	}
}

// message returns the i-th message received.
func (b *batch) message(i int) []byte { return b.queries[i][:b.in[i].Len] }

// room returns where the answer to the i-th message can be written.
func (b *batch) room(i int) []byte { return b.replies[i][:0] }

// reply queues msg, which is in the i-th room, as the answer to the i-th message.
func (b *batch) reply(i int, msg []byte) {
	o := &b.out[b.toSend]
	b.outVecs[b.toSend].Base = &msg[0]
	b.outVecs[b.toSend].SetLen(len(msg))
	o.Hdr = b.in[i].Hdr // peer, and the address that it sent to
	o.Hdr.Iov = &b.outVecs[b.toSend]
	if b.wildcard {
		forgetInterface(b.control[i][:])
	}
	b.toSend++
}

// send sends what is queued. A message that cannot be sent is lost, as any
// datagram may be.
func (b *batch) send() error {
	b.sent = 0
	var err error
	for b.sent < b.toSend && err == nil {
		b.errno = 0
		if err = b.conn.Write(b.write); err == nil && b.errno != 0 {
			b.sent++ // the first of the rest is at fault
		}
	}
	b.toSend = 0
	return err
}

func (b *batch) sendmmsg(fd uintptr) bool {
	for b.sent < b.toSend {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.out[b.sent])), uintptr(b.toSend-b.sent), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			b.sent += int(n)
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			b.errno = errno
			return true
		}
	}
	return true
}

// origin keeps where the i-th message came from, to answer it later.
type origin struct {
	peer    unix.RawSockaddrInet6
	peerLen uint32
	control []byte
}

func (b *batch) origin(i int) origin {
	h := &b.in[i].Hdr
	o := origin{peer: b.peers[i], peerLen: h.Namelen}
	if b.wildcard {
		forgetInterface(b.control[i][:])
		o.control = append([]byte(nil), b.control[i][:h.Controllen]...)
	}
	return o
}

// sendTo sends one message to o over conn.
func sendTo(conn syscall.RawConn, msg []byte, o *origin) error {
	iov := unix.Iovec{Base: &msg[0]}
	iov.SetLen(len(msg))
	h := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&o.peer)), Namelen: o.peerLen, Iov: &iov}
	h.SetIovlen(1)
	if len(o.control) > 0 {
		h.Control = &o.control[0]
		h.SetControllen(len(o.control))
	}
	var failed error
	err := conn.Write(func(fd uintptr) bool {
		for {
			_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT)
			switch errno {
			case unix.EINTR:
				continue
			case unix.EAGAIN:
				return false
			case 0:
			default:
				failed = os.NewSyscallError("sendmsg", errno)
			}
			return true
		}
	})
	return errors.Join(err, failed)
}

// forgetInterface clears the interface in a received IP_PKTINFO or IPV6_PKTINFO
// message, so that the answer is routed as any other and only its source is
// given. Link-local addresses mean nothing without their interface.
func forgetInterface(control []byte) {
	if len(control) < unix.SizeofCmsghdr {
		return
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	data := control[unix.CmsgLen(0):]
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		(*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0])).Ifindex = 0
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
		if info.Addr[0] != 0xfe || info.Addr[1]&0xc0 != 0x80 {
			info.Ifindex = 0
		}
	}
}
