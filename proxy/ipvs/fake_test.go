package ipvs

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sluicenet/sluice/proxy"
	"github.com/sluicenet/sluice/proxy/internal/nfnl"
)

// fakeServer is a virtual server of a fake kernel.
type fakeServer struct {
	settings
	destinations map[netip.AddrPort]destination
}

// fakeKernel refuses what the real one refuses.
type fakeKernel struct {
	list      map[serverID]*fakeServer
	ours      map[netip.Addr]bool
	others    map[netip.Addr]bool
	link      bool
	lacks     map[string]bool // schedulers
	busy      func(serverID, netip.AddrPort) int
	asked     int // how many times something was asked or told
	preparing error
}

func newFakeKernel() *fakeKernel {
	return &fakeKernel{list: map[serverID]*fakeServer{}, ours: map[netip.Addr]bool{}, lacks: map[string]bool{},
		others: map[netip.Addr]bool{nodeAddr: true, nodeAddr6: true, netip.MustParseAddr("127.0.0.1"): true}}
}

func (k *fakeKernel) close() {}

func (k *fakeKernel) prepare() error {
	k.link = k.preparing == nil
	return k.preparing
}

func (k *fakeKernel) tryScheduler(name string) error {
	if k.lacks[name] {
		return unix.ENOENT
	}
	return nil
}

func (k *fakeKernel) servers() (map[serverID]settings, error) {
	k.asked++
	out := map[serverID]settings{}
	for id, s := range k.list {
		out[id] = s.settings
	}
	return out, nil
}

func (k *fakeKernel) addServer(id serverID, s settings) error {
	k.asked++
	if k.list[id.kernelID()] != nil {
		return unix.EEXIST
	}
	k.list[id.kernelID()] = &fakeServer{s, map[netip.AddrPort]destination{}}
	return nil
}

func (k *fakeKernel) setServer(id serverID, s settings) error {
	k.asked++
	if k.list[id.kernelID()] == nil {
		return unix.ESRCH
	}
	k.list[id.kernelID()].settings = s
	return nil
}

func (k *fakeKernel) deleteServer(id serverID) error {
	k.asked++
	if k.list[id.kernelID()] == nil {
		return unix.ESRCH
	}
	delete(k.list, id.kernelID())
	return nil
}

func (k *fakeKernel) destinations(id serverID) (map[netip.AddrPort]destination, error) {
	k.asked++
	s := k.list[id.kernelID()]
	if s == nil {
		return nil, unix.ESRCH
	}
	out := maps.Clone(s.destinations)
	for d, state := range out {
		if k.busy != nil {
			state.connections = k.busy(id.kernelID(), d)
		}
		out[d] = state
	}
	return out, nil
}

func (k *fakeKernel) put(id serverID, d netip.AddrPort, weight int, present bool) error {
	k.asked++
	s := k.list[id.kernelID()]
	if s == nil {
		return unix.ESRCH
	}
	if _, ok := s.destinations[d]; ok != present {
		return map[bool]error{true: unix.EEXIST, false: unix.ENOENT}[ok]
	}
	s.destinations[d] = destination{weight: weight}
	return nil
}

func (k *fakeKernel) addDestination(id serverID, d netip.AddrPort, weight int) error {
	return k.put(id, d, weight, false)
}

func (k *fakeKernel) setDestination(id serverID, d netip.AddrPort, weight int) error {
	return k.put(id, d, weight, true)
}

func (k *fakeKernel) deleteDestination(id serverID, d netip.AddrPort) error {
	if err := k.put(id, d, 0, true); err != nil {
		return err
	}
	delete(k.list[id.kernelID()].destinations, d)
	return nil
}

func (k *fakeKernel) addresses() (bound, error) {
	k.asked++
	return bound{maps.Clone(k.ours), maps.Clone(k.others)}, nil
}

func (k *fakeKernel) bind(a netip.Addr) error {
	k.asked++
	if !k.link {
		return unix.ENODEV
	}
	k.ours[a] = true
	return nil
}

func (k *fakeKernel) unbind(a netip.Addr) error {
	k.asked++
	delete(k.ours, a)
	return nil
}

func (k *fakeKernel) deleteLink() error {
	k.link = false
	clear(k.ours)
	return nil
}

// fakeFilter holds the tables that are committed to it. It checks references
// as the kernel does.
type fakeFilter struct {
	generation uint32
	sets       map[place]map[string]string
	chains     map[chainKey][]string // with their rules
	tables     map[proxy.Family]bool
}

func newFakeFilter() *fakeFilter {
	return &fakeFilter{generation: 1, sets: map[place]map[string]string{}, chains: map[chainKey][]string{}, tables: map[proxy.Family]bool{}}
}

func (f *fakeFilter) Close() {}

func (f *fakeFilter) Limit() int { return 1 << 20 }

func (f *fakeFilter) Try(*nfnl.Messages) error { return nil }

func (f *fakeFilter) Commit(m *nfnl.Messages) error {
	for msg := range m.All() {
		if msg.Kind>>8 != unix.NFNL_SUBSYS_NFTABLES {
			continue
		}
		if err := f.apply(msg); err != nil {
			return err
		}
	}
	f.generation++
	return nil
}

func (f *fakeFilter) apply(msg nfnl.Message) error {
	family := proxy.IPv4
	if msg.Body[0] == unix.NFPROTO_IPV6 {
		family = proxy.IPv6
	}
	text := map[uint16]string{}
	for kind, v := range nfnl.Attributes(msg.Body[4:]) {
		if len(v) > 0 {
			text[kind] = string(v[:len(v)-1])
		}
	}
	kind := msg.Kind & 0xff
	k := chainKey{family, text[unix.NFTA_RULE_CHAIN]}
	at := place{family, setID(slices.IndexFunc(specs[:], func(s setSpec) bool { return s.name == text[unix.NFTA_SET_NAME] }))}
	switch kind {
	case unix.NFT_MSG_NEWTABLE:
		f.tables[family] = true
	case unix.NFT_MSG_DELTABLE:
		if !f.tables[family] {
			return unix.ENOENT
		}
		delete(f.tables, family)
		maps.DeleteFunc(f.sets, func(at place, _ map[string]string) bool { return at.family == family })
		maps.DeleteFunc(f.chains, func(k chainKey, _ []string) bool { return k.family == family })
	case unix.NFT_MSG_NEWCHAIN:
		k := chainKey{family, text[unix.NFTA_CHAIN_NAME]}
		f.chains[k] = append([]string{}, f.chains[k]...)
	case unix.NFT_MSG_DELCHAIN:
		delete(f.chains, chainKey{family, text[unix.NFTA_CHAIN_NAME]})
	case unix.NFT_MSG_NEWRULE:
		f.chains[k] = append(f.chains[k], string(msg.Body))
	case unix.NFT_MSG_DELRULE:
		f.chains[k] = []string{}
	case unix.NFT_MSG_NEWSET:
		if f.sets[at] == nil {
			f.sets[at] = map[string]string{}
		}
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		return f.elements(at, msg.Body, kind == unix.NFT_MSG_NEWSETELEM)
	}
	return nil
}

func (f *fakeFilter) elements(at place, body []byte, add bool) (err error) {
	n := 0
	parseElements(at, body, func(e element) {
		n++
		_, have := f.sets[at][e.key]
		switch {
		case !add && !have:
			err = unix.ENOENT
		case !add:
			delete(f.sets[at], e.key)
		case have && f.sets[at][e.key] != e.data:
			err = unix.EEXIST
		case specs[at.set].verdict && isChain(e.data) && f.chains[chainKey{at.family, e.data}] == nil:
			err = fmt.Errorf("chain %s: %w", e.data, unix.ENOENT)
		default:
			f.sets[at][e.key] = e.data
		}
	})
	if n == 0 && !add {
		clear(f.sets[at])
	}
	return err
}

func (f *fakeFilter) Ask(_ context.Context, m *nfnl.Messages, each func(nfnl.Message)) error {
	request, _ := m.At(0)
	family := proxy.IPv4
	if request.Body[0] == unix.NFPROTO_IPV6 {
		family = proxy.IPv6
	}
	out := &nfnl.Messages{}
	switch request.Kind & 0xff {
	case unix.NFT_MSG_GETGEN:
		out.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWGEN, 0, 0)
		out.Uint32(unix.NFTA_GEN_ID, f.generation)
		out.Finish()
	case unix.NFT_MSG_GETTABLE:
		if !f.tables[family] {
			return unix.ENOENT
		}
	case unix.NFT_MSG_GETSETELEM:
		_, name := namesIn(request, unix.NFTA_SET_ELEM_LIST_SET)
		at := place{family, setID(slices.IndexFunc(specs[:], func(s setSpec) bool { return s.name == name }))}
		for key, data := range f.sets[at] {
			if slices.Contains(ofNode, at.set) {
				key += key // a range, of which only the begin counts
			}
			putElements(out, at, []element{{elementKey{at, key}, data}}, false)
		}
	case unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_GETRULE:
		for k, list := range f.chains {
			if k.family != family {
				continue
			}
			addChain(out, k.family, k.name)
			if request.Kind&0xff == unix.NFT_MSG_GETCHAIN {
				continue
			}
			for _, r := range list {
				out.Begin(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_NEWRULE, 0, netfilterFamily(family))
				out.String(unix.NFTA_RULE_TABLE, tableName)
				out.String(unix.NFTA_RULE_CHAIN, k.name)
				out.Bytes(unix.NFTA_RULE_EXPRESSIONS, []byte(r))
				out.Finish()
			}
		}
	}
	for msg := range out.All() {
		each(msg)
	}
	return nil
}
