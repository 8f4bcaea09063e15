package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/dnstap"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/hosts"
	"github.com/sluicenet/sluice/dns/ratelimit"
	"github.com/sluicenet/sluice/dns/wire"
	"github.com/sluicenet/sluice/dns/zone"
	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/proxy/intercept"
)

// dnsOptions reads what the name server is configured to do. The error joins all
// mistakes, each of which begins with its key.
func (p *process) dnsOptions() (dns.Options, error) {
	c := p.conf.DNS
	o := dns.Options{
		Store: p.store, Listen: c.Listen, Zones: slices.Concat([]string{p.conf.Zone}, c.Zones), TTL: orNone(c.TTL.Duration), EndpointPodNames: c.EndpointPodNames,
		ResolvConf: c.Resolv, Cache: cacheOptions(&c.Cache), KeepSubnet: c.KeepSubnet, Transfer: c.Transfer,
		Hosts:    dns.Hosts{Entries: c.Hosts.Entries, File: c.Hosts.File, TTL: orNone(c.Hosts.TTL.Duration), NoReverse: c.Hosts.NoReverse},
		Autopath: c.Autopath, Node: p.conf.NodeName, Search: c.Search,
		MaxConnections: int(c.TCP.MaxConnections), MaxPerClient: int(c.TCP.MaxPerClient), IdleTimeout: c.TCP.IdleTimeout.Duration,
		TLS: dns.TLS{Listen: c.TLS.Listen, CertFile: c.TLS.CertFile, KeyFile: c.TLS.KeyFile},
		RateLimit: ratelimit.Options{
			PerSecond: int(c.RateLimit.PerSecond), Burst: int(c.RateLimit.Burst), Slip: int(c.RateLimit.Slip),
			IPv4Prefix: int(c.RateLimit.IPv4Prefix), IPv6Prefix: int(c.RateLimit.IPv6Prefix),
		},
		Tap:            dnstap.Options{Socket: c.Dnstap.Socket, Identity: p.conf.NodeName, Version: "sluice " + version},
		LogEvery:       int(c.Log.Sample),
		CoreDNSMetrics: c.CoreDNSMetrics, Status: p.board, Log: p.log,
	}
	if o.RateLimit.Slip == 0 { // whose 0 is the default
		o.RateLimit.Slip = -1
	}
	var m mistakes
	var err error
	o.Pods, err = zone.ParsePodMode(c.Pods)
	m.add("dns.pods: ", err)
	o.Filter, err = dnsFilter(&c.Filter)
	m.add("dns.filter.", err)
	o.Forward = forwardOptions(&c, o.Zones, &m)
	for i, text := range c.Rewrites {
		r, err := dns.ParseRewrite(text)
		m.add(fmt.Sprintf("dns.rewrites[%d]: ", i), err)
		o.Rewrites = append(o.Rewrites, r)
	}
	for i, text := range c.Cache.Zones {
		l, err := dns.ParseLife(text)
		m.add(fmt.Sprintf("dns.cache.zones[%d]: ", i), err)
		o.Lives = append(o.Lives, l)
	}
	for i, text := range c.Hosts.Entries {
		_, errs := hosts.New([]string{text}, hosts.Options{})
		for _, err := range errs {
			m.add(fmt.Sprintf("dns.hosts.entries[%d]: ", i), errors.Unwrap(err)) // there is only one line
		}
	}
	for i, text := range c.Search {
		if _, err := wire.ParseName(text); err != nil {
			m.add(fmt.Sprintf("dns.search[%d]: ", i), fmt.Errorf("expected a domain: %w", err))
		}
	}
	if c.Intercept.Mode != "off" {
		// Mode auto is for what a kernel cannot do, not for a slip.
		m.add("dns.intercept.", intercept.CheckAddresses(c.Intercept.Addresses))
	}
	if len(c.TLS.Listen) > 0 && c.TLS.CertFile != "" && c.TLS.KeyFile != "" {
		m.add("dns.tls.", o.TLS.Check())
	}
	if c.Dnstap.Socket != "" {
		_, _, err := dnstap.ParseSocket(c.Dnstap.Socket)
		m.add("dns.dnstap.socket: ", err)
	}
	return o, errors.Join(m...)
}

// dnsFilter reads which of the cluster's names clients are to see.
func dnsFilter(c *config.DNSFilter) (zone.Filter, error) {
	f, err := zone.ParseFilter(c.NamespaceLabels, c.Labels)
	f.Namespaces, f.EmptyServices, f.NoEndpoints = c.Namespaces, c.EmptyServices, c.NoEndpoints
	return f, err
}

// serviceLabels are the labels of Services that some part selects by.
func (p *process) serviceLabels() []string {
	f, err := dnsFilter(&p.conf.DNS.Filter)
	if err != nil || len(p.conf.DNS.Listen) == 0 {
		return nil // the name server tells of the error
	}
	return f.ServiceLabels()
}

// mistakes are what is wrong with the configuration, each with its key.
type mistakes []error

// add notes an error, or each of those that are joined in it, with what leads to its
// key.
func (m *mistakes) add(key string, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			m.add(key, err)
		}
		return
	}
	if err != nil {
		*m = append(*m, fmt.Errorf("%s%w", key, err))
	}
}

// forwardOptions reads whom to ask for names outside of the cluster, whose zones are
// given.
func forwardOptions(c *config.DNS, zones []string, m *mistakes) forward.Options {
	o := forward.Options{RandomCase: c.RandomCase}
	var err error
	o.Zones, err = forward.ParseZones(c.Upstreams, c.Policies)
	m.add("dns.", err)
	for i, text := range c.Upstreams {
		name, s, err := forward.ParseUpstream(text)
		if err != nil {
			continue
		}
		key := fmt.Sprintf("dns.upstreams[%d]: ", i)
		m.add(key, forward.CheckSelf(s, ownAddresses(c)))
		if slices.ContainsFunc(zones, func(z string) bool { return strings.EqualFold(strings.TrimSuffix(z, "."), name) }) {
			m.add(key, fmt.Errorf("expected a zone below or outside of %s, which is answered here", name))
		}
	}
	if c.UpstreamCAs != "" {
		o.RootCAs, err = readAuthorities(c.UpstreamCAs)
		m.add("dns.upstreamCAs: ", err)
	}
	return o
}

// ownAddresses are those on which the name server answers if all goes well.
func ownAddresses(c *config.DNS) []netip.AddrPort {
	own := slices.Concat(c.Listen, c.TLS.Listen)
	if c.Intercept.Mode != "off" {
		for _, a := range c.Intercept.Addresses {
			own = append(own, netip.AddrPortFrom(a, intercept.Port))
		}
	}
	return own
}

func readAuthorities(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: expected PEM with at least one certificate", path)
	}
	return pool, nil
}

// orNone returns a time as packages take it of which 0 is the default, and negative
// what the configuration calls 0.
func orNone(d time.Duration) time.Duration {
	if d == 0 {
		return -time.Second
	}
	return d
}

// cacheOptions returns the limits of the cache.
func cacheOptions(c *config.DNSCache) cache.Options {
	o := cache.Options{
		Bytes: int(c.MiB) << 20, MaxTTL: c.MaxTTL.Duration, MaxNegative: c.MaxNegativeTTL.Duration,
		Stale: orNone(c.Stale.Duration), Failure: c.FailureTTL.Duration, Prefetch: int(c.Prefetch),
	}
	if o.Prefetch == 0 {
		o.Prefetch = -1
	}
	return o
}
