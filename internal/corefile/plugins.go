package corefile

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/sluicenet/sluice/dns/hosts"
	"github.com/sluicenet/sluice/dns/wire"
)

// directive takes over one line of a block.
func (im *importer) directive(s *server, d directive) {
	switch d.name {
	case "bind":
		im.bind(s, d)
	case "prometheus":
		im.metrics(d)
	case "cache":
		im.cache(s, d)
	case "forward":
		im.forward(s, d)
	case "hosts":
		im.hosts(d)
	case "rewrite":
		im.rewrite(d)
	case "kubernetes":
		im.kubernetes(d)
	case "autopath":
		im.autopath(d)
	case "log":
		im.c.DNS.Log.Sample = 1
		if len(d.args)+len(d.body) > 0 {
			im.lost(d, "all queries are logged, in our own form; a sample with dns.log.sample")
		}
	case "dnstap":
		im.dnstap(d)
	case "tls":
		im.tls(s, d)
	case "transfer":
		im.transfer(s, d)
	case "import":
		im.lost(d, "the file is not here: import what it holds")
	default:
		if !im.serving(d) {
			im.lost(d, "there is nothing like the plugin %s", d.name)
		}
	}
}

// seconds reads a number of seconds or a duration.
func seconds(s string) (time.Duration, bool) {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	d, err := time.ParseDuration(s)
	return d.Truncate(time.Second), err == nil && d >= 0 && d < 1<<31*time.Second
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// hosts takes over entries of hosts(5).
func (im *importer) hosts(d directive) {
	h := &im.c.DNS.Hosts
	switch {
	case len(d.args) == 0:
		if len(d.body) == 0 {
			h.File = "/etc/hosts"
			break
		}
		im.lost(d, "CoreDNS reads /etc/hosts of its container besides: name a file in dns.hosts.file")
	case h.File != "" && h.File != d.args[0]:
		im.lost(d, "one file of hosts is read, %s", h.File)
	default:
		h.File = d.args[0]
		if len(d.args) > 1 {
			im.lost(d, "its entries are for all zones")
		}
	}
	through := false
	for _, o := range d.body {
		switch o.name {
		case "fallthrough":
			through = true
			if len(o.args) > 0 {
				im.lost(o, "names without entry are looked for elsewhere in all zones")
			}
		case "no_reverse":
			h.NoReverse = true
		case "ttl":
			if ttl, ok := seconds(first(o.args)); ok && ttl > 0 {
				h.TTL = metav1.Duration{Duration: ttl}
				continue
			}
			im.lost(o, "expected seconds of at least 1")
		case "reload":
			im.needed(o, "the file is read again when it changes")
		default:
			line := strings.Join(append([]string{o.name}, o.args...), " ")
			if _, errs := hosts.New([]string{line}, hosts.Options{}); len(errs) > 0 || strings.Contains(line, ",") {
				im.lost(o, "expected an address and names")
				continue
			}
			h.Entries = append(h.Entries, line)
		}
	}
	if !through {
		im.lost(d, "names without entry are looked for elsewhere, as with fallthrough")
	}
}

// rewrite takes over rewrites of whole names.
func (im *importer) rewrite(d directive) {
	args := d.args
	goesOn := first(args) == "continue"
	if goesOn || first(args) == "stop" {
		args = args[1:]
	}
	if first(args) != "name" || len(d.body) > 0 {
		im.lost(d, "only whole names are rewritten")
		return
	}
	args = args[1:]
	if first(args) == "exact" {
		args = args[1:]
	}
	if len(args) == 4 && args[2] == "answer" && args[3] == "auto" {
		args = args[:2]
	}
	if len(args) != 2 || isPlaceholder(args[0]) || isPlaceholder(args[1]) {
		im.lost(d, "only whole names are rewritten, and their answers with them")
		return
	}
	for _, name := range args {
		if n, err := wire.ParseName(name); err != nil || len(n) == 1 || strings.ContainsAny(name, "=,") {
			im.lost(d, "%s is no name", name)
			return
		}
	}
	if goesOn {
		im.lost(d, "continue: a name is rewritten once, by the first line that has it")
	}
	from := strings.TrimSuffix(args[0], ".")
	again := func(r string) bool { before, _, _ := strings.Cut(r, "="); return strings.EqualFold(before, from) }
	if slices.ContainsFunc(im.c.DNS.Rewrites, again) {
		im.lost(d, "an earlier line rewrites %s", from)
		return
	}
	im.c.DNS.Rewrites = append(im.c.DNS.Rewrites, from+"="+strings.TrimSuffix(args[1], "."))
}

// kubernetes takes over how the cluster's names are answered.
func (im *importer) kubernetes(d directive) {
	c := &im.c.DNS
	for _, z := range d.args {
		z = strings.ToLower(strings.TrimSuffix(z, "."))
		_, notNetwork := netip.ParsePrefix(z) // names of addresses are answered for all
		switch {
		case isReverse(z), notNetwork == nil, z == im.zone, slices.Contains(c.Zones, z):
		case isPlaceholder(z):
			im.lost(d, "%s: name the cluster's zone in zone, which is %s", z, im.zone)
		case len(validation.IsDNS1123Subdomain(z)) > 0:
			im.lost(d, "%s is no zone", z)
		default:
			c.Zones = append(c.Zones, z)
		}
	}
	c.Pods = "disabled"
	for _, o := range d.body {
		switch o.name {
		case "pods":
			c.Pods = first(o.args)
			if !slices.Contains([]string{"disabled", "insecure", "verified"}, c.Pods) {
				c.Pods = "disabled"
				im.lost(o, "expected disabled, insecure or verified")
			}
		case "ttl":
			if ttl, ok := seconds(first(o.args)); ok && ttl >= time.Second && ttl <= time.Hour {
				c.TTL = metav1.Duration{Duration: ttl}
				continue
			}
			im.lost(o, "expected 1 to 3600")
		case "endpoint_pod_names":
			c.EndpointPodNames = true
		case "namespaces", "namespace_labels", "labels", "ignore", "noendpoints":
			im.filter(o)
		case "fallthrough":
			for _, z := range o.args {
				if !isReverse(strings.TrimSuffix(z, ".")) {
					im.lost(o, "names of the cluster's zone are looked for nowhere else")
				}
			}
			if len(o.args) == 0 {
				im.lost(o, "names of the cluster's zone are looked for nowhere else; those of addresses are")
			}
		case "kubeconfig":
			im.c.Kubeconfig = first(o.args)
			if len(o.args) > 1 {
				im.lost(o, "the file's current context is taken")
			}
		case "startup_timeout":
			im.startupTimeout(o)
		default:
			im.lost(o, "there is nothing like it for the cluster's names")
		}
	}
}

// dnstap takes over where its messages go.
func (im *importer) dnstap(d directive) {
	socket := first(d.args)
	switch {
	case strings.HasPrefix(socket, "/"):
		socket = "unix://" + socket
	case strings.HasPrefix(socket, "unix:///"):
	case strings.HasPrefix(socket, "tcp://"):
		if _, _, err := net.SplitHostPort(strings.TrimPrefix(socket, "tcp://")); err != nil {
			im.lost(d, "expected ADDRESS:PORT")
			return
		}
	default:
		im.lost(d, "messages go to a Unix socket or over TCP")
		return
	}
	im.c.DNS.Dnstap.Socket = socket
	for i, arg := range d.args[1:] {
		if i > 0 || arg != "full" {
			im.lost(d, "%s: what waits for the observer is bounded by the sender itself", arg)
		}
	}
	if !slices.Contains(d.args, "full") {
		im.needed(d, "messages are whole")
	}
	for _, o := range d.body {
		switch o.name {
		case "identity":
			im.lost(o, "the identity is the node's name")
		case "version":
			im.lost(o, "the version is that of sluice")
		default:
			im.lost(o, "there is nothing like it in dnstap")
		}
	}
}

// tls takes over the certificate of a block that is served over TLS.
func (im *importer) tls(s *server, d directive) {
	if !s.tls || len(d.args) < 2 {
		im.lost(d, "a certificate and a key are for a block of tls://")
		return
	}
	t := &im.c.DNS.TLS
	t.CertFile, t.KeyFile = d.args[0], d.args[1]
	if len(s.find("bind")) == 0 {
		t.Listen = []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), s.port), netip.AddrPortFrom(netip.IPv6Unspecified(), s.port)}
	}
	if len(d.args) > 2 || len(d.body) > 0 {
		im.lost(d, "clients need no certificate")
	}
}
