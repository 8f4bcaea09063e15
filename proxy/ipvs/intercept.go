package ipvs

import (
	"net/netip"

	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// intercepted is a kernel whose changes go by a function of [Options].
type intercepted struct {
	kernel
	by func(do func() error) error
}

func (k intercepted) prepare() error { return k.by(k.kernel.prepare) }

func (k intercepted) addServer(id serverID, s settings) error {
	return k.by(func() error { return k.kernel.addServer(id, s) })
}

func (k intercepted) setServer(id serverID, s settings) error {
	return k.by(func() error { return k.kernel.setServer(id, s) })
}

func (k intercepted) deleteServer(id serverID) error {
	return k.by(func() error { return k.kernel.deleteServer(id) })
}

func (k intercepted) addDestination(id serverID, d netip.AddrPort, weight int) error {
	return k.by(func() error { return k.kernel.addDestination(id, d, weight) })
}

func (k intercepted) setDestination(id serverID, d netip.AddrPort, weight int) error {
	return k.by(func() error { return k.kernel.setDestination(id, d, weight) })
}

func (k intercepted) deleteDestination(id serverID, d netip.AddrPort) error {
	return k.by(func() error { return k.kernel.deleteDestination(id, d) })
}

func (k intercepted) bind(a netip.Addr) error {
	return k.by(func() error { return k.kernel.bind(a) })
}

func (k intercepted) unbind(a netip.Addr) error {
	return k.by(func() error { return k.kernel.unbind(a) })
}

func (k intercepted) deleteLink() error { return k.by(k.kernel.deleteLink) }

// interceptedFilter is the same for the packet filter.
type interceptedFilter struct {
	filter
	by func(do func() error) error
}

func (f interceptedFilter) Commit(m *nfnl.Messages) error {
	return f.by(func() error { return f.filter.Commit(m) })
}
