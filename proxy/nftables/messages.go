package nftables

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
)

// messages builds netlink messages of nf_tables in one buffer.
type messages struct {
	buf   []byte
	start int // of the message in progress
	last  int // of the last message that was finished
	count int
}

const nlmsgHeader = 16 // struct nlmsghdr; struct nfgenmsg follows

// begin starts a message. Its sequence number is its position in the buffer.
func (m *messages) begin(kind int, flags uint16, family proxy.Family) {
	nf := byte(unix.NFPROTO_IPV4)
	if family == proxy.IPv6 {
		nf = unix.NFPROTO_IPV6
	}
	m.raw(uint16(unix.NFNL_SUBSYS_NFTABLES<<8|kind), unix.NLM_F_REQUEST|flags, nf, 0)
}

func (m *messages) raw(kind, flags uint16, family byte, resource uint16) {
	m.start = len(m.buf)
	m.buf = binary.NativeEndian.AppendUint32(m.buf, 0)
	m.buf = binary.NativeEndian.AppendUint16(m.buf, kind)
	m.buf = binary.NativeEndian.AppendUint16(m.buf, flags)
	m.buf = binary.NativeEndian.AppendUint32(m.buf, uint32(m.start))
	m.buf = binary.NativeEndian.AppendUint32(m.buf, 0)
	m.buf = append(m.buf, family, unix.NFNETLINK_V0)
	m.buf = binary.BigEndian.AppendUint16(m.buf, resource)
}

// finish ends the message.
func (m *messages) finish() {
	binary.NativeEndian.PutUint32(m.buf[m.start:], uint32(len(m.buf)-m.start))
	m.last = m.start
	m.count++
}

// batchBegin and batchEnd frame a transaction.
func (m *messages) batchBegin() {
	m.raw(unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	m.finish()
}

// batchEnd asks for one acknowledgement, of the last message: errors are sent
// unasked, and a few hundred thousand acknowledgements would fill the socket.
func (m *messages) batchEnd() {
	flags := binary.NativeEndian.Uint16(m.buf[m.last+6:])
	binary.NativeEndian.PutUint16(m.buf[m.last+6:], flags|unix.NLM_F_ACK)
	m.raw(unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	m.finish()
}

// nest starts a nested attribute and returns what end needs.
func (m *messages) nest(kind uint16) int {
	at := len(m.buf)
	m.buf = append(m.buf, 0, 0)
	m.buf = binary.NativeEndian.AppendUint16(m.buf, kind|unix.NLA_F_NESTED)
	return at
}

func (m *messages) end(at int) {
	binary.NativeEndian.PutUint16(m.buf[at:], uint16(len(m.buf)-at))
}

func (m *messages) attr(kind uint16, size int) {
	m.buf = binary.NativeEndian.AppendUint16(m.buf, uint16(4+size))
	m.buf = binary.NativeEndian.AppendUint16(m.buf, kind)
}

func (m *messages) pad() {
	for len(m.buf)%4 != 0 {
		m.buf = append(m.buf, 0)
	}
}

func (m *messages) bytes(kind uint16, b []byte) {
	m.attr(kind, len(b))
	m.buf = append(m.buf, b...)
	m.pad()
}

func (m *messages) text(kind uint16, s string) {
	m.attr(kind, len(s))
	m.buf = append(m.buf, s...)
	m.pad()
}

// string appends a string with its terminating zero.
func (m *messages) string(kind uint16, s string) {
	m.attr(kind, len(s)+1)
	m.buf = append(m.buf, s...)
	m.buf = append(m.buf, 0)
	m.pad()
}

func (m *messages) uint32(kind uint16, v uint32) {
	m.attr(kind, 4)
	m.buf = binary.BigEndian.AppendUint32(m.buf, v)
}

func (m *messages) uint64(kind uint16, v uint64) {
	m.attr(kind, 8)
	m.buf = binary.BigEndian.AppendUint64(m.buf, v)
}
