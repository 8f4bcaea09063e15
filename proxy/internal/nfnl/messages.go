package nfnl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Messages builds netlink messages of netfilter in one buffer. The zero value is
// ready to be used.
type Messages struct {
	buf   []byte
	start int // of the message in progress
	last  int // of the last message that was finished
	count int
}

const nlmsgHeader = 16 // struct nlmsghdr; struct nfgenmsg follows

// Begin starts a message. Its sequence number is its position in the buffer.
func (m *Messages) Begin(subsystem, kind int, flags uint16, family byte) {
	m.raw(uint16(subsystem<<8|kind), unix.NLM_F_REQUEST|flags, family, 0)
}

func (m *Messages) raw(kind, flags uint16, family byte, resource uint16) {
	m.start = len(m.buf)
	m.buf = binary.NativeEndian.AppendUint32(m.buf, 0)
	m.buf = binary.NativeEndian.AppendUint16(m.buf, kind)
	m.buf = binary.NativeEndian.AppendUint16(m.buf, flags)
	m.buf = binary.NativeEndian.AppendUint32(m.buf, uint32(m.start))
	m.buf = binary.NativeEndian.AppendUint32(m.buf, 0)
	m.buf = append(m.buf, family, unix.NFNETLINK_V0)
	m.buf = binary.BigEndian.AppendUint16(m.buf, resource)
}

// Sequence returns the sequence number of the message in progress.
func (m *Messages) Sequence() uint32 { return uint32(m.start) }

// Finish ends the message.
func (m *Messages) Finish() {
	binary.NativeEndian.PutUint32(m.buf[m.start:], uint32(len(m.buf)-m.start))
	m.last = m.start
	m.count++
}

// BeginBatch starts a transaction.
func (m *Messages) BeginBatch() {
	m.raw(unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	m.Finish()
}

// EndBatch ends it. It asks for one acknowledgement, of the last message: errors are sent
// unasked, and a few hundred thousand acknowledgements would fill the socket.
func (m *Messages) EndBatch() {
	flags := binary.NativeEndian.Uint16(m.buf[m.last+6:])
	binary.NativeEndian.PutUint16(m.buf[m.last+6:], flags|unix.NLM_F_ACK)
	m.raw(unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	m.Finish()
}

// Nest starts a nested attribute and returns what End needs.
func (m *Messages) Nest(kind uint16) int {
	at := len(m.buf)
	m.buf = append(m.buf, 0, 0)
	m.buf = binary.NativeEndian.AppendUint16(m.buf, kind|unix.NLA_F_NESTED)
	return at
}

// End ends the nested attribute that Nest started.
func (m *Messages) End(at int) {
	binary.NativeEndian.PutUint16(m.buf[at:], uint16(len(m.buf)-at))
}

func (m *Messages) attr(kind uint16, size int) {
	m.buf = binary.NativeEndian.AppendUint16(m.buf, uint16(4+size))
	m.buf = binary.NativeEndian.AppendUint16(m.buf, kind)
}

func (m *Messages) pad() {
	for len(m.buf)%4 != 0 {
		m.buf = append(m.buf, 0)
	}
}

// Bytes appends an attribute.
func (m *Messages) Bytes(kind uint16, b []byte) {
	m.attr(kind, len(b))
	m.buf = append(m.buf, b...)
	m.pad()
}

// Text appends a string as it is.
func (m *Messages) Text(kind uint16, s string) {
	m.attr(kind, len(s))
	m.buf = append(m.buf, s...)
	m.pad()
}

// String appends a string with its terminating zero.
func (m *Messages) String(kind uint16, s string) {
	m.attr(kind, len(s)+1)
	m.buf = append(m.buf, s...)
	m.buf = append(m.buf, 0)
	m.pad()
}

// Uint32 appends a number in the order of the network.
func (m *Messages) Uint32(kind uint16, v uint32) {
	m.attr(kind, 4)
	m.buf = binary.BigEndian.AppendUint32(m.buf, v)
}

// Uint64 appends a number in the order of the network.
func (m *Messages) Uint64(kind uint16, v uint64) {
	m.attr(kind, 8)
	m.buf = binary.BigEndian.AppendUint64(m.buf, v)
}

// Len returns the length of all messages in bytes.
func (m *Messages) Len() int { return len(m.buf) }

// Count returns the number of messages, those that frame a transaction included.
func (m *Messages) Count() int { return m.count }

// Reset forgets all messages and keeps the memory.
func (m *Messages) Reset() { *m = Messages{buf: m.buf[:0]} }

// At returns the message whose sequence number a [Refused] has.
func (m *Messages) At(sequence uint32) (msg Message, ok bool) {
	if int(sequence)+nlmsgHeader > len(m.buf) {
		return Message{}, false
	}
	for msg := range split(m.buf[sequence:]) {
		return msg, len(msg.Body) >= 4
	}
	return Message{}, false
}

// All yields the messages.
func (m *Messages) All() func(func(Message) bool) { return split(m.buf) }
