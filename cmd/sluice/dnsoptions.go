package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sluicenet/sluice/dns/cache"
	"github.com/sluicenet/sluice/dns/forward"
	"github.com/sluicenet/sluice/internal/config"
)

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
