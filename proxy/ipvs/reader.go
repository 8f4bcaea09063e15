package ipvs

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// reader asks the kernel for those who are not the engine's goroutine.
type reader struct {
	mu     sync.Mutex
	kernel *system
	filter *nfnl.Socket
	stats  *nl.NetlinkSocket
	family int // the generic netlink family of IPVS
}

func newReader(o Options) (_ *reader, err error) {
	r := &reader{}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.kernel, err = openSystem(o.NetNS, o); err != nil {
		return nil, err
	}
	if r.filter, err = nfnl.Dial(o.NetNS); err != nil {
		return nil, unsupported(err)
	}
	family, err := netlink.GenlFamilyGet("IPVS")
	if err != nil {
		return nil, fmt.Errorf("ipvs: find netlink family: %w", err)
	}
	r.family = int(family.ID)
	namespace := netns.None()
	if o.NetNS >= 0 {
		namespace = netns.NsHandle(o.NetNS)
	}
	if r.stats, err = nl.GetNetlinkSocketAt(namespace, netns.None(), unix.NETLINK_GENERIC); err != nil {
		return nil, fmt.Errorf("ipvs: netlink: %w", err)
	}
	return r, nil
}

func (r *reader) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kernel != nil {
		r.kernel.close()
	}
	if r.filter != nil {
		r.filter.Close()
	}
	if r.stats != nil {
		r.stats.Close()
	}
}

// Numbers of linux/ip_vs.h. The library has only counters of 32 bits, which
// begin anew.
const (
	cmdGetService = 4
	attrService   = 1

	attrAddressFamily = 1
	attrProtocol      = 2
	attrAddress       = 3
	attrPort          = 4
	attrMark          = 5
	attrStats64       = 12

	attrConnections = 1
	attrPacketsIn   = 2
	attrPacketsOut  = 3
	attrBytesIn     = 4
	attrBytesOut    = 5
)

// CountsBytes implements [proxy.ByteCounter]: IPVS always counts them.
func (e *Engine) CountsBytes() bool { return true }

// Count implements [proxy.Counter]. The kernel adds up what its processors counted
// every two seconds.
func (e *Engine) Count(ctx context.Context, each func(proxy.FrontendKey, proxy.Traffic)) error {
	if e.reader == nil {
		return nil
	}
	e.reader.mu.Lock()
	counts, err := e.reader.count()
	e.reader.mu.Unlock()
	if err != nil {
		return err
	}
	sum := map[proxy.FrontendKey]proxy.Traffic{}
	e.frontends.Lock()
	for id, c := range counts {
		key, ok := e.frontends.of[id]
		if !ok || c == (proxy.Traffic{}) {
			continue
		}
		s := sum[key]
		sum[key] = proxy.Traffic{Connections: s.Connections + c.Connections, Packets: s.Packets + c.Packets, Bytes: s.Bytes + c.Bytes}
	}
	e.frontends.Unlock()
	for key, t := range sum {
		if err := ctx.Err(); err != nil {
			return err
		}
		each(key, t)
	}
	return nil
}

func (r *reader) count() (map[serverID]proxy.Traffic, error) {
	req := nl.NewNetlinkRequest(r.family, unix.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_GENERIC: {Socket: r.stats}}
	req.AddData(&nl.Genlmsg{Command: cmdGetService, Version: 1})
	list, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, denied(fmt.Errorf("ipvs: list counters: %w", err))
	}
	out := make(map[serverID]proxy.Traffic, len(list))
	for _, msg := range list {
		if len(msg) < nl.SizeofGenlmsg {
			continue
		}
		for kind, v := range nfnl.Attributes(msg[nl.SizeofGenlmsg:]) {
			if kind == attrService {
				id, t := parseCounters(v)
				out[id] = t
			}
		}
	}
	return out, nil
}

// parseCounters reads the attributes of a virtual server.
func parseCounters(b []byte) (serverID, proxy.Traffic) {
	id, t := serverID{family: proxy.IPv4}, proxy.Traffic{}
	var addr []byte
	port := uint16(0)
	for kind, v := range nfnl.Attributes(b) {
		switch {
		case kind == attrAddressFamily && len(v) >= 2 && binary.NativeEndian.Uint16(v) == unix.AF_INET6:
			id.family = proxy.IPv6
		case kind == attrProtocol && len(v) >= 2:
			id.protocol = proxy.Protocol(binary.NativeEndian.Uint16(v))
		case kind == attrAddress:
			addr = v
		case kind == attrPort && len(v) >= 2:
			port = binary.BigEndian.Uint16(v)
		case kind == attrMark && len(v) >= 4:
			id.mark = binary.NativeEndian.Uint32(v)
		case kind == attrStats64:
			for kind, v := range nfnl.Attributes(v) {
				if len(v) != 8 {
					continue
				}
				switch n := binary.NativeEndian.Uint64(v); kind {
				case attrConnections:
					t.Connections = n
				case attrPacketsIn, attrPacketsOut:
					t.Packets += n
				case attrBytesIn, attrBytesOut:
					t.Bytes += n
				}
			}
		}
	}
	if id.mark == 0 {
		if id.family == proxy.IPv4 && len(addr) > 4 {
			addr = addr[:4]
		}
		if a, ok := netip.AddrFromSlice(addr); ok {
			id.addr = netip.AddrPortFrom(a, port)
		}
	}
	return id, t
}

func nativeUint32(s string) uint32 { return binary.NativeEndian.Uint32([]byte(s)) }
