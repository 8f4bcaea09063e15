package iptables

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicenet/sluice/proxy"
)

// renderer writes the rules of one family, in the very words of iptables-save,
// so that what is found in the kernel can be compared with them.
type renderer struct {
	family proxy.Family
	node   *proxy.Node
	mark   uint32
	// randomFully tells that masquerading can choose ports at random.
	randomFully bool
	keepInvalid bool
}

// chainText is a chain of the nat table with its rules.
type chainText struct {
	name  string
	rules []string
}

// when orders the rules of the filter table around the transaction of nat.
type when uint8

const (
	before when = iota // refusals: there before the translation goes
	after              // of ClusterIPs: for what was not translated
)

// member is a rule of a chain whose rules have no order: a set. Only those of
// before stand before those of after.
type member struct {
	ref
	rule string
}

// contribution is what one Service adds.
type contribution struct {
	chains  []chainText
	members []member
	// late are members that come last in their chain, and after the nat table.
	late []member
}

func (c *contribution) add(t table, hops []hop, leaf, rule string, at when) {
	for _, h := range hops {
		c.members = append(c.members, member{ref{t, h.chain}, h.rule})
	}
	m := member{ref{t, leaf}, rule}
	if at == after {
		c.late = append(c.late, m)
	} else {
		c.members = append(c.members, m)
	}
}

// service returns what a Service adds; nil adds nothing.
func (r *renderer) service(s *proxy.Service) contribution {
	var c contribution
	if s == nil {
		return c
	}
	some := false
	for _, p := range s.Ports {
		if p.Family == r.family {
			some = true
			r.port(&c, s, p)
		}
	}
	if some && s.HealthCheckNodePort != 0 {
		c.late = append(c.late, member{ref{filter, chainHealth}, fmt.Sprintf("-p tcp -m tcp --dport %d -j ACCEPT", s.HealthCheckNodePort)})
	}
	return c
}

// port adds the rules of a port: for frontends that differ in nothing but the
// address there is one chain.
func (r *renderer) port(c *contribution, s *proxy.Service, p *proxy.Port) {
	b := &portRules{renderer: r, port: p, id: portID{s.Name, p.Protocol, p.Port}, proto: strings.ToLower(p.Protocol.String())}
	var kinds [4][]*proxy.Frontend
	names := make([]string, len(p.Frontends))
	fresh := make([]bool, len(p.Frontends))
	for i := range p.Frontends {
		f := &p.Frontends[i]
		known := kinds[f.Kind]
		n := slices.IndexFunc(known, func(o *proxy.Frontend) bool { return sameRules(o, f) })
		if n < 0 {
			n, fresh[i] = len(known), true
			kinds[f.Kind] = append(known, f)
			b.count(f)
		}
		var more [][]byte
		if n > 0 {
			more = [][]byte{{byte(n)}}
		}
		names[i] = b.id.hashed([...]string{"SVC", "EXT", "LBI", "NPT"}[f.Kind], more...)
	}
	comment := comment(s.Name.String(), p.Name)
	for i := range p.Frontends {
		f := &p.Frontends[i]
		hops, leaf, match := b.find(f)
		c.add(nat, hops, leaf, match(comment)+"-j "+names[i], before)
		if fresh[i] {
			c.chains = b.entry(c.chains, names[i], f)
		}
		b.refuse(c, f, hops, leaf, match(""))
	}
	c.chains = b.shared(c.chains)
}

func sameRules(a, b *proxy.Frontend) bool {
	return a.Inside == b.Inside && a.Outside == b.Outside && a.Masquerade == b.Masquerade &&
		(a.Sources == nil) == (b.Sources == nil) && slices.Equal(a.Sources, b.Sources)
}

// comment names a Service's port in a rule. Whatever iptables would have to quote
// is replaced.
func comment(service, port string) string {
	text := service
	if port != "" {
		text += ":" + port
	}
	text = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-./:", c) {
			return c
		}
		return '_'
	}, text)
	return "-m comment --comment " + text[:min(len(text), 200)] + " "
}

// portRules writes the rules of one port.
type portRules struct {
	*renderer
	port  *proxy.Port
	id    portID
	proto string
	// users counts who goes to the backends of an action; one alone has their
	// rules in its own chain.
	users     [4]int
	endpoints []chainText
	done      map[string]struct{}
}

// count notes whom the chain of a frontend goes to.
func (b *portRules) count(f *proxy.Frontend) {
	b.users[f.Outside]++
	if f.Inside != f.Outside {
		b.users[f.Inside] += 2 // for Pods and for the node
	}
}

// find returns the way to a frontend's leaf, and what matches it there, with a
// comment in it.
func (b *portRules) find(f *proxy.Frontend) (hops []hop, leaf string, match func(comment string) string) {
	port := "-m " + b.proto + " --dport " + strconv.Itoa(int(f.Port)) + " "
	if f.Kind == proxy.NodePort {
		hops, leaf = portPath(b.port.Protocol, f.Port)
		return hops, leaf, func(comment string) string { return "-p " + b.proto + " " + comment + port }
	}
	hops, leaf = addressPath(f.Addr)
	addr := "-d " + host(f.Addr) + " -p " + b.proto + " "
	return hops, leaf, func(comment string) string { return addr + comment + port }
}

func host(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

// entry appends the chains of frontends. All end: what is not translated is
// accepted as it is, and then refused by the filter table.
func (b *portRules) entry(chains []chainText, name string, f *proxy.Frontend) []chainText {
	if f.Inside == f.Outside && b.action(f.Inside) == "ACCEPT" {
		return append(chains, chainText{name, []string{"-j ACCEPT"}})
	}
	if f.Sources != nil {
		inner := b.id.hashed("SVS", []byte(name))
		var rules []string
		for _, s := range f.Sources {
			if proxy.FamilyOf(s.Addr()) == b.family {
				rules = append(rules, from(s)+"-j "+inner)
			}
		}
		chains = append(chains, chainText{name, append(rules, "-j ACCEPT")})
		name = inner
	}
	var rules []string
	mark := fmt.Sprintf("-j MARK --set-xmark %#x/%#x", b.mark, b.mark)
	const local = "-m addrtype --src-type LOCAL "
	if f.Inside != f.Outside {
		inside := "-j " + b.action(f.Inside)
		for _, pod := range b.pods() {
			if f.Masquerade == proxy.MasqueradeAlways {
				rules = append(rules, pod+mark)
			}
			rules = append(rules, pod+inside)
		}
		rules = append(rules, local+mark, local+inside)
	}
	switch {
	case f.Masquerade == proxy.MasqueradeAlways:
		rules = append(rules, mark)
	case f.Masquerade == proxy.MasqueradeOffCluster && b.node.KnowsPods(b.family):
		rules = append(rules, "-j "+chainMasquerade)
	case f.Masquerade == proxy.MasqueradeFromNode && f.Inside == f.Outside:
		rules = append(rules, local+mark)
	}
	if b.users[f.Outside] == 1 {
		rules = append(rules, b.balance(f.Outside)...)
	} else {
		rules = append(rules, "-j "+b.action(f.Outside))
	}
	return append(chains, chainText{name, rules})
}

// action returns the target for an action.
func (b *portRules) action(a proxy.Action) string {
	if len(b.port.Backends(a)) == 0 {
		return "ACCEPT"
	}
	if a == proxy.ToLocal {
		return b.id.hashed("TL")
	}
	return b.id.hashed("TC")
}

// shared appends the chains of backends that several go to, and those of single
// backends.
func (b *portRules) shared(chains []chainText) []chainText {
	for _, a := range [...]proxy.Action{proxy.ToCluster, proxy.ToLocal} {
		if b.users[a] > 1 && len(b.port.Backends(a)) > 0 {
			chains = append(chains, chainText{b.action(a), b.balance(a)})
		}
	}
	return append(chains, b.endpoints...)
}

// balance returns the rules that choose a backend. The kernel compares a random
// number of 31 bits with a rule's probability, so that is given in such steps.
func (b *portRules) balance(a proxy.Action) []string {
	backends := b.port.Backends(a)
	if len(backends) == 0 {
		return []string{"-j ACCEPT"}
	}
	var rules []string
	seconds := int((b.port.Affinity + time.Second - 1) / time.Second)
	mask := " --mask 255.255.255.255 --rsource "
	if b.family == proxy.IPv6 {
		mask = " --mask ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff --rsource "
	}
	begin := "-p " + b.proto + " "
	clients := func(k proxy.Backend) string { return b.id.endpointName(k.AddrPort) + mask }
	if seconds > 0 {
		for _, k := range backends {
			rules = append(rules, fmt.Sprintf("%s-m recent --update --seconds %d --reap --name %s%s", begin, seconds, clients(k), b.endpoint(k)))
		}
	}
	slots := proxy.Slots(backends)
	left := 0
	for _, n := range slots {
		left += n
	}
	for i, k := range backends {
		rule := begin
		if i < len(backends)-1 {
			steps := (uint64(slots[i])<<31 + uint64(left)/2) / uint64(left)
			rule += "-m statistic --mode random --probability " + strconv.FormatFloat(float64(steps)/(1<<31), 'f', 11, 64) + " "
		}
		left -= slots[i]
		if seconds > 0 {
			rule += "-m recent --set --name " + clients(k)
		}
		rules = append(rules, rule+b.endpoint(k))
	}
	return rules
}

// endpoint returns the target for a backend. One that may come back to itself
// through this node gets a chain that has it masqueraded then.
func (b *portRules) endpoint(k proxy.Backend) string {
	translate := "-j DNAT --to-destination " + k.String()
	if k.Place == proxy.Elsewhere {
		return translate
	}
	name := b.id.endpointName(k.AddrPort)
	if _, ok := b.done[name]; !ok {
		if b.done == nil {
			b.done = map[string]struct{}{}
		}
		b.done[name] = struct{}{}
		b.endpoints = append(b.endpoints, chainText{name, []string{
			fmt.Sprintf("-s %s -j MARK --set-xmark %#x/%#x", host(k.Addr()), b.mark, b.mark),
			"-p " + b.proto + " " + translate,
		}})
	}
	return "-j " + name
}

// refuse adds the rules of the filter table for what was not translated. That
// ports of a ClusterIP are rejected is the rule for all its ports.
func (b *portRules) refuse(c *contribution, f *proxy.Frontend, hops []hop, leaf, match string) {
	if f.Kind == proxy.ClusterIP {
		c.add(filter, hops, leaf, "-d "+host(f.Addr)+" -j "+chainReject, after)
	}
	target := func(a proxy.Action) string {
		switch {
		case a == proxy.Reject:
			return chainReject
		case a == proxy.Drop, f.Sources != nil:
			return "DROP"
		}
		return ""
	}
	// Where connections from inside are refused all are, and where only those
	// from outside are, the others have been translated.
	if to := target(f.Outside); to != "" && (f.Kind != proxy.ClusterIP || to != chainReject) {
		c.add(filter, hops, leaf, match+"-j "+to, before)
	}
}
