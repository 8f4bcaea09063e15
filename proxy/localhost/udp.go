package localhost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxDatagram is the largest UDP payload.
const maxDatagram = 1<<16 - 1

// buffers are shared: a flow has one only while it copies a datagram.
var buffers = sync.Pool{New: func() any { return new([maxDatagram]byte) }}

// flows are those of one UDP port.
type flows struct {
	*listeners
	is   *listener
	conn *net.UDPConn

	mu  sync.Mutex // guards all below
	all map[netip.AddrPort]*flow
	end bool // the port is closed
}

// flow is what one client sends and gets.
type flow struct {
	backend netip.AddrPort
	conn    *net.UDPConn
	last    atomic.Int64 // when a datagram came, in Unix nanoseconds
}

func (l *listeners) listenUDP(p port, is *listener) error {
	pc, err := l.ListenPacket(l.ctx, networkOf(p), p.address().String())
	if err != nil {
		return err
	}
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		return errors.Join(fmt.Errorf("localhost: expected a UDP socket, found %T", pc), pc.Close())
	}
	f := &flows{listeners: l, is: is, conn: conn, all: map[netip.AddrPort]*flow{}}
	is.close, is.changed = f.close, f.changed
	l.work.Go(f.serve)
	return nil
}

// close ends the port and its flows.
func (f *flows) close() {
	_ = f.conn.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.end = true
	for _, one := range f.all {
		_ = one.conn.Close()
	}
}

// changed ends the flows to endpoints that are gone. The others go on, with what
// they have, as they do in the kernel.
func (f *flows) changed(t *target) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for client, one := range f.all {
		if _, ok := slices.BinarySearchFunc(t.established, one.backend, netip.AddrPort.Compare); !ok {
			delete(f.all, client)
			_ = one.conn.Close()
		}
	}
}

// serve hands on what clients send, until the port is closed.
func (f *flows) serve() {
	buf := buffers.Get().(*[maxDatagram]byte)
	defer buffers.Put(buf)
	for {
		n, client, err := f.conn.ReadFromUDPAddrPort(buf[:])
		if err != nil {
			if errors.Is(err, net.ErrClosed) || f.ctx.Err() != nil {
				return
			}
			time.Sleep(acceptPause)
			continue
		}
		one := f.flow(client)
		if one == nil {
			f.metrics.rejected.WithLabelValues("udp").Inc()
			continue
		}
		one.last.Store(time.Now().UnixNano())
		// A backend that refuses is one that the next plan will not have.
		_, _ = one.conn.Write(buf[:n])
	}
}

// flow returns the client's flow; nil: there are too many, or no way to a
// backend.
func (f *flows) flow(client netip.AddrPort) *flow {
	f.mu.Lock()
	one := f.all[client]
	f.mu.Unlock()
	if one != nil {
		return one
	}
	if !f.udp.try() {
		return nil
	}
	backend := f.is.picker.pick(time.Now())
	ctx, cancel := context.WithTimeout(f.ctx, dialTimeout)
	defer cancel()
	dialled, err := f.Dial(ctx, "udp", backend.String())
	if err != nil {
		f.udp.release()
		return nil
	}
	conn, ok := dialled.(*net.UDPConn)
	if !ok {
		_ = dialled.Close()
		f.udp.release()
		return nil
	}
	one = &flow{backend: backend, conn: conn}
	one.last.Store(time.Now().UnixNano())
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.end {
		_ = conn.Close()
		f.udp.release()
		return nil
	}
	f.all[client] = one
	f.metrics.accept("udp")
	f.work.Go(func() {
		defer f.udp.release()
		f.answer(client, one)
	})
	return one
}

// answer hands on what the backend sends, until nothing came for long enough from
// either side or the flow is ended.
func (f *flows) answer(client netip.AddrPort, one *flow) {
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.all[client] == one {
			delete(f.all, client)
		}
		_ = one.conn.Close()
	}()
	raw, err := one.conn.SyscallConn()
	if err != nil {
		return
	}
	for {
		_ = one.conn.SetReadDeadline(time.Unix(0, one.last.Load()).Add(f.Idle))
		err := f.answerOne(raw, client, one)
		switch {
		case err == nil, errors.Is(err, unix.ECONNREFUSED):
		case isTimeout(err):
			if time.Since(time.Unix(0, one.last.Load())) >= f.Idle {
				return
			}
		default:
			return
		}
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// answerOne waits for one datagram without a buffer, and then copies it.
func (f *flows) answerOne(raw syscall.RawConn, client netip.AddrPort, one *flow) error {
	var failed error
	err := raw.Read(func(fd uintptr) bool {
		buf := buffers.Get().(*[maxDatagram]byte)
		defer buffers.Put(buf)
		n, _, err := unix.Recvfrom(int(fd), buf[:], unix.MSG_DONTWAIT)
		for errors.Is(err, unix.EINTR) {
			n, _, err = unix.Recvfrom(int(fd), buf[:], unix.MSG_DONTWAIT)
		}
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil:
			failed = err
			return true
		}
		one.last.Store(time.Now().UnixNano())
		_, _ = f.conn.WriteToUDPAddrPort(buf[:n], client) // the client may be gone
		return true
	})
	return errors.Join(err, failed)
}
