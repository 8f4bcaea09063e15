package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/internal/config"
)

// dnsMistakes returns what is wrong with what is said of the name server: first what
// keeps it from starting, then what leaves it without a part of its names.
func dnsMistakes(c *config.Configuration) []finding {
	if len(c.DNS.Listen) == 0 {
		return nil
	}
	var out []finding
	add := func(minor bool, errs ...error) {
		for _, err := range errs {
			out = append(out, finding{what: "dns", err: err, minor: minor})
		}
	}
	o, err := (&process{conf: c}).dnsOptions()
	var fatal, m mistakes
	fatal.add("", err)
	add(false, fatal...)
	if file := c.DNS.Hosts.File; file != "" {
		_, err := os.ReadFile(file)
		m.add("dns.hosts.file: ", err)
	}
	toRoot := func(z forward.Zone) bool { return z.Name == "." && len(z.Servers) > 0 }
	if c.DNS.Resolv != "" && !slices.ContainsFunc(o.Forward.Zones, toRoot) {
		_, err := forward.ReadResolvConf(c.DNS.Resolv, ownAddresses(&c.DNS))
		m.add("dns.resolvConf: ", err)
	}
	add(true, m...)
	return out
}

// withDNSMistakes joins an error of the configuration with what only the name server
// finds wrong with it, but for the keys that the error names already.
func withDNSMistakes(c *config.Configuration, err error) error {
	if len(c.DNS.Listen) == 0 {
		return err
	}
	errs := []error{err}
	_, more := (&process{conf: c}).dnsOptions()
	var m mistakes
	m.add("", more)
	for _, e := range m {
		if key, _, _ := strings.Cut(e.Error(), ": "); !strings.Contains(err.Error(), key) {
			errs = append(errs, e)
		}
	}
	return errors.Join(errs...)
}

// dnsAddresses tells whether the name server could have its addresses.
func dnsAddresses(ctx context.Context, c *config.DNS, share bool) []finding {
	if len(c.Listen) == 0 {
		return nil
	}
	var out []finding
	for _, a := range c.Listen {
		err := free(ctx, "dns.listen", "udp", a.String(), share)
		if err == nil {
			err = free(ctx, "dns.listen", "tcp", a.String(), share)
		}
		out = append(out, finding{what: "dns.listen " + a.String(), err: err})
	}
	for _, a := range c.TLS.Listen {
		out = append(out, finding{what: "dns.tls.listen " + a.String(), err: free(ctx, "dns.tls.listen", "tcp", a.String(), share)})
	}
	return out
}
