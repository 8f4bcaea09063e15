package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// Numbers of the kernel's linux/netfilter/nfnetlink_conntrack.h.
const (
	msgGet    = 1
	msgDelete = 2

	attrTupleOrig  = 1
	attrTupleReply = 2
	attrID         = 12
	attrZone       = 18
	attrFilter     = 25

	tupleIP    = 1
	tupleProto = 2

	ip4Src = 1
	ip4Dst = 2
	ip6Src = 3
	ip6Dst = 4

	protoNum = 1
	protoSrc = 2
	protoDst = 3

	filterOrigFlags   = 1
	filterFlagProtoNo = 1 << 3
)

// flow is one entry of connection tracking.
type flow struct {
	destination netip.AddrPort // that the client sends to
	answers     netip.AddrPort // the endpoint, that answers
	// reply, zone and id are as the kernel names it. The tuple of replies has
	// the endpoint in it, and the id depends on what the client sends to: a
	// later flow of the same client to another endpoint differs in the one, and
	// one to the same endpoint, but by another way, in the other.
	reply, zone, id []byte
}

// clone returns a copy that does not share the receive buffer.
func (f *flow) clone() flow {
	c := *f
	c.reply, c.zone, c.id = slices.Clone(f.reply), slices.Clone(f.zone), slices.Clone(f.id)
	return c
}

// list calls each for the UDP flows of a family, which it must not keep. Kernels
// from 5.8 on leave out other protocols by themselves; others refuse the filter.
func list(ctx context.Context, s *nfnl.Socket, family byte, each func(*flow)) error {
	err := dump(ctx, s, family, true, each)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ERANGE) {
		err = dump(ctx, s, family, false, each)
	}
	return err
}

func dump(ctx context.Context, s *nfnl.Socket, family byte, filter bool, each func(*flow)) error {
	m := &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_CTNETLINK, msgGet, unix.NLM_F_DUMP, family)
	if filter {
		t := m.Nest(attrTupleOrig)
		p := m.Nest(tupleProto)
		m.Bytes(protoNum, []byte{unix.IPPROTO_UDP})
		m.End(p)
		m.End(t)
		f := m.Nest(attrFilter)
		m.Bytes(filterOrigFlags, binary.NativeEndian.AppendUint32(nil, filterFlagProtoNo))
		m.End(f)
	}
	m.Finish()
	return s.Ask(ctx, m, func(msg nfnl.Message) {
		if f, ok := parse(msg.Body); ok {
			each(&f)
		}
	})
}

// remove deletes a flow, if it is still the same.
func remove(ctx context.Context, s *nfnl.Socket, family byte, f flow) error {
	m := &nfnl.Messages{}
	m.Begin(unix.NFNL_SUBSYS_CTNETLINK, msgDelete, unix.NLM_F_ACK, family)
	m.Bytes(attrTupleReply|unix.NLA_F_NESTED, f.reply)
	if f.zone != nil {
		m.Bytes(attrZone, f.zone)
	}
	if f.id != nil {
		m.Bytes(attrID, f.id)
	}
	m.Finish()
	return s.Ask(ctx, m, func(nfnl.Message) {})
}

// parse reads an entry. It reports false for what is not UDP.
func parse(body []byte) (flow, bool) {
	var f flow
	if len(body) < 4 {
		return f, false
	}
	udp := false
	for kind, v := range nfnl.Attributes(body[4:]) {
		switch kind {
		case attrTupleOrig:
			_, f.destination, udp = parseTuple(v)
		case attrTupleReply:
			f.reply = v
			f.answers, _, _ = parseTuple(v)
		case attrZone:
			f.zone = v
		case attrID:
			f.id = v
		}
	}
	return f, udp && f.destination.IsValid() && f.answers.IsValid()
}

func parseTuple(b []byte) (src, dst netip.AddrPort, udp bool) {
	var from, to netip.Addr
	var fromPort, toPort uint16
	for kind, v := range nfnl.Attributes(b) {
		for k, v := range nfnl.Attributes(v) {
			switch {
			case kind == tupleIP && (k == ip4Src || k == ip6Src):
				from, _ = netip.AddrFromSlice(v)
			case kind == tupleIP && (k == ip4Dst || k == ip6Dst):
				to, _ = netip.AddrFromSlice(v)
			case kind == tupleProto && k == protoNum:
				udp = len(v) == 1 && v[0] == unix.IPPROTO_UDP
			case kind == tupleProto && k == protoSrc:
				fromPort = port(v)
			case kind == tupleProto && k == protoDst:
				toPort = port(v)
			}
		}
	}
	return netip.AddrPortFrom(from, fromPort), netip.AddrPortFrom(to, toPort), udp
}
