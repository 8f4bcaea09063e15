package corefile

import (
	"slices"
	"strings"
)

// text returns the directive as one line, without the place that it has.
func (d directive) text() string {
	words := append([]string{d.name}, d.args...)
	if len(d.body) > 0 {
		words = append(words, "{")
		for _, o := range d.body {
			words = append(words, o.text()+";")
		}
		words = append(words, "}")
	}
	return strings.Join(words, " ")
}

// pair finds blocks for the same zone. On one port that is an error, as it is for
// CoreDNS, unless they answer on different addresses. Otherwise one of them holds for
// all, that of port 53 if there is one, for a zone is answered alike everywhere.
func pair(servers []*server) error {
	for i, s := range servers {
		for _, o := range servers[:i] {
			zone := slices.IndexFunc(s.zones, func(z string) bool { return slices.Contains(o.zones, z) })
			if zone >= 0 && s.port == o.port && s.tls == o.tls && s.meets(o) {
				return syntaxError(s.line, "%s of port %d is served by the block of line %d already", s.zones[zone], s.port, o.line)
			}
		}
	}
	plainFirst := slices.Concat(
		slices.DeleteFunc(slices.Clone(servers), func(s *server) bool { return !s.plain() }),
		slices.DeleteFunc(slices.Clone(servers), (*server).plain))
	for i, s := range plainFirst {
		for _, o := range plainFirst[:i] {
			shared := func(z string) bool { return slices.Contains(o.zones, z) }
			if s.beside == nil && slices.ContainsFunc(s.zones, shared) {
				s.beside = o
			}
			for _, z := range s.zones {
				if shared(z) {
					s.shared = append(s.shared, z)
				}
			}
			s.zones = slices.DeleteFunc(slices.Clone(s.zones), shared)
		}
	}
	return nil
}

// plain reports whether a block is of what clients ask unless they are told otherwise.
func (s *server) plain() bool { return s.port == 53 && !s.tls }

// meets reports whether blocks have an address in common, or one has all.
func (s *server) meets(o *server) bool {
	mine, others := s.addresses(), o.addresses()
	return len(mine) == 0 || len(others) == 0 ||
		slices.ContainsFunc(mine, func(a string) bool { return slices.Contains(others, a) })
}

func (s *server) addresses() []string {
	var all []string
	for _, d := range s.find("bind") {
		all = append(all, d.args...)
	}
	return all
}

// zonal are the plugins that a block has for its zones alone.
var zonal = []string{"cache", "forward", "hosts", "rewrite", "kubernetes", "autopath", "transfer"}

// besides reads a line of a block, of whose zones some may be answered as another block
// says.
func (im *importer) besides(s *server, d directive) {
	if s.beside == nil {
		im.directive(s, d)
		return
	}
	same := slices.ContainsFunc(s.beside.directives, func(o directive) bool { return o.text() == d.text() })
	ofZones := slices.Contains(zonal, d.name)
	if !ofZones || len(s.zones) > 0 {
		im.directive(s, d)
	}
	if ofZones && !same {
		im.lost(d, "%s is answered alike on every address and port, as the block of line %d says", strings.Join(s.shared, " "), s.beside.line)
	}
}

// names returns what a block is for, as it has it.
func (s *server) names() string { return strings.Join(s.keys, " ") }

// missing tells what the other block does that this one does not ask for.
func (im *importer) missing(s *server) {
	if s.beside == nil {
		return
	}
	var more []string
	for _, d := range s.beside.directives {
		if slices.Contains(zonal, d.name) && len(s.find(d.name)) == 0 && !slices.Contains(more, d.name) {
			more = append(more, d.name)
		}
	}
	if len(more) > 0 {
		im.lost(directive{name: s.names(), line: s.line}, "%s is answered alike on every address and port, so with %s, as the block of line %d says", strings.Join(s.shared, " "), strings.Join(more, ", "), s.beside.line)
	}
}
