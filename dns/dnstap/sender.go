package dnstap

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// Options say whom to tell.
type Options struct {
	// Socket is where the observer listens: unix:///run/dnstap.sock or
	// tcp://10.0.0.1:6000. Required.
	Socket   string
	Identity string // of the server, such as the node's name
	Version  string // of the server
	Log      *slog.Logger

	// Queue is how many messages wait for the observer, by default 1,024.
	Queue int
}

const (
	again        = time.Second     // after a connection that failed
	patience     = 5 * time.Second // for each step with the observer
	flushEvery   = time.Second
	bufferLength = 64 << 10
)

// Sender sends messages to an observer. Its methods are safe for concurrent use.
type Sender struct {
	o                Options
	network, address string
	queue            chan []byte
	dropped, sent    atomic.Uint64
}

// ParseSocket reads the address of an observer.
func ParseSocket(text string) (network, address string, err error) {
	network, address, ok := strings.Cut(text, "://")
	switch {
	case ok && network == "unix" && strings.HasPrefix(address, "/"):
		return network, address, nil
	case ok && network == "tcp":
		if _, port, err := net.SplitHostPort(address); err == nil && port != "" {
			return network, address, nil
		}
	}
	return "", "", fmt.Errorf("expected unix:///PATH or tcp://HOST:PORT, found %q", text)
}

// New returns a sender, which sends nothing until it is run.
func New(o Options) (*Sender, error) {
	s := &Sender{}
	var err error
	if s.network, s.address, err = ParseSocket(o.Socket); err != nil {
		return nil, fmt.Errorf("dnstap: %w", err)
	}
	if o.Queue == 0 {
		o.Queue = 1024
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s.o, s.queue = o, make(chan []byte, o.Queue)
	return s, nil
}

// Send has a message sent, or drops it if too many are waiting. It keeps nothing of
// it.
func (s *Sender) Send(m *Message) {
	if len(s.queue) == cap(s.queue) { // spares the work
		s.dropped.Add(1)
		return
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 160+len(m.Query)+len(m.Response)), 0)
	frame = m.appendTo(frame, s.o.Identity, s.o.Version)
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	select {
	case s.queue <- frame:
	default:
		s.dropped.Add(1)
	}
}

// Counts returns how many messages were sent, and how many were dropped.
func (s *Sender) Counts() (sent, dropped uint64) { return s.sent.Load(), s.dropped.Load() }

// Run sends messages until the context ends, and then those that are waiting. While
// there is no observer it drops them.
func (s *Sender) Run(ctx context.Context) {
	failing := false
	for ctx.Err() == nil {
		err := s.stream(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			s.o.Log.Warn("dns: nobody takes dnstap's messages", "socket", s.o.Socket, "err", err)
		}
		failing = err != nil
		select {
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
}

// stream sends over one connection.
func (s *Sender) stream(ctx context.Context) error {
	d := net.Dialer{Timeout: patience}
	conn, err := d.DialContext(ctx, s.network, s.address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	c := &patient{conn}
	if err := handshake(c); err != nil {
		return err
	}
	s.o.Log.Info("dns: dnstap's messages are taken", "socket", s.o.Socket)
	out := bufio.NewWriterSize(c, bufferLength)
	flush := time.NewTicker(flushEvery)
	defer flush.Stop()
	for {
		// What is in the buffer goes out now and then, and not for each message
		// by itself.
		select {
		case frame := <-s.queue:
			if err := s.write(out, frame); err != nil {
				return err
			}
		case <-flush.C:
			if err := out.Flush(); err != nil {
				return err
			}
		case <-ctx.Done():
			for range len(s.queue) {
				if err := s.write(out, <-s.queue); err != nil {
					return err
				}
			}
			if err := out.Flush(); err != nil {
				return err
			}
			return finish(c)
		}
	}
}

func (s *Sender) write(out *bufio.Writer, frame []byte) error {
	if _, err := out.Write(frame); err != nil {
		s.dropped.Add(1)
		return err
	}
	s.sent.Add(1)
	return nil
}

// patient gives each step with the other end its time.
type patient struct{ net.Conn }

func (p *patient) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	return p.Conn.Read(b)
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}
