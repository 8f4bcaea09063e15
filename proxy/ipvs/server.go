package ipvs

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/proxy"
)

// serverID identifies a virtual server, by its address or by its firewall mark.
type serverID struct {
	family proxy.Family
	// protocol of a server with a mark is that of its frontend; the kernel's
	// has none, for a mark says all.
	protocol proxy.Protocol
	addr     netip.AddrPort
	mark     uint32
}

// kernelID returns what the kernel knows the server by.
func (id serverID) kernelID() serverID {
	if id.mark != 0 {
		id.protocol = 0
	}
	return id
}

// String returns what ipvsadm prints.
func (id serverID) String() string {
	switch {
	case id.mark != 0 && id.family == proxy.IPv6:
		return fmt.Sprintf("FWM  %d IPv6", id.mark)
	case id.mark != 0:
		return fmt.Sprintf("FWM  %d", id.mark)
	}
	return fmt.Sprintf("%-4s %s", strings.ToUpper(id.protocol.String()), id.addr)
}

func (id serverID) compare(o serverID) int {
	return cmp.Or(cmp.Compare(id.family, o.family), cmp.Compare(id.mark, o.mark), id.addr.Compare(o.addr), cmp.Compare(id.protocol, o.protocol))
}

// settings are the properties of a virtual server that can be changed.
type settings struct {
	scheduler string
	flags     uint32
	timeout   uint32 // of persistence, in seconds
}

// Flags of virtual servers, as in linux/ip_vs.h.
const (
	flagPersistent = 1
	flagHashed     = 2 // the kernel's own
	flagFallback   = 8 // of sh and mh: a destination without weight is passed over
)

func (s settings) String() string {
	out := s.scheduler
	if s.flags&flagFallback != 0 {
		out += " (" + s.scheduler + "-fallback)"
	}
	if s.flags&flagPersistent != 0 {
		out += fmt.Sprintf(" persistent %d", s.timeout)
	}
	return out
}

// server is a virtual server as it should be.
type server struct {
	settings
	frontend proxy.FrontendKey
	// weights are those of the destinations that take connections.
	weights map[netip.AddrPort]int
	// established are the endpoints that old connections may stay with for as
	// long as they like.
	established []netip.AddrPort
}

// destinations returns the destinations in order.
func (s *server) destinations() []netip.AddrPort {
	out := make([]netip.AddrPort, 0, len(s.weights))
	for d := range s.weights {
		out = append(out, d)
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

// schedulers are the kernel's, with whether each heeds weights.
var schedulers = map[string]bool{
	"rr": false, "wrr": true, "lc": false, "wlc": true, "lblc": true, "lblcr": true,
	"sh": true, "dh": false, "sed": true, "nq": true, "mh": true, "fo": true, "ovf": true, "twos": true,
}

// Schedulers returns the names of the schedulers that a Service can ask for.
func Schedulers() []string {
	out := make([]string, 0, len(schedulers))
	for name := range schedulers {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// drains reports whether destinations without weight can stay with a scheduler:
// dh would go on sending a part of the connections there, which are then lost.
func (s settings) drains() bool { return s.scheduler != "dh" }

// weigh returns settings whose scheduler heeds the weights, where they differ and
// there is one of its kind that does.
func weigh(scheduler string, weights map[netip.AddrPort]int) string {
	first, differ := 0, false
	for _, w := range weights {
		if first == 0 {
			first = w
		}
		differ = differ || w != first
	}
	if differ && (scheduler == "rr" || scheduler == "lc") {
		return "w" + scheduler
	}
	return scheduler
}
