package wire

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrName indicates that a name is malformed or too long.
var ErrName = errors.New("malformed name")

// AppendLabel appends one label of a name. The caller has checked its length.
func AppendLabel(dst []byte, label string) []byte {
	dst = append(dst, byte(len(label)))
	return append(dst, label...)
}

// ParseName reads a name as people write it, with or without the last dot and
// with the escapes of master files (RFC 1035 §5.1). It keeps the case, and
// allocates.
func ParseName(s string) ([]byte, error) {
	if s == "." || s == "" {
		return []byte{0}, nil
	}
	name := make([]byte, 1, len(s)+2)
	start := 0 // of the label being read
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch c {
		case '.':
			n := len(name) - start - 1
			if n == 0 || n > MaxLabel {
				return nil, fmt.Errorf("%w %q: a label has %d octets, expected 1 to %d", ErrName, s, n, MaxLabel)
			}
			name[start] = byte(n)
			start = len(name)
			name = append(name, 0)
			continue
		case '\\':
			var ok bool
			if c, i, ok = unescape(s, i); !ok {
				return nil, fmt.Errorf("%w %q: bad escape", ErrName, s)
			}
		}
		name = append(name, c)
	}
	if n := len(name) - start - 1; n > 0 {
		if n > MaxLabel {
			return nil, fmt.Errorf("%w %q: a label has %d octets, expected 1 to %d", ErrName, s, n, MaxLabel)
		}
		name[start] = byte(n)
		name = append(name, 0)
	}
	if len(name) > MaxName {
		return nil, fmt.Errorf("%w %q: longer than %d octets", ErrName, s, MaxName)
	}
	return name, nil
}

// unescape reads \X or \DDD at s[i] and returns the octet and the index of the
// escape's last character.
func unescape(s string, i int) (c byte, last int, ok bool) {
	if i+1 >= len(s) {
		return 0, i, false
	}
	if s[i+1] < '0' || s[i+1] > '9' {
		return s[i+1], i + 1, true
	}
	if i+3 >= len(s) {
		return 0, i, false
	}
	n, err := strconv.ParseUint(s[i+1:i+4], 10, 8)
	return byte(n), i + 3, err == nil
}

// NameString returns a name in wire form as people write it, with the last dot.
// It allocates.
func NameString(name []byte) string {
	if len(name) <= 1 {
		return "."
	}
	var b strings.Builder
	for len(name) > 0 && name[0] != 0 {
		n := min(int(name[0]), len(name)-1)
		for _, c := range name[1 : 1+n] {
			switch {
			case strings.IndexByte(`."\;@$()`, c) >= 0:
				b.WriteByte('\\')
				b.WriteByte(c)
			case c <= ' ' || c >= 0x7f:
				fmt.Fprintf(&b, "\\%03d", c)
			default:
				b.WriteByte(c)
			}
		}
		b.WriteByte('.')
		name = name[1+n:]
	}
	return b.String()
}

// AppendLower appends name in lower case. The lengths of labels are below 'A'
// and pass unchanged.
func AppendLower(dst, name []byte) []byte {
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// EqualFold reports whether two names are the same but for case.
func EqualFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		d := b[i]
		if c == d {
			continue
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if 'A' <= d && d <= 'Z' {
			d += 'a' - 'A'
		}
		if c != d {
			return false
		}
	}
	return true
}

// InZone reports whether name is zone or below it. Both are in lower case.
func InZone(name, zone []byte) bool {
	for len(name) > len(zone) {
		name = Parent(name)
	}
	return string(name) == string(zone)
}

// Parent returns name without its first label; the root's is the root.
func Parent(name []byte) []byte {
	if len(name) <= 1 || 1+int(name[0]) >= len(name) {
		return name[max(0, len(name)-1):]
	}
	return name[1+int(name[0]):]
}

// nameEnd returns the offset after the name at off of msg, without following
// pointers.
func nameEnd(msg []byte, off int) (int, bool) {
	for off < len(msg) {
		c := msg[off]
		switch {
		case c == 0:
			return off + 1, true
		case c >= 0xc0:
			return off + 2, off+2 <= len(msg)
		case c > MaxLabel:
			return 0, false
		}
		off += 1 + int(c)
	}
	return 0, false
}

// AppendName appends the name at off of msg with all pointers followed. It
// returns false for a malformed name, whose start it may have appended.
func AppendName(dst, msg []byte, off int) ([]byte, bool) {
	start := len(dst)
	limit := off // each pointer must lead before all that was read
	for off < len(msg) {
		c := msg[off]
		switch {
		case c == 0:
			return append(dst, 0), len(dst)-start < MaxName
		case c >= 0xc0:
			if off+1 >= len(msg) {
				return dst, false
			}
			to := int(c&0x3f)<<8 | int(msg[off+1])
			if to >= limit {
				return dst, false
			}
			off, limit = to, to
			continue
		case c > MaxLabel:
			return dst, false
		}
		end := off + 1 + int(c)
		if end > len(msg) || len(dst)-start+1+int(c) >= MaxName {
			return dst, false
		}
		dst = append(dst, msg[off:end]...)
		off = end
	}
	return dst, false
}
