package wire

import "encoding/binary"

// MaxSubnet is the longest data of a Client Subnet option, in octets.
const MaxSubnet = 4 + 16

// OptClientSubnet is the code of the option (RFC 7871 §6).
const OptClientSubnet = 8

// AppendSubnet appends a Client Subnet option with its code and length to the end of
// an OPT record without options, the last of a message.
func AppendSubnet(dst, data []byte) []byte {
	binary.BigEndian.PutUint16(dst[len(dst)-2:], uint16(4+len(data)))
	dst = binary.BigEndian.AppendUint16(dst, OptClientSubnet)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(data)))
	return append(dst, data...)
}

// appendSubnet gives back a client's option with the scope of the answer, if there
// was one.
func appendSubnet(dst, data []byte, scope uint8) []byte {
	if data == nil {
		return dst
	}
	dst = AppendSubnet(dst, data)
	dst[len(dst)-len(data)+3] = scope
	return dst
}

// subnetOptionLen returns how long the option is that [appendSubnet] writes.
func subnetOptionLen(data []byte) int {
	if data == nil {
		return 0
	}
	return 4 + len(data)
}

// clientSubnet returns the data of the Client Subnet option among options, if it
// is well-formed: a family, the length of a prefix, no scope, and as many octets of
// the address as the prefix needs, with no bits set beyond it (RFC 7871 §6).
func clientSubnet(options []byte) []byte {
	data := option(options, OptClientSubnet)
	if len(data) < 4 {
		return nil
	}
	bits := int(data[2])
	most := addressBits(binary.BigEndian.Uint16(data))
	if bits > most || data[3] != 0 || len(data) != 4+(bits+7)/8 {
		return nil
	}
	if bits%8 != 0 && data[len(data)-1]<<(bits%8) != 0 {
		return nil
	}
	return data
}

// clientScope returns the scope of an answer's Client Subnet option, if there is one.
func clientScope(options []byte) uint8 {
	data := option(options, OptClientSubnet)
	if len(data) < 4 || int(data[3]) > addressBits(binary.BigEndian.Uint16(data)) {
		return 0
	}
	return data[3]
}

// option returns the data of the first option of a code; nil: there is none.
func option(options []byte, code uint16) []byte {
	for len(options) >= 4 {
		n := int(binary.BigEndian.Uint16(options[2:]))
		if 4+n > len(options) {
			return nil
		}
		if binary.BigEndian.Uint16(options) == code {
			return options[4 : 4+n]
		}
		options = options[4+n:]
	}
	return nil
}

// addressBits returns the bits of an address of a family, -1 for an unknown one.
func addressBits(family uint16) int {
	switch family {
	case 1:
		return 32
	case 2:
		return 128
	}
	return -1
}
