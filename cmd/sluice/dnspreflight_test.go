package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluicenet/sluice/internal/config"
)

// said returns what preflight has to say of the name server, without the addresses
// that it finds taken: fatal mistakes, and others.
func said(t *testing.T, c *config.Configuration) (fatal, minor []string) {
	t.Helper()
	for _, f := range dnsMistakes(c) {
		if f.minor {
			minor = append(minor, f.err.Error())
		} else {
			fatal = append(fatal, f.err.Error())
		}
	}
	return fatal, minor
}

func dnsConfig(t *testing.T) *config.Configuration {
	t.Helper()
	c := config.Default()
	c.DNS.Resolv = filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(c.DNS.Resolv, []byte("nameserver 192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &c
}

// What keeps the name server from starting is found before, under its key.
func TestDNSMistakes(t *testing.T) {
	local := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}
	for name, c := range map[string]struct {
		set  func(*config.DNS)
		want []string
	}{
		"none": {func(*config.DNS) {}, nil},
		"hosts": {func(d *config.DNS) { d.Hosts.Entries = []string{"10.0.0.1 a", "x y", "10.0.0.1", "10.0.0.1 a..b"} }, []string{
			`dns.hosts.entries[1]: expected an address, found "x"`, `dns.hosts.entries[2]: expected names after 10.0.0.1`, `dns.hosts.entries[3]: `,
		}},
		"certificate": {func(d *config.DNS) {
			d.TLS = config.DNSTLS{Listen: local, CertFile: "/nonexist", KeyFile: "/nonexist"}
		}, []string{`dns.tls.certFile: open /nonexist: no such file or directory`}},
		"no certificate": {func(d *config.DNS) {
			d.TLS = config.DNSTLS{Listen: local, CertFile: "preflight.go", KeyFile: "preflight.go"}
		}, []string{`dns.tls.certFile preflight.go with keyFile preflight.go: tls: `}},
		"dnstap":            {func(d *config.DNS) { d.Dnstap.Socket = "foo" }, []string{`dns.dnstap.socket: expected unix:///PATH or tcp://HOST:PORT, found "foo"`}},
		"itself":            {func(d *config.DNS) { d.Listen, d.Upstreams = local, []string{"10.0.0.1", "127.0.0.1:53"} }, []string{`dns.upstreams[1]: upstream name server 127.0.0.1:53 is this server itself`}},
		"itself by capture": {func(d *config.DNS) { d.Listen, d.Upstreams = local, []string{"169.254.20.10"} }, []string{`dns.upstreams[0]: upstream name server 169.254.20.10:53 is this server itself`}},
		"search":            {func(d *config.DNS) { d.Autopath, d.Search = true, []string{"a.example", "c..d"} }, []string{`dns.search[1]: expected a domain: `}},
		"upstreams": {func(d *config.DNS) {
			d.Upstreams, d.Policies = []string{"10.0.0.1", "foo", "a=b=c"}, []string{"fastest"}
		}, []string{
			`dns.upstreams[1]: expected an address, as 10.0.0.1 or [fd00::1]:53, found "foo"`, `dns.upstreams[2]: expected an address, as 10.0.0.1 or [fd00::1]:53, found "b=c"`,
			`dns.policies[0]: expected one of ["sequential" "round-robin" "random"], found "fastest"`,
		}},
		"life of parts": {func(d *config.DNS) { d.Cache.Zones = []string{"a.example=1500ms"} }, []string{`dns.cache.zones[0]: expected whole seconds such as 30s, found "1500ms"`}},
		"server's name": {func(d *config.DNS) {
			d.Upstreams = []string{"tls://10.0.0.1#a b", "a=tls://10.0.0.1#b=c", "tls://=10.0.0.1"}
		}, []string{
			`dns.upstreams[0]: expected tls:// at the start and a server's name after the #, found "tls://10.0.0.1#a b"`,
			`dns.upstreams[1]: expected tls:// at the start and a server's name`, `dns.upstreams[2]: expected the name of a zone before the =`,
		}},
		"authorities": {func(d *config.DNS) { d.UpstreamCAs = "preflight.go" }, []string{`dns.upstreamCAs: preflight.go: expected PEM`}},
		"capture": {func(d *config.DNS) {
			d.Intercept.Addresses = append(d.Intercept.Addresses, netip.MustParseAddr("169.254.20.128"))
		}, []string{`dns.intercept.addresses[2]: expected an address outside of 169.254.20.128/26, which interception uses itself`}},
		"no capture": {func(d *config.DNS) {
			d.Intercept.Mode, d.Intercept.Addresses = "off", []netip.Addr{netip.MustParseAddr("127.0.0.1")}
		}, nil},
		"rewritten to itself": {func(d *config.DNS) { d.Rewrites = []string{"a.b=c.d", "x.y=X.y."} }, []string{
			`dns.rewrites[1]: expected another name to answer with, found "x.y=X.y."`,
		}},
		"several": {func(d *config.DNS) { d.Rewrites, d.Cache.Zones, d.Pods = []string{"a"}, []string{"b"}, "some" }, []string{
			`dns.pods: `, `dns.rewrites[0]: expected two names, as FROM=TO, found "a"`, `dns.cache.zones[0]: expected ZONE=TTL or ZONE=TTL/NEGATIVETTL, found "b"`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			conf := dnsConfig(t)
			c.set(&conf.DNS)
			fatal, _ := said(t, conf)
			if !slices.EqualFunc(fatal, c.want, strings.HasPrefix) {
				t.Errorf("%q, want %q", fatal, c.want)
			}
		})
	}
}

// What only leaves some names without an answer keeps nothing from starting.
func TestDNSMistakesMinor(t *testing.T) {
	c := dnsConfig(t)
	c.DNS.Resolv, c.DNS.Hosts.File = "/nonexist", "/nonexist"
	fatal, minor := said(t, c)
	if len(fatal) > 0 || len(minor) != 2 || !strings.HasPrefix(minor[0], "dns.hosts.file: ") || !strings.HasPrefix(minor[1], "dns.resolvConf: ") {
		t.Errorf("fatal %q, others %q", fatal, minor)
	}
	c.DNS.Upstreams = []string{"192.0.2.1"}
	if _, minor := said(t, c); len(minor) != 1 {
		t.Errorf("with upstreams: %q", minor)
	}
	c.DNS.Listen = nil
	if fatal, minor := said(t, c); len(fatal)+len(minor) > 0 {
		t.Errorf("without DNS: %q, %q", fatal, minor)
	}
}
