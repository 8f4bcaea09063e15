package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Clients of a paced load: so many sockets, each with all identifiers to use one
// after the other.
const (
	pacedSockets = 8
	pacedIDs     = 1 << 16
	pacedGrace   = time.Second // for the last answers
)

// paced is a load at a fixed rate.
type paced struct {
	files   []*os.File
	fds     [pacedSockets]int
	rate    int
	random  *rand.Rand
	queries [][]byte
	// sent is when a query left, in ns of the real-time clock; 0: none is awaited.
	sent  [pacedSockets][pacedIDs]int64
	asked int
	took  []float64 // µs, of each answer since the last turn began
}

// pace prepares to ask for names, in their order, at random moments that come to rate
// a second (a Poisson process: clients know nothing of each other).
//
// An answer's time ends when the kernel has it for the client, by the kernel's clock.
// Load generators look when they get to run, and then it is the turns of their own
// threads on one core that are measured.
func (w *world) pace(ctx context.Context, names []string, rate int) (p *paced, err error) {
	p = &paced{rate: rate, random: rand.New(rand.NewPCG(1, 2))} // the same moments for every server
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	for _, name := range names {
		q, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA).Pack()
		if err != nil {
			return nil, err
		}
		p.queries = append(p.queries, q)
	}
	for i := range p.fds {
		conn, err := w.node.DialContext(ctx, "udp", serverAddress)
		if err != nil {
			return nil, err
		}
		f, err := conn.(*net.UDPConn).File()
		_ = conn.Close()
		if err != nil {
			return nil, err
		}
		p.files = append(p.files, f)
		p.fds[i] = int(f.Fd())
		if err := unix.SetsockoptInt(p.fds[i], unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return nil, os.NewSyscallError("setsockopt SO_TIMESTAMPNS", err)
		}
	}
	return p, nil
}

func (p *paced) close() {
	for _, f := range p.files {
		_ = f.Close()
	}
}

// run asks for a time, and waits for the last answers. It has one thread that never
// sleeps.
func (p *paced) run(ctx context.Context, length time.Duration) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	gap := float64(time.Second) / float64(p.rate)
	p.took = slices.Grow(p.took[:0], int(2*length.Seconds()*float64(p.rate)))
	before := p.asked
	next := realTime()
	end := next + int64(length)
	for now := next; now < end+int64(pacedGrace) && (now < end || len(p.took) < p.asked-before); now = realTime() {
		if now >= next && next < end {
			if err := p.ask(); err != nil {
				return err
			}
			next += int64(p.random.ExpFloat64() * gap)
			continue
		}
		for i, fd := range p.fds {
			if err := p.receive(i, fd); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if len(p.took) == 0 {
		return errors.New("no query was answered")
	}
	return nil
}

func (p *paced) ask() error {
	socket, id := p.asked%pacedSockets, p.asked/pacedSockets%pacedIDs
	q := p.queries[p.asked%len(p.queries)]
	binary.BigEndian.PutUint16(q, uint16(id))
	p.asked++
	p.sent[socket][id] = realTime()
	if _, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(p.fds[socket]), uintptr(unsafe.Pointer(&q[0])), uintptr(len(q)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("send a query: %w", errno)
	}
	return nil
}

// receive takes what has arrived at a socket.
func (p *paced) receive(i, fd int) error {
	var msg [512]byte
	var control [64]byte
	iov := unix.Iovec{Base: &msg[0], Len: uint64(len(msg))}
	for {
		h := unix.Msghdr{Iov: &iov, Iovlen: 1, Control: &control[0], Controllen: uint64(len(control))}
		n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT)
		switch {
		case errno == unix.EAGAIN:
			return nil
		case errno != 0:
			return fmt.Errorf("receive an answer: %w", errno)
		case n < 12:
			continue
		}
		at := (*unix.Timespec)(unsafe.Pointer(&control[unix.CmsgLen(0)])).Nano()
		id := binary.BigEndian.Uint16(msg[:])
		if sent := p.sent[i][id]; sent != 0 {
			p.sent[i][id] = 0
			p.took = append(p.took, float64(at-sent)/1e3)
		}
	}
}

func realTime() int64 { return time.Now().UnixNano() }
