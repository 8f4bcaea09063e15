package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DNS is the name server of this node.
type DNS struct {
	Listen    []netip.AddrPort `json:"listen,omitempty" usage:"addresses to answer on, UDP and TCP; empty: no DNS"`
	Upstreams []string         `json:"upstreams,omitempty" usage:"servers for all other names, as 10.0.0.1, tcp://10.0.0.1 or tls://10.0.0.1#NAME, or for one zone ZONE=SERVER (default: those of the resolv.conf)"`
	Policies  []string         `json:"policies,omitempty" usage:"order in which upstreams are asked: sequential, round-robin or random, or for one zone ZONE=POLICY (default: sequential)"`
	Resolv    string           `json:"resolvConf,omitempty" usage:"resolv.conf to take upstreams from; it is read again when it changes"`
	Pods      string           `json:"pods,omitempty" usage:"records of Pods by address: disabled, insecure or verified"`
	Zones     []string         `json:"zones,omitempty" usage:"further zones that the cluster's names are in"`
	TTL       metav1.Duration  `json:"ttl" flag:"dns-ttl" usage:"TTL of the cluster's names, at most 1h"`

	EndpointPodNames bool `json:"endpointPodNames,omitempty" usage:"name endpoints without hostname after their Pods, instead of their addresses"`

	Hosts    DNSHosts `json:"hosts,omitzero"`
	Rewrites []string `json:"rewrites,omitempty" usage:"names that are answered with what there is of another, as FROM=TO"`
	Autopath bool     `json:"autopath,omitempty" usage:"answer the first name of a Pod's search path with the first of the path that exists"`
	Search   []string `json:"search,omitempty" usage:"domains that the host adds to the search path of Pods (default: those of the resolv.conf)"`

	UpstreamCAs    string `json:"upstreamCAs,omitempty" flag:"dns-upstream-cas" usage:"PEM file of the authorities that certificates of tls:// upstreams are signed by (default: the system's)"`
	RandomCase     bool   `json:"randomCase,omitempty" usage:"ask upstreams with letters in random case, against forged answers"`
	KeepSubnet     bool   `json:"keepSubnet,omitempty" usage:"pass the Client Subnet option of clients on to upstreams"`
	CoreDNSMetrics bool   `json:"corednsMetrics,omitempty" usage:"metrics under CoreDNS' names too, for its dashboards"`

	Transfer []netip.Prefix `json:"transfer,omitempty" usage:"ranges of clients that may have the cluster's zones transferred, by AXFR over TCP; empty: none may"`

	Filter    DNSFilter    `json:"filter,omitzero"`
	Cache     DNSCache     `json:"cache,omitzero"`
	Intercept DNSIntercept `json:"intercept,omitzero"`
	TCP       DNSTCP       `json:"tcp,omitzero"`
	TLS       DNSTLS       `json:"tls,omitzero"`
	RateLimit DNSRateLimit `json:"rateLimit,omitzero"`
	Log       DNSLog       `json:"log,omitzero"`
	Dnstap    DNSTap       `json:"dnstap,omitzero"`
}

// DNSHosts are names that are answered before all others.
type DNSHosts struct {
	Entries   []string        `json:"entries,omitempty" usage:"an address and its names each, as a line of a hosts file"`
	File      string          `json:"file,omitempty" usage:"hosts file of more such lines; it is read again when it changes"`
	TTL       metav1.Duration `json:"ttl" flag:"dns-hosts-ttl" usage:"TTL of these names"`
	NoReverse bool            `json:"noReverse,omitempty" usage:"do not lead from these addresses to their names"`
}

// DNSFilter hides names of the cluster. Selectors are Kubernetes' own, such as
// "team=a,tier in (front,back)".
type DNSFilter struct {
	Namespaces      []string `json:"namespaces,omitempty" usage:"namespaces that have names (default: all)"`
	NamespaceLabels string   `json:"namespaceLabels,omitempty" usage:"label selector of the namespaces that have names (default: all)"`
	Labels          string   `json:"labels,omitempty" usage:"label selector of the Services that have names (default: all)"`
	EmptyServices   bool     `json:"emptyServices,omitempty" usage:"hide Services with a ClusterIP that have no ready endpoint"`
	NoEndpoints     bool     `json:"noEndpoints,omitempty" usage:"hide the names of endpoints, and with them headless Services"`
}

// DNSTCP limits connections.
type DNSTCP struct {
	MaxConnections uint32          `json:"maxConnections,omitempty" usage:"connections at a time; an idle one makes room for a new one"`
	MaxPerClient   uint32          `json:"maxPerClient,omitempty" usage:"connections of one client at a time"`
	IdleTimeout    metav1.Duration `json:"idleTimeout,omitzero" usage:"how long a connection may be idle"`
}

// DNSTLS is the server over TLS.
type DNSTLS struct {
	Listen   []netip.AddrPort `json:"listen,omitempty" usage:"addresses to answer on over TLS, usually of port 853; empty: none"`
	CertFile string           `json:"certFile,omitempty" usage:"PEM file of the certificate; it is read again when it changes"`
	KeyFile  string           `json:"keyFile,omitempty" usage:"PEM file of the certificate's key"`
}

// DNSRateLimit is how much one client may ask.
type DNSRateLimit struct {
	PerSecond  uint32 `json:"perSecond,omitempty" usage:"queries a second that one client may ask; 0: no limit"`
	Burst      uint32 `json:"burst,omitempty" usage:"queries at once that one client may ask (default: perSecond)"`
	Slip       uint32 `json:"slip" usage:"of the queries over the limit, each so manieth is answered that the client is to ask over TCP; 0: none is answered"`
	IPv4Prefix uint32 `json:"ipv4Prefix,omitempty" flag:"dns-rate-limit-ipv4-prefix" usage:"bits of an IPv4 address that make a client"`
	IPv6Prefix uint32 `json:"ipv6Prefix,omitempty" flag:"dns-rate-limit-ipv6-prefix" usage:"bits of an IPv6 address that make a client"`
}

// DNSLog is the log of queries.
type DNSLog struct {
	Sample uint32 `json:"sample,omitempty" usage:"log one of so many queries; 0: none"`
}

// DNSTap tells an observer of queries and answers.
type DNSTap struct {
	Socket string `json:"socket,omitempty" usage:"where an observer takes dnstap's messages, as unix:///PATH or tcp://HOST:PORT; empty: none"`
}

// DNSIntercept is how Pods reach the name server of their node.
type DNSIntercept struct {
	Mode      Switch       `json:"mode,omitempty" usage:"answer the addresses below and the ClusterIPs of the DNS Service on this node, whatever proxies Services: on, off, or auto for where the kernel can"`
	Addresses []netip.Addr `json:"addresses,omitempty" usage:"addresses that every node answers itself, such as link-local ones"`
	Service   string       `json:"service,omitempty" usage:"NAMESPACE/NAME of the cluster's DNS Service; its endpoints take over when this process does not answer"`
}

// DNSCache keeps answers of upstreams.
type DNSCache struct {
	MiB            uint32          `json:"mib,omitempty" usage:"memory for answers in MiB"`
	MaxTTL         metav1.Duration `json:"maxTTL,omitzero" flag:"dns-cache-max-ttl" usage:"longest life of an answer"`
	MaxNegativeTTL metav1.Duration `json:"maxNegativeTTL,omitzero" flag:"dns-cache-max-negative-ttl" usage:"longest life of a negative answer"`
	Stale          metav1.Duration `json:"stale" usage:"how long expired answers are good enough while no upstream answers; 0: not at all"`
	FailureTTL     metav1.Duration `json:"failureTTL,omitzero" flag:"dns-cache-failure-ttl" usage:"how long a failure is kept, at most 5s"`
	Zones          []string        `json:"zones,omitempty" usage:"limits for the names of one zone, as ZONE=TTL or ZONE=TTL/NEGATIVETTL; 0s: not cached"`
	Prefetch       uint32          `json:"prefetch" usage:"how often an answer has to be used to be asked for again before it expires; 0: never"`
}

func defaultDNS() DNS {
	return DNS{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("169.254.20.10:53")},
		Resolv: "/etc/resolv.conf",
		Pods:   "verified",
		TTL:    metav1.Duration{Duration: 5 * time.Second},
		Hosts:  DNSHosts{TTL: metav1.Duration{Duration: time.Hour}},
		TCP:    DNSTCP{MaxConnections: 1024, MaxPerClient: 128, IdleTimeout: metav1.Duration{Duration: 10 * time.Second}},
		Intercept: DNSIntercept{
			Mode:      "auto",
			Addresses: []netip.Addr{netip.MustParseAddr("169.254.20.10"), netip.MustParseAddr("fd73:6c75:6963:6500::20:10")},
			Service:   "kube-system/kube-dns",
		},
		RateLimit: DNSRateLimit{Slip: 2, IPv4Prefix: 32, IPv6Prefix: 128},
		Cache: DNSCache{
			MiB: 16, Prefetch: 3,
			MaxTTL:         metav1.Duration{Duration: time.Hour},
			MaxNegativeTTL: metav1.Duration{Duration: 5 * time.Minute},
			Stale:          metav1.Duration{Duration: 24 * time.Hour},
			FailureTTL:     metav1.Duration{Duration: time.Second},
		},
	}
}

// maxFailureTTL keeps a server that is back from being passed over.
const maxFailureTTL = 5 * time.Second

func (d *DNS) validate() error {
	c := &d.Cache
	errs := []error{
		oneOf("dns.pods", d.Pods, "disabled", "insecure", "verified"),
		oneOf("dns.intercept.mode", string(d.Intercept.Mode), "auto", "on", "off"),
		objectName("dns.intercept.service", d.Intercept.Service),
		wholeSeconds("dns.ttl", d.TTL, 0, time.Hour),
		wholeSeconds("dns.hosts.ttl", d.Hosts.TTL, 0, maxTTL),
		wholeSeconds("dns.cache.maxTTL", c.MaxTTL, time.Second, maxTTL),
		wholeSeconds("dns.cache.maxNegativeTTL", c.MaxNegativeTTL, time.Second, maxTTL),
		wholeSeconds("dns.cache.stale", c.Stale, 0, maxTTL),
		wholeSeconds("dns.cache.failureTTL", c.FailureTTL, time.Second, maxFailureTTL),
		d.validateAddresses(), d.validateServing(), d.validateCompanions(),
	}
	if c.MiB == 0 || c.MiB > 1<<14 {
		errs = append(errs, fmt.Errorf("dns.cache.mib: expected 1 to %d, found %d", 1<<14, c.MiB))
	}
	return errors.Join(errs...)
}

// maxTTL is the longest TTL there is (RFC 2181 §8).
const maxTTL = (1<<31 - 1) * time.Second

// wholeSeconds checks a time that is told in whole seconds.
func wholeSeconds(field string, d metav1.Duration, least, most time.Duration) error {
	if d.Duration < least || d.Duration > most || d.Duration%time.Second != 0 {
		return fmt.Errorf("%s: expected whole seconds from %v to %v, found %v", field, least, most, d.Duration)
	}
	return nil
}

// validateAddresses checks the lists that are made of addresses. One without text
// reads as one that says nothing.
func (d *DNS) validateAddresses() error {
	var errs []error
	seen := map[netip.AddrPort]string{}
	for _, list := range []struct {
		key   string
		addrs []netip.AddrPort
	}{{"dns.listen", d.Listen}, {"dns.tls.listen", d.TLS.Listen}} {
		for i, a := range list.addrs {
			key := fmt.Sprintf("%s[%d]", list.key, i)
			switch other, twice := seen[a]; {
			case !a.IsValid():
				errs = append(errs, fmt.Errorf("%s: expected ADDRESS:PORT, found \"\"", key))
			case twice && a.Port() != 0: // 0 is another one each time
				errs = append(errs, fmt.Errorf("%s: expected each address once, found %v, which %s has", key, a, other))
			}
			seen[a] = key
		}
	}
	for i, a := range d.Intercept.Addresses {
		if !a.IsValid() {
			errs = append(errs, fmt.Errorf("dns.intercept.addresses[%d]: expected an address, found \"\"", i))
		}
	}
	return errors.Join(errs...)
}

// validateCompanions checks what has no meaning without something else, or twice.
func (d *DNS) validateCompanions() error {
	var errs []error
	need := func(field string, given bool, other string, has bool) {
		if given && !has {
			errs = append(errs, fmt.Errorf("%s: expected %s with it, which is not set", field, other))
		}
	}
	need("dns.rateLimit.burst", d.RateLimit.Burst > 0, "dns.rateLimit.perSecond", d.RateLimit.PerSecond > 0)
	need("dns.tls.certFile", d.TLS.CertFile != "", "dns.tls.listen", len(d.TLS.Listen) > 0)
	need("dns.tls.keyFile", d.TLS.KeyFile != "", "dns.tls.listen", len(d.TLS.Listen) > 0)
	need("dns.search", len(d.Search) > 0, "dns.autopath", d.Autopath)
	return errors.Join(append(errs, eachOnce("dns.rewrites", d.Rewrites), eachOnce("dns.cache.zones", d.Cache.Zones))...)
}

// eachOnce checks that no two entries of a list, as NAME=VALUE, are for one name.
func eachOnce(field string, list []string) error {
	var errs []error
	seen := map[string]int{}
	for i, text := range list {
		name, _, _ := strings.Cut(text, "=")
		name = plain(name)
		if first, twice := seen[name]; twice {
			errs = append(errs, fmt.Errorf("%s[%d]: expected each name once, found %q, which %s[%d] has", field, i, name, field, first))
			continue
		}
		seen[name] = i
	}
	return errors.Join(errs...)
}

// plain returns a DNS name as it is compared.
func plain(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// validateZones checks the cluster's further zones, of which main is the first.
func (d *DNS) validateZones(main string) error {
	var errs []error
	for i, ns := range d.Filter.Namespaces {
		errs = append(errs, dnsName(fmt.Sprintf("dns.filter.namespaces[%d]", i), ns))
	}
	for i, z := range d.Zones {
		field := fmt.Sprintf("dns.zones[%d]", i)
		err := dnsName(field, z)
		same := func(other string) bool { return plain(other) == plain(z) }
		switch {
		case err != nil:
		case same(main):
			err = fmt.Errorf("%s: expected a zone besides zone, found %q, which it is", field, z)
		case slices.ContainsFunc(d.Zones[:i], same):
			err = fmt.Errorf("%s: expected each zone once, found %q again", field, z)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// validateServing checks whom is answered, and how much.
func (d *DNS) validateServing() error {
	errs := []error{
		positive("dns.tcp.idleTimeout", d.TCP.IdleTimeout.Duration, time.Second),
		atLeastOne("dns.tcp.maxConnections", d.TCP.MaxConnections),
		atLeastOne("dns.tcp.maxPerClient", d.TCP.MaxPerClient),
	}
	if len(d.TLS.Listen) > 0 && (d.TLS.CertFile == "" || d.TLS.KeyFile == "") {
		errs = append(errs, errors.New("dns.tls: expected certFile and keyFile with listen"))
	}
	r := d.RateLimit
	for _, n := range []struct {
		key                string
		value, least, most uint32
	}{
		{"perSecond", r.PerSecond, 0, maxPerSecond}, {"burst", r.Burst, 0, maxPerSecond}, {"slip", r.Slip, 0, maxPerSecond},
		{"ipv4Prefix", r.IPv4Prefix, 1, 32}, {"ipv6Prefix", r.IPv6Prefix, 1, 128},
	} {
		if n.value < n.least || n.value > n.most {
			errs = append(errs, fmt.Errorf("dns.rateLimit.%s: expected %d to %d, found %d", n.key, n.least, n.most, n.value))
		}
	}
	return errors.Join(errs...)
}

// maxPerSecond is a rate that no server reaches.
const maxPerSecond = 1_000_000_000

func atLeastOne(field string, n uint32) error {
	if n == 0 || n > 1<<24 {
		return fmt.Errorf("%s: expected 1 to %d, found %d", field, 1<<24, n)
	}
	return nil
}

// objectName checks the name of an object that has a namespace.
func objectName(field, value string) error {
	namespace, name, ok := strings.Cut(value, "/")
	if !ok || dnsName(field, namespace) != nil || dnsName(field, name) != nil {
		return fmt.Errorf("%s: expected NAMESPACE/NAME, found %q", field, value)
	}
	return nil
}
