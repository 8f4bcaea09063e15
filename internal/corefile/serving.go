package corefile

import (
	"strconv"
	"strings"
	"time"

	"github.com/sluicenet/sluice/dns/wire"
)

// startupWait is how long a server that succeeds none waits for the cluster's
// objects, which is CoreDNS' default, too.
const startupWait = 5 * time.Second

// serving takes over plugins about the server as a whole, of which nothing is
// configured: either they ask for what is done anyway, or there is nothing like
// them. It reports whether it knows the plugin.
func (im *importer) serving(d directive) bool {
	switch d.name {
	case "errors":
		im.needed(plain(d), "failures are counted, and what is wrong is logged once")
		for _, o := range d.body {
			if o.name == "consolidate" {
				im.needed(o, "there is no line a failure that could be put together with others")
				continue
			}
			im.lost(o, "failures are not logged that way")
		}
	case "health":
		im.probe(d, ":8080", "/health", "/livez")
		for _, o := range d.body {
			if o.name == "lameduck" {
				im.lost(o, "the process ends as soon as it has answered what it has taken")
				continue
			}
			im.lost(o, "there is nothing like it")
		}
	case "ready":
		im.probe(d, ":8181", "/ready", "/healthz")
		for _, o := range d.body {
			if o.name == "monitor" && first(o.args) == "continuously" {
				im.needed(o, "/healthz is asked anew each time")
				continue
			}
			im.lost(o, "/healthz is asked anew each time")
		}
	case "reload":
		im.lost(d, "hosts, certificates and the resolv.conf are read again when they change, but not the configuration: start a process with the new one beside the old, from which it takes over without losing a query")
	case "loop":
		im.needed(d, "upstreams that ask this server are found out and left out")
	case "loadbalance":
		im.loadbalance(d)
	case "bufsize":
		if size := first(d.args); size != "" && size != strconv.Itoa(wire.MaxUDP) {
			im.lost(d, "answers over UDP have at most %d octets", wire.MaxUDP)
			return true
		}
		im.needed(d, "answers over UDP have at most %d octets", wire.MaxUDP)
	case "multisocket":
		im.unlessArgs(d, "there is a socket a core")
	case "any":
		im.lost(d, "a query of type ANY for a name of the cluster is answered without records, with the SOA, and for another name it is forwarded; there is no HINFO of RFC 8482")
	case "shed":
		im.unlessArgs(d, "when there is too much to do the newest is done first")
	case "nsid":
		im.lost(d, "answers do not name the server")
	default:
		return false
	}
	return true
}

// plain returns the directive without what is between its braces, about which there
// are notes of their own.
func plain(d directive) directive {
	d.body = nil
	return d
}

// unlessArgs notes what is done anyway, and that nothing else is.
func (im *importer) unlessArgs(d directive, why string) {
	im.note(d, len(d.args)+len(d.body) > 0, "%s", why)
}

// probe notes where to ask instead of an address that nothing answers on any more.
// It comes last: the address of the metrics may be in a later block.
func (im *importer) probe(d directive, address, path, instead string) {
	if len(d.args) > 0 {
		address = d.args[0]
	}
	im.after = append(im.after, func() {
		if im.c.Metrics == "" {
			im.lost(d, "http://%s%s is not answered any more, and nothing else: there is no address of metrics", address, path)
			return
		}
		im.lost(d, "http://%s%s is not answered any more: have probes ask http://%s%s, at the address of metrics", address, path, im.c.Metrics, instead)
	})
}

// loadbalance takes over the order of addresses.
func (im *importer) loadbalance(d directive) {
	if policy := first(d.args); policy == "" || policy == "round_robin" && len(d.args) == 1 {
		im.needed(plain(d), "addresses begin with a random one")
	} else {
		im.lost(plain(d), "addresses begin with a random one")
	}
	for _, o := range d.body {
		im.lost(o, "addresses begin with a random one")
	}
}

// autopath takes over [ZONE...] @kubernetes, or [ZONE...] RESOLV-CONF.
func (im *importer) autopath(d directive) {
	im.c.DNS.Autopath = true
	if len(d.args) == 0 {
		return
	}
	last := len(d.args) - 1
	if from := d.args[last]; from != "@kubernetes" {
		im.lost(d, "%s: a search path is that of the Pod that asks, with dns.search after it", from)
	}
	if last > 0 {
		im.lost(d, "%s: search paths are completed for the cluster's zone", strings.Join(d.args[:last], " "))
	}
}

// startupTimeout compares a time with that of the server.
func (im *importer) startupTimeout(o directive) {
	if wait, ok := seconds(first(o.args)); ok && wait == startupWait {
		im.needed(o, "the server waits %v for the cluster's objects", startupWait)
		return
	}
	im.lost(o, "the server waits %v for the cluster's objects", startupWait)
}
