package dnstap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Frame Streams: each frame has its length before it; a length of zero begins a
// control frame (farsightsec/fstrm, "Frame Streams" control.h). Over a socket both
// ends speak: READY, ACCEPT, START, then data, and at the end STOP and FINISH.
const (
	contentType = "protobuf:dnstap.Dnstap"

	controlAccept = 1
	controlStart  = 2
	controlStop   = 3
	controlReady  = 4
	controlFinish = 5

	fieldContentType = 1
	maxControl       = 512 // as in fstrm
)

// errFrames indicates that the other end does not speak Frame Streams, or not of
// dnstap.
var errFrames = errors.New("expected Frame Streams of " + contentType)

// control returns a control frame, with the type of the content if it is to say that.
func control(kind uint32, withType bool) []byte {
	var dst []byte
	length := uint32(4)
	if withType {
		length += 8 + uint32(len(contentType))
	}
	dst = binary.BigEndian.AppendUint32(dst, 0)
	dst = binary.BigEndian.AppendUint32(dst, length)
	dst = binary.BigEndian.AppendUint32(dst, kind)
	if withType {
		dst = binary.BigEndian.AppendUint32(dst, fieldContentType)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(contentType)))
		dst = append(dst, contentType...)
	}
	return dst
}

// readControl reads a control frame and returns its kind and the types that it
// names.
func readControl(r io.Reader) (kind uint32, types []string, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(head[4:])
	if binary.BigEndian.Uint32(head[:]) != 0 || length < 4 || length > maxControl {
		return 0, nil, errFrames
	}
	b := make([]byte, length)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, err
	}
	kind, b = binary.BigEndian.Uint32(b), b[4:]
	for len(b) >= 8 {
		field, n := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
		if b = b[8:]; uint64(n) > uint64(len(b)) {
			return 0, nil, errFrames
		}
		if field == fieldContentType {
			types = append(types, string(b[:n]))
		}
		b = b[n:]
	}
	if len(b) > 0 {
		return 0, nil, errFrames
	}
	return kind, types, nil
}

// handshake begins a stream.
func handshake(rw io.ReadWriter) error {
	if _, err := rw.Write(control(controlReady, true)); err != nil {
		return err
	}
	kind, types, err := readControl(rw)
	if err != nil {
		return err
	}
	if kind != controlAccept || len(types) > 0 && !slices.Contains(types, contentType) {
		return fmt.Errorf("%w, found control frame %d of %q", errFrames, kind, types)
	}
	_, err = rw.Write(control(controlStart, true))
	return err
}

// finish ends a stream: what was sent is there once the other end says so.
func finish(rw io.ReadWriter) error {
	if _, err := rw.Write(control(controlStop, false)); err != nil {
		return err
	}
	kind, _, err := readControl(rw)
	if err == nil && kind != controlFinish {
		err = errFrames
	}
	return err
}
