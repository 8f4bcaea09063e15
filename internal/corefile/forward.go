package corefile

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/dns/forward"
)

// forward takes over whom to ask.
func (im *importer) forward(s *server, d directive) {
	if len(d.args) < 2 {
		im.lost(d, "expected a zone and servers")
		return
	}
	// The zone is that of the forward if it is within the block's.
	zones := s.zones
	if from := strings.ToLower(strings.TrimSuffix(d.args[0], ".")); from != "" {
		zones = []string{from}
	}
	upstreams := d.args[1:]
	switch {
	case s.cluster && !isRoot(s.zones):
		im.needed(d, "the cluster's names are answered from its objects")
		return
	case slices.Equal(zones, []string{im.zone}):
		im.needed(d, "the cluster's names are answered from its objects")
		return
	case s.reverse && im.isCluster(upstreams):
		im.needed(d, "the cluster's addresses are answered from its objects, and others asked of the servers of all names")
		return
	}
	servers, file := im.servers(zones, d, upstreams)
	if len(servers) == 0 && !file {
		return
	}
	policy := "random" // CoreDNS' default
	for _, o := range d.body {
		if o.name == "policy" {
			policy = strings.ReplaceAll(first(o.args), "_", "-")
		}
	}
	if _, err := forward.ParsePolicy(policy); err != nil {
		im.lost(d, "policy %s", policy)
		policy = "random"
	}
	for _, z := range zones {
		before := ""
		if z != "." {
			before = z + "="
		}
		for _, server := range servers {
			if u := before + server; !slices.Contains(im.c.DNS.Upstreams, u) {
				im.c.DNS.Upstreams = append(im.c.DNS.Upstreams, u)
			}
		}
		if p := before + policy; (len(servers) > 1 || file && z == ".") && !slices.Contains(im.c.DNS.Policies, p) {
			im.c.DNS.Policies = append(im.c.DNS.Policies, p)
		}
	}
}

// isCluster reports whether servers are the cluster's DNS.
func (im *importer) isCluster(servers []string) bool {
	return slices.ContainsFunc(servers, func(s string) bool {
		return strings.Contains(strings.ToUpper(s), "__PILLAR__CLUSTER__DNS__") || slices.Contains(im.cluster, s)
	})
}

// servers returns the servers of a forward as our configuration names them. file
// says that those of a file are asked.
func (im *importer) servers(zones []string, d directive, upstreams []string) (servers []string, file bool) {
	protocol, name := "", ""
	for _, o := range d.body {
		switch o.name {
		case "force_tcp":
			protocol = "tcp://"
		case "tls":
			if len(o.args) > 0 {
				im.lost(o, "certificates of upstreams are checked by dns.upstreamCAs, and none is shown to them")
			}
		case "tls_servername":
			name = first(o.args)
		case "prefer_udp", "policy":
		case "max_fails", "health_check", "expire", "max_idle_conns", "max_connect_attempts", "max_concurrent", "max_age", "read_timeout", "failfast_all_unhealthy_upstreams":
			im.needed(o, "health, connections and bounds are the forwarder's own")
		default:
			im.lost(o, "there is nothing like it")
		}
	}
	for _, text := range upstreams {
		scheme, rest, ok := strings.Cut(text, "://")
		if !ok {
			scheme, rest = "dns", text
		}
		one := directive{name: d.name, args: []string{d.args[0], text}, line: d.line}
		switch {
		case strings.Contains(strings.ToUpper(text), "__PILLAR__UPSTREAM__SERVERS__"):
			im.needed(one, "the servers are those of %s", im.c.DNS.Resolv)
			file = file || isRoot(zones)
			continue
		case isPlaceholder(text):
			im.lost(one, "a placeholder: name the servers in dns.upstreams")
			continue
		case strings.HasPrefix(text, "/"):
			switch {
			case isRoot(zones) && len(upstreams) == 1:
				im.c.DNS.Resolv, file = text, true
			case isRoot(zones):
				im.lost(one, "the servers of a file are asked where no others are named")
			default:
				im.lost(one, "only the servers of all names are read from a file")
			}
			continue
		case scheme == "tls":
			if addr, serverName, ok := strings.Cut(rest, "%"); ok { // CoreDNS' own form
				rest, name = addr, serverName
			}
			rest = "tls://" + rest
			if name != "" {
				rest += "#" + name
			}
		case scheme == "dns":
			rest = protocol + rest
		default:
			im.lost(one, "%s is not spoken with upstreams", scheme)
			continue
		}
		if a, err := netip.ParseAddr(rest); err == nil {
			rest = a.String()
		}
		if _, err := forward.ParseServer(rest); err != nil || strings.ContainsAny(rest, ",=") {
			im.lost(one, "expected the address of a server")
			continue
		}
		servers = append(servers, rest)
	}
	im.unused(d, servers, file)
	return servers, file
}

// unused notes options that the servers have no use for.
func (im *importer) unused(d directive, servers []string, file bool) {
	overTLS := slices.ContainsFunc(servers, func(s string) bool { return strings.HasPrefix(s, "tls://") })
	for _, o := range d.body {
		switch {
		case o.name == "force_tcp" && file:
			im.lost(o, "the servers of a file are asked over UDP first, and over TCP where an answer is cut")
		case o.name == "tls_servername" && !overTLS:
			im.needed(o, "no server is asked over TLS")
		}
	}
}
