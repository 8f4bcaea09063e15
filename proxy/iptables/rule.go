package iptables

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// packet is the first one of a connection. A source that is not valid is the
// node's.
type packet struct {
	source      netip.Addr
	destination netip.AddrPort
	protocol    string
	local       []netip.Addr // the node's addresses
}

func (p *packet) isLocal(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(p.local, a) }

func (p *packet) fromNode() bool { return !p.source.IsValid() || p.isLocal(p.source) }

func (p *packet) toNode() bool { return p.isLocal(p.destination.Addr()) }

// rule is a rule of ours, as iptables prints it.
type rule struct {
	text        string
	conditions  []func(*packet) bool
	probability float64
	exact       bool // it names one port, and one address if any
	target      string
	set         uint64         // of MARK
	to          netip.AddrPort // of DNAT
}

// single reports whether the rule finds one frontend.
func (r *rule) single() bool { return r.exact }

// matches reports whether a new connection's first packet matches, as far as
// chance is not involved.
func (r *rule) matches(p *packet) bool {
	for _, c := range r.conditions {
		if !c(p) {
			return false
		}
	}
	return true
}

func never(*packet) bool { return false }

// parseRule reads a rule. A condition that it does not know never holds.
func parseRule(text string) rule {
	r := rule{text: text, probability: 1}
	words := strings.Fields(text)
	not := false
	match := ""
	for i := 0; i < len(words); i++ {
		word := words[i]
		if word == "!" {
			not = true
			continue
		}
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		c, skip := r.option(match, word, value)
		i += skip
		if c != nil && not {
			inner := c
			c = func(p *packet) bool { return !inner(p) }
		}
		if c != nil {
			r.conditions = append(r.conditions, c)
		}
		not = false
		if word == "-m" {
			match = value
		}
	}
	return r
}

// option reads one option and returns the condition that it is, and how many
// words its value has.
func (r *rule) option(match, word, value string) (condition func(*packet) bool, skip int) {
	switch word {
	case "-m", "--comment", "--mode", "--name", "--mask", "--reject-with":
		return nil, 1
	case "--set", "--rsource", "--random-fully", "--reap":
		return nil, 0
	case "--update", "-i":
		// Who is remembered, and where packets come in, is not known here.
		return never, map[string]int{"-i": 1}[word]
	case "--seconds":
		return nil, 1
	case "-j", "-g":
		r.target = value
		return nil, 1
	case "--set-xmark":
		number, _, _ := strings.Cut(value, "/")
		r.set, _ = strconv.ParseUint(number, 0, 64)
		return nil, 1
	case "--to-destination":
		to, err := netip.ParseAddrPort(value)
		if err != nil {
			return never, 1
		}
		r.to = to
		return nil, 1
	case "--probability":
		p, err := strconv.ParseFloat(value, 64)
		if err != nil || p < 0 || p > 1 {
			return never, 1
		}
		r.probability = p
		return nil, 1
	case "-p":
		return func(p *packet) bool { return p.protocol == value }, 1
	case "-s":
		return inNetwork(value, func(p *packet) netip.Addr { return p.source }), 1
	case "-d":
		return inNetwork(value, func(p *packet) netip.Addr { return p.destination.Addr() }), 1
	case "--dport":
		return r.ports(value), 1
	case "--src-type":
		return func(p *packet) bool { return value == "LOCAL" && p.fromNode() }, 1
	case "--dst-type":
		return func(p *packet) bool { return value == "LOCAL" && p.toNode() }, 1
	case "--ctstatus":
		return never, 1 // it is a connection's first packet
	case "--ctstate":
		return func(*packet) bool { return slices.Contains(strings.Split(value, ","), "NEW") }, 1
	}
	if match == "mark" && word == "--mark" {
		return never, 1 // it has none yet
	}
	return never, 0
}

// ports matches a port or a range.
func (r *rule) ports(value string) func(*packet) bool {
	low, high, isRange := strings.Cut(value, ":")
	if !isRange {
		high = low
	}
	from, err1 := strconv.ParseUint(low, 10, 16)
	to, err2 := strconv.ParseUint(high, 10, 16)
	if err1 != nil || err2 != nil {
		return never
	}
	r.exact = !isRange
	return func(p *packet) bool {
		port := uint64(p.destination.Port())
		return from <= port && port <= to
	}
}

// inNetwork matches an address with a mask of any form.
func inNetwork(value string, of func(*packet) netip.Addr) func(*packet) bool {
	text, maskText, ok := strings.Cut(value, "/")
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return never
	}
	want := addr.AsSlice()
	mask := make([]byte, len(want))
	bits, err := strconv.Atoi(maskText)
	switch {
	case !ok:
		bits = len(mask) * 8
		fallthrough
	case err == nil:
		if bits < 0 || bits > len(mask)*8 {
			return never
		}
		for i := range bits {
			mask[i/8] |= 0x80 >> (i % 8)
		}
	default:
		m, err := netip.ParseAddr(maskText)
		if err != nil || m.BitLen() != addr.BitLen() {
			return never
		}
		mask = m.AsSlice()
	}
	return func(p *packet) bool {
		a := of(p)
		if !a.IsValid() || a.BitLen() != addr.BitLen() {
			return false
		}
		for i, b := range a.AsSlice() {
			if b&mask[i] != want[i]&mask[i] {
				return false
			}
		}
		return true
	}
}
