package ipvs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/proxy"
)

// tracer follows a connection through what the kernel has.
type tracer struct {
	d       proxy.Decision
	family  proxy.Family
	tables  *tables
	bound   bound
	servers map[serverID]settings
	list    func(serverID) (map[netip.AddrPort]destination, error)
	out     proxy.Observed
}

// Trace implements [proxy.Tracer].
func (e *Engine) Trace(ctx context.Context, d proxy.Decision) (proxy.Observed, error) {
	r := e.reader
	if r == nil {
		return proxy.Observed{}, errors.New("ipvs: nothing to read the kernel with")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := tracer{d: d, family: proxy.FamilyOf(d.Destination.Addr()), list: r.kernel.destinations}
	var err error
	if t.tables, err = listTables(ctx, r.filter, []proxy.Family{t.family}); err != nil {
		return t.out, unsupported(err)
	}
	if t.servers, err = r.kernel.servers(); err != nil {
		return t.out, err
	}
	if t.bound, err = r.kernel.addresses(); err != nil {
		return t.out, err
	}
	err = t.follow()
	return t.out, err
}

// say notes an element as nft lists it.
func (t *tracer) say(set setID, key string) {
	kind, family := "set", "ip"
	if specs[set].isMap() {
		kind = "map"
	}
	if t.family == proxy.IPv6 {
		family = "ip6"
	}
	k := elementKey{place{t.family, set}, key}
	t.out.Rules = append(t.out.Rules, fmt.Sprintf("%s %s %s %s { %s }", family, tableName, kind, specs[set].name, spellElement(element{k, t.tables.elements[k]})))
}

func (t *tracer) data(set setID, key string) (string, bool) {
	data, ok := t.tables.elements[elementKey{place{t.family, set}, key}]
	return data, ok
}

// follow walks through the chain "services".
func (t *tracer) follow() error {
	addr := t.d.Destination.Addr()
	whole := proxy.FrontendKey{Addr: addr, Family: t.family, Protocol: t.d.Protocol, Port: t.d.Destination.Port()}
	port := whole
	port.Addr = netip.Addr{}
	if verdict, ok := t.data(setServices, frontendKey(whole)); ok {
		t.say(setServices, frontendKey(whole))
		return t.chain(whole, verdict)
	}
	_, ours := t.data(setAddresses, string(addr.AsSlice()))
	// Whether an address answers NodePorts is the plan's to say: the fib and
	// nodeport-addresses decide by it.
	isNodePort := t.d.Frontend != nil && t.d.Frontend.Kind == proxy.NodePort || t.bound.others[addr] && !addr.IsLoopback()
	if verdict, ok := t.data(setNodePorts, frontendKey(port)); ok && isNodePort && !ours {
		t.say(setNodePorts, frontendKey(port))
		return t.chain(port, verdict)
	}
	if _, old := t.data(setOldAddresses, string(addr.AsSlice())); old {
		t.say(setOldAddresses, string(addr.AsSlice()))
		t.out.Miss, t.out.Action = proxy.Unallocated, proxy.Drop
		return nil
	}
	if ours {
		t.say(setAddresses, string(addr.AsSlice()))
		t.out.Miss, t.out.Action = proxy.UnknownPort, proxy.Reject
		key := string([]byte{byte(whole.Port >> 8), byte(whole.Port)})
		_, external := t.data(setExternalAddresses, string(addr.AsSlice()))
		if _, open := t.data(setOpenPorts, key); external && open && whole.Protocol == proxy.TCP {
			t.say(setOpenPorts, key)
			t.out.Miss, t.out.Action = proxy.NotOurs, 0
		}
		return nil
	}
	if t.inRanges(setServiceCIDRs, addr) {
		t.out.Miss, t.out.Action = proxy.Unallocated, proxy.Drop
	}
	return nil
}

// inRanges reports whether an address is in one of the node's networks, whose
// ends the plan knows too: the listing has where each begins.
func (t *tracer) inRanges(set setID, a netip.Addr) bool {
	if t.d.Miss != proxy.Unallocated {
		return false
	}
	for k := range t.tables.ranges {
		if first, ok := netip.AddrFromSlice([]byte(k.key)); ok && k.place == (place{t.family, set}) && first.Compare(a) <= 0 {
			t.say(set, k.key)
			return true
		}
	}
	return false
}

// chain does what the chain of a frontend does.
func (t *tracer) chain(key proxy.FrontendKey, verdict string) error {
	t.out.Found = true
	switch verdict {
	case chainRefuse:
		t.out.Action = proxy.Reject
		return nil
	case verdictDrop:
		t.out.Action = proxy.Drop
		return nil
	}
	spec, ok := parseChain(verdict)
	if !ok {
		return fmt.Errorf("ipvs: chain %s is not ours", verdict)
	}
	if spec.sources && !t.allowed(key) {
		t.out.Refused, t.out.Action = true, proxy.Drop
		return nil
	}
	outside := spec.inside != spec.outside && !t.d.Inside
	goal := spec.inside
	if outside {
		goal = spec.outside
	}
	if t.out.Action = goal.action; !goal.serves() {
		return nil
	}
	id := serverID{family: t.family, protocol: key.Protocol, addr: t.d.Destination}
	always := spec.masquerade == proxy.MasqueradeAlways
	if goal.marked {
		set := spec.marks(outside)
		data, ok := t.data(set, frontendKey(key))
		if !ok || len(data) != 4 {
			return nil
		}
		id.addr, id.mark = netip.AddrPort{}, nativeUint32(data)
		t.say(set, frontendKey(key))
		_, always = t.data(setMasqueradeMarks, data)
	}
	return t.server(id, always || t.masquerades(spec, outside))
}

// masquerades reports whether the source makes the connection masqueraded.
func (t *tracer) masquerades(spec chainSpec, outside bool) bool {
	fromNode := !t.d.Source.IsValid() || t.d.Source.IsLoopback() || t.bound.others[t.d.Source] || t.bound.ours[t.d.Source]
	if spec.masquerade == proxy.MasqueradeFromNode || spec.nodePort || outside {
		return fromNode
	}
	// What the connection comes from the plan has found out by the same sets.
	return slices.ContainsFunc(t.d.Choices, func(c proxy.Choice) bool { return c.Masquerade && c.Addr() != t.d.Source })
}

// allowed reports whether the source is among those of a frontend.
func (t *tracer) allowed(key proxy.FrontendKey) bool {
	prefix := frontendKey(key)
	from := t.d.Source
	if !from.IsValid() {
		from = t.d.Destination.Addr() // what the kernel chooses on the way to itself
	}
	source := string(from.AsSlice())
	for k := range t.tables.elements {
		half := len(k.key) / 2
		if k.place != (place{t.family, setSources}) || !strings.HasPrefix(k.key, prefix) {
			continue
		}
		if first, last := k.key[len(prefix):half], k.key[half+len(prefix):]; len(first) == len(source) && first <= source && source <= last {
			t.say(setSources, k.key)
			return true
		}
	}
	return false
}

// server reads a virtual server and its destinations.
func (t *tracer) server(id serverID, masquerade bool) error {
	s, ok := t.servers[id.kernelID()]
	if !ok {
		return nil // nobody answers: there are no choices
	}
	t.out.Rules = append(t.out.Rules, fmt.Sprintf("%s %s", id, s))
	list, err := t.list(id)
	if err != nil {
		return err
	}
	addrs := make([]netip.AddrPort, 0, len(list))
	total := 0
	for d, state := range list {
		addrs = append(addrs, d)
		total += state.weight
	}
	slices.SortFunc(addrs, netip.AddrPort.Compare)
	for _, a := range addrs {
		w := list[a].weight
		t.out.Rules = append(t.out.Rules, fmt.Sprintf("  -> %-28s Masq    %d", a, w))
		if w == 0 {
			continue
		}
		_, hairpin := t.data(setHairpin, string(a.Addr().AsSlice())+string(t.d.Source.AsSlice()))
		t.out.Choices = append(t.out.Choices, proxy.Choice{
			Backend:     proxy.Backend{AddrPort: a, Weight: uint32(w), Place: t.place(a)},
			Probability: float64(w) / float64(total),
			Masquerade:  masquerade || hairpin,
		})
	}
	return nil
}

// place is the plan's: the kernel does not know it.
func (t *tracer) place(a netip.AddrPort) proxy.Place {
	for _, c := range t.d.Choices {
		if c.AddrPort == a {
			return c.Place
		}
	}
	return proxy.Unknown
}
