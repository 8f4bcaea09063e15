package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/sluicenet/sluice/dns"
	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/dnstap"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/dns/ratelimit"
	"github.com/sluicenet/sluice/dns/zone"
	"github.com/sluicenet/sluice/internal/config"
)

// dnsOptions reads what the name server is configured to do.
func (p *process) dnsOptions() (dns.Options, error) {
	c := p.conf.DNS
	o := dns.Options{
		Store: p.store, Listen: c.Listen, Zones: slices.Concat([]string{p.conf.Zone}, c.Zones), TTL: c.TTL.Duration, EndpointPodNames: c.EndpointPodNames,
		ResolvConf: c.Resolv, Cache: cacheOptions(&c.Cache), KeepSubnet: c.KeepSubnet,
		Hosts:    dns.Hosts{Entries: c.Hosts.Entries, File: c.Hosts.File, TTL: c.Hosts.TTL.Duration, NoReverse: c.Hosts.NoReverse},
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
	var err error
	if o.Pods, err = zone.ParsePodMode(c.Pods); err != nil {
		return o, err
	}
	if o.Forward, err = forwardOptions(&c); err != nil {
		return o, err
	}
	for i, text := range c.Rewrites {
		r, err := dns.ParseRewrite(text)
		if err != nil {
			return o, fmt.Errorf("dns.rewrites[%d]: %w", i, err)
		}
		o.Rewrites = append(o.Rewrites, r)
	}
	for i, text := range c.Cache.Zones {
		l, err := dns.ParseLife(text)
		if err != nil {
			return o, fmt.Errorf("dns.cache.zones[%d]: %w", i, err)
		}
		o.Lives = append(o.Lives, l)
	}
	return o, nil
}

// forwardOptions reads whom to ask for names outside of the cluster.
func forwardOptions(c *config.DNS) (forward.Options, error) {
	zones, err := forward.ParseZones(c.Upstreams, c.Policies)
	if err != nil {
		return forward.Options{}, fmt.Errorf("dns: %w", err)
	}
	o := forward.Options{Zones: zones, RandomCase: c.RandomCase}
	if c.UpstreamCAs != "" {
		pem, err := os.ReadFile(c.UpstreamCAs)
		if err != nil {
			return o, fmt.Errorf("dns.upstreamCAs: %w", err)
		}
		o.RootCAs = x509.NewCertPool()
		if !o.RootCAs.AppendCertsFromPEM(pem) {
			return o, fmt.Errorf("dns.upstreamCAs: %s: %w", c.UpstreamCAs, errNoCertificate)
		}
	}
	return o, nil
}

var errNoCertificate = errors.New("expected PEM with at least one certificate")

// cacheOptions returns the limits of the cache. What the configuration calls 0 the
// cache calls negative, since 0 is its default.
func cacheOptions(c *config.DNSCache) cache.Options {
	o := cache.Options{
		Bytes: int(c.MiB) << 20, MaxTTL: c.MaxTTL.Duration, MaxNegative: c.MaxNegativeTTL.Duration,
		Stale: c.Stale.Duration, Failure: c.FailureTTL.Duration, Prefetch: int(c.Prefetch),
	}
	if o.Stale == 0 {
		o.Stale = -time.Second
	}
	if o.Prefetch == 0 {
		o.Prefetch = -1
	}
	return o
}
