package corefile

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sluicenet/sluice/internal/config"
)

// importer is an import on its way.
type importer struct {
	c       *config.Configuration
	zone    string   // the cluster's
	cluster []string // upstreams that are the cluster's DNS
	lives   []life
	listens bool
	after   []func() // what can be said when all has been read
	notes   []Note
}

// server is a block with its zones.
type server struct {
	block
	zones   []string // without the last dot; "." for the root
	port    uint16
	tls     bool
	cluster bool    // it is for the cluster's zone
	reverse bool    // it is for the names of addresses
	beside  *server // which says how the shared zones are answered
	shared  []string
}

func (im *importer) lost(d directive, why string, args ...any)   { im.note(d, true, why, args...) }
func (im *importer) needed(d directive, why string, args ...any) { im.note(d, false, why, args...) }

func (im *importer) note(d directive, lost bool, why string, args ...any) {
	what := strings.Join(append([]string{d.name}, d.args...), " ")
	im.notes = append(im.notes, Note{d.line, what, fmt.Sprintf(why, args...), lost})
}

// run takes over all blocks.
func (im *importer) run(blocks []block, zone string) error {
	var servers []*server
	for _, b := range blocks {
		servers = append(servers, im.server(b))
	}
	if err := pair(servers); err != nil {
		return err
	}
	im.zone = strings.TrimSuffix(strings.ToLower(zone), ".")
	if im.zone == "" {
		im.zone = clusterZone(servers)
	}
	im.c.Zone = im.zone
	// Our defaults would do what nobody asked for.
	im.c.DNS.Cache.Stale.Duration, im.c.DNS.Cache.Prefetch = 0, 0
	for _, s := range servers {
		s.cluster = slices.Contains(s.zones, im.zone) || slices.ContainsFunc(s.zones, isPlaceholder) || len(s.find("kubernetes")) > 0
		s.reverse = !s.cluster && !slices.ContainsFunc(s.zones, func(z string) bool { return !isReverse(z) })
		if s.cluster {
			for _, f := range s.find("forward") {
				if !isRoot(s.zones) {
					im.cluster = append(im.cluster, f.args[min(1, len(f.args)):]...)
				}
			}
		}
	}
	for _, s := range servers {
		if s.port != 53 && !s.tls && len(s.find("bind")) == 0 {
			im.lost(directive{name: s.names(), line: s.line}, "port %d: name addresses with it in dns.listen; every address answers for every zone", s.port)
		}
		for _, d := range s.directives {
			im.besides(s, d)
		}
		im.missing(s)
		im.uncached(s)
		if zone == "" && slices.ContainsFunc(s.zones, isPlaceholder) {
			im.lost(directive{name: s.names(), line: s.line}, "a placeholder: the cluster's zone is taken to be %s; name another with --zone", im.zone)
		}
	}
	im.limitLives()
	for _, f := range im.after {
		f()
	}
	if t := &im.c.DNS.TLS; len(t.Listen) > 0 && (t.CertFile == "" || t.KeyFile == "") {
		im.lost(directive{name: strings.Join(servers[0].keys, " "), line: servers[0].line}, "%v is not answered on over TLS: no block has a certificate", t.Listen)
		t.Listen = nil
	}
	if t := &im.c.DNS.TLS; len(t.Listen) == 0 {
		t.CertFile, t.KeyFile = "", ""
	}
	if !im.listens {
		im.note(directive{name: strings.Join(servers[0].keys, " "), line: servers[0].line}, true,
			"there is no bind with an address: %v is answered on; name others in dns.listen", im.c.DNS.Listen)
	}
	return nil
}

func (b *block) find(name string) []directive {
	var found []directive
	for _, d := range b.directives {
		if d.name == name {
			found = append(found, d)
		}
	}
	return found
}

// server reads the keys of a block: [SCHEME://]ZONE[:PORT].
func (im *importer) server(b block) *server {
	s := &server{block: b, port: 53}
	for _, key := range b.keys {
		key = strings.ToLower(key)
		scheme, rest, ok := strings.Cut(key, "://")
		if !ok {
			scheme, rest = "dns", key
		}
		switch scheme {
		case "dns":
		case "tls":
			s.tls, s.port = true, 853
		default:
			im.lost(directive{name: key, line: b.line}, "%s is not served", scheme)
			continue
		}
		if zone, port, ok := strings.Cut(rest, ":"); ok && !strings.Contains(port, ":") {
			if n, err := strconv.ParseUint(port, 10, 16); err == nil {
				rest, s.port = zone, uint16(n)
			}
		}
		zone := strings.TrimSuffix(rest, ".")
		if prefix, err := netip.ParsePrefix(rest); err == nil {
			name, ok := reverseZone(prefix)
			if !ok {
				im.lost(directive{name: key, line: b.line}, "not at the border of labels; name the zones of in-addr.arpa or ip6.arpa")
				continue
			}
			zone = name
		}
		if zone == "" {
			zone = "."
		}
		s.zones = append(s.zones, zone)
	}
	return s
}

// reverseZone returns the zone of a network whose border is that of labels.
func reverseZone(p netip.Prefix) (string, bool) {
	p = p.Masked()
	if p.Bits() == 0 {
		return "", false
	}
	octets := p.Addr().AsSlice()
	var labels []string
	if p.Addr().Is4() {
		if p.Bits()%8 != 0 {
			return "", false
		}
		for _, o := range octets[:p.Bits()/8] {
			labels = append(labels, strconv.Itoa(int(o)))
		}
		labels = append([]string{"arpa", "in-addr"}, labels...)
	} else {
		if p.Bits()%4 != 0 {
			return "", false
		}
		for i := range p.Bits() / 4 {
			labels = append(labels, strconv.FormatUint(uint64(octets[i/2]>>(4*(1-i%2))&0xf), 16))
		}
		labels = append([]string{"arpa", "ip6"}, labels...)
	}
	slices.Reverse(labels)
	return strings.Join(labels, "."), true
}

// clusterZone finds the cluster's zone: that of the kubernetes plugin; of a block
// that forwards to the cluster's DNS; of one that forwards where the names of
// addresses go; or cluster.local.
func clusterZone(servers []*server) string {
	for _, s := range servers {
		for _, k := range s.find("kubernetes") {
			for _, z := range k.args {
				if z = strings.ToLower(strings.TrimSuffix(z, ".")); !isReverse(z) && z != "" && !isPlaceholder(z) {
					return z
				}
			}
		}
	}
	candidates := func(matches func(*server) bool) string {
		for _, s := range servers {
			if z := s.zones; len(z) > 0 && z[0] != "." && !isReverse(z[0]) && !isPlaceholder(z[0]) && matches(s) {
				return z[0]
			}
		}
		return ""
	}
	if z := candidates(func(s *server) bool { return slices.Contains(s.zones, "cluster.local") }); z != "" {
		return "cluster.local"
	}
	upstream := func(s *server) string {
		for _, f := range s.find("forward") {
			return strings.Join(f.args[min(1, len(f.args)):], " ")
		}
		return ""
	}
	if z := candidates(func(s *server) bool { return strings.Contains(upstream(s), "__PILLAR__CLUSTER__DNS__") }); z != "" {
		return z
	}
	for _, r := range servers {
		if len(r.zones) == 0 || !isReverse(r.zones[0]) || upstream(r) == "" {
			continue
		}
		if z := candidates(func(s *server) bool { return upstream(s) == upstream(r) }); z != "" {
			return z
		}
	}
	return "cluster.local"
}

func isReverse(zone string) bool {
	return zone == "in-addr.arpa" || zone == "ip6.arpa" || strings.HasSuffix(zone, ".in-addr.arpa") || strings.HasSuffix(zone, ".ip6.arpa")
}

func isRoot(zones []string) bool { return slices.Contains(zones, ".") }

// isPillar recognises what the installers of NodeLocal DNSCache put values in the
// place of.
func isPillar(s string) bool { return strings.Contains(strings.ToUpper(s), "__PILLAR__") }

// isPlaceholder recognises what any installer, or CoreDNS at its start, puts a value
// in the place of.
func isPlaceholder(s string) bool {
	return isPillar(s) || strings.Contains(s, "{$") || strings.Contains(s, "{%") || strings.Contains(s, "{{")
}

// bind reads the addresses that a block answers on.
func (im *importer) bind(s *server, d directive) {
	if len(d.body) > 0 {
		im.lost(d, "options of bind; name the addresses in dns.listen")
	}
	local := slices.ContainsFunc(d.args, func(a string) bool {
		addr, err := netip.ParseAddr(a)
		return err == nil && addr.IsLinkLocalUnicast() || isPillar(a)
	})
	for _, arg := range d.args {
		addr, err := netip.ParseAddr(arg)
		switch {
		case isPlaceholder(arg) && !isPillar(arg):
			im.lost(d, "%s: a placeholder: name the address in dns.listen", arg)
			continue
		case isPillar(arg):
			im.needed(d, "%s: %v is answered on, and the ClusterIPs of %s are led there by dns.intercept", arg, im.c.DNS.Listen, im.c.DNS.Intercept.Service)
			im.listens = true
			continue
		case err != nil:
			im.lost(d, "%s is an interface: name its addresses in dns.listen", arg)
			continue
		case local && !addr.IsLinkLocalUnicast():
			im.needed(d, "%s is taken to be a ClusterIP of the cluster's DNS Service, which dns.intercept leads to this node", arg)
			continue
		}
		to := &im.c.DNS.Listen
		if s.tls {
			to = &im.c.DNS.TLS.Listen
		}
		if !im.listens && !s.tls {
			*to = nil // the default
			if local {
				im.c.DNS.Intercept.Addresses = nil
			}
		}
		im.listens = im.listens || !s.tls
		if ap := netip.AddrPortFrom(addr, s.port); !slices.Contains(*to, ap) {
			*to = append(*to, ap)
		}
		if a := &im.c.DNS.Intercept.Addresses; local && !slices.Contains(*a, addr) {
			*a = append(*a, addr)
		}
	}
}

// metrics reads the address of prometheus.
func (im *importer) metrics(d directive) {
	im.c.DNS.CoreDNSMetrics = true
	for _, o := range d.body {
		im.lost(o, "metrics are served as they are, without TLS")
	}
	if len(d.args) == 0 {
		im.after = append(im.after, func() {
			im.lost(d, "metrics are not at localhost:9153 but at %s; metrics of the configuration names another address", im.c.Metrics)
		})
		return
	}
	_, port, err := net.SplitHostPort(d.args[0])
	if _, notNumber := strconv.ParseUint(port, 10, 16); err != nil || notNumber != nil {
		im.lost(d, "expected ADDRESS:PORT")
		return
	}
	if was := im.c.Metrics; was != config.Default().Metrics && was != d.args[0] {
		im.lost(d, "metrics are at one address, %s", was)
		return
	}
	im.c.Metrics = d.args[0]
}
