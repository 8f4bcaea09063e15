package enginetest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

// SCTP is spoken over raw IP sockets, as far as the first two packets of an
// association (RFC 9260 §3.3.2 and §3.3.3), so that it needs no module of the
// kernel. That is all that translation looks at.
const (
	sctpHeader  = 12
	sctpInit    = 1
	sctpInitAck = 2
	sctpAbort   = 6
	stateCookie = 7
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sctpPacket makes an INIT, or with a text an INIT ACK that has it as its cookie.
func sctpPacket(source, destination uint16, tag uint32, text []byte) []byte {
	b := make([]byte, sctpHeader+20, 128)
	binary.BigEndian.PutUint16(b, source)
	binary.BigEndian.PutUint16(b[2:], destination)
	binary.BigEndian.PutUint32(b[4:], tag)
	chunk := b[sctpHeader:]
	chunk[0] = sctpInit
	binary.BigEndian.PutUint32(chunk[4:], 1+uint32(source)) // our tag
	binary.BigEndian.PutUint32(chunk[8:], 1<<16)            // window
	binary.BigEndian.PutUint16(chunk[12:], 1)               // streams
	binary.BigEndian.PutUint16(chunk[14:], 1)
	length := 20
	if text != nil {
		chunk[0] = sctpInitAck
		for len(text)%4 != 0 {
			text = append(text, ' ')
		}
		b = binary.BigEndian.AppendUint16(b, stateCookie)
		b = binary.BigEndian.AppendUint16(b, uint16(4+len(text)))
		b = append(b, text...)
		length += 4 + len(text)
	}
	binary.BigEndian.PutUint16(b[sctpHeader+2:], uint16(length))
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}

// sctpRefusal makes an ABORT, as a machine sends it that has no server there.
func sctpRefusal(source, destination uint16, tag uint32) []byte {
	b := make([]byte, sctpHeader+4)
	binary.BigEndian.PutUint16(b, source)
	binary.BigEndian.PutUint16(b[2:], destination)
	binary.BigEndian.PutUint32(b[4:], tag)
	b[sctpHeader], b[sctpHeader+3] = sctpAbort, 4
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, castagnoli))
	return b
}

// associateAll answers every INIT.
func (h *host) associateAll(pc net.PacketConn) {
	buf := make([]byte, 512)
	for {
		n, from, err := pc.ReadFrom(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil || n < sctpHeader+20 || buf[sctpHeader] != sctpInit:
			continue
		}
		source, port := binary.BigEndian.Uint16(buf), binary.BigEndian.Uint16(buf[2:])
		tag := binary.BigEndian.Uint32(buf[sctpHeader+4:])
		if !slices.Contains(served, port) {
			_, _ = pc.WriteTo(sctpRefusal(port, source, tag), from)
			continue
		}
		_, _ = pc.WriteTo(sctpPacket(port, source, tag, h.answer(port, from)), from)
	}
}

// sctpAgain is after how long an INIT without an answer is sent again, as the
// timer T1-init of RFC 9260 §5.1 would have it, which is longer.
const sctpAgain = time.Second

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// associate sends an INIT and waits for its answer. ICMP errors come to all raw
// sockets with the same peer, so only one is at work at a time.
func (h *host) associate(to netip.AddrPort, timeout time.Duration) outcome {
	h.sctp.Lock()
	defer h.sctp.Unlock()
	var conn net.Conn
	err := h.Do(func() (err error) {
		network := "ip4:132"
		if to.Addr().Is6() {
			network = "ip6:132"
		}
		var d net.Dialer
		conn, err = d.DialContext(context.Background(), network, to.Addr().String())
		return err
	})
	if err != nil {
		return errOutcome(err)
	}
	defer func() { _ = conn.Close() }()
	packets, ok := conn.(net.PacketConn) // Read does not take the IP header off, ReadFrom does
	if !ok {
		return outcome{by: fmt.Sprintf("%T reads no packets", conn)}
	}
	source := h.sourcePort("sctp", to)
	end := time.Now().Add(timeout)
	send := func() error {
		_ = conn.SetDeadline(earlier(time.Now().Add(sctpAgain), end))
		_, err := conn.Write(sctpPacket(source, to.Port(), 0, nil))
		return err
	}
	if err := send(); err != nil {
		return errOutcome(err)
	}
	buf := make([]byte, 512)
	for {
		n, _, err := packets.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(end) {
			err = send()
		}
		if err != nil {
			return errOutcome(err)
		}
		switch {
		case n < sctpHeader+4 || binary.BigEndian.Uint16(buf[2:]) != source:
			continue
		case buf[sctpHeader] == sctpAbort:
			return outcome{by: Refused}
		case n < sctpHeader+24 || buf[sctpHeader] != sctpInitAck:
			continue
		}
		if from := binary.BigEndian.Uint16(buf); from != to.Port() {
			return outcome{by: fmt.Sprintf("answered from port %d", from)}
		}
		by, seen, _ := strings.Cut(strings.TrimSpace(string(buf[sctpHeader+24:n])), " ")
		return outcome{by, seen}
	}
}
