package config

import (
	"errors"
	"fmt"
	"net/netip"
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

	UpstreamCAs    string `json:"upstreamCAs,omitempty" flag:"dns-upstream-cas" usage:"PEM file of the authorities that certificates of tls:// upstreams are signed by (default: the system's)"`
	RandomCase     bool   `json:"randomCase,omitempty" usage:"ask upstreams with letters in random case, against forged answers"`
	KeepSubnet     bool   `json:"keepSubnet,omitempty" usage:"pass the Client Subnet option of clients on to upstreams"`
	CoreDNSMetrics bool   `json:"corednsMetrics,omitempty" usage:"metrics under CoreDNS' names too, for its dashboards"`

	Cache     DNSCache     `json:"cache,omitzero"`
	Intercept DNSIntercept `json:"intercept,omitzero"`
}

// DNSIntercept is how Pods reach the name server of their node.
type DNSIntercept struct {
	Mode      string       `json:"mode,omitempty" usage:"answer the addresses below and the ClusterIPs of the DNS Service on this node, whatever proxies Services: on, off, or auto for where the kernel can"`
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
	Prefetch       uint32          `json:"prefetch" usage:"how often an answer has to be used to be asked for again before it expires; 0: never"`
}

func defaultDNS() DNS {
	return DNS{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("169.254.20.10:53")},
		Resolv: "/etc/resolv.conf",
		Pods:   "verified",
		Intercept: DNSIntercept{
			Mode:      "auto",
			Addresses: []netip.Addr{netip.MustParseAddr("169.254.20.10"), netip.MustParseAddr("fd73:6c75:6963:6500::20:10")},
			Service:   "kube-system/kube-dns",
		},
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
		oneOf("dns.intercept.mode", d.Intercept.Mode, "auto", "on", "off"),
		objectName("dns.intercept.service", d.Intercept.Service),
		positive("dns.cache.maxTTL", c.MaxTTL.Duration, time.Second),
		positive("dns.cache.maxNegativeTTL", c.MaxNegativeTTL.Duration, time.Second),
		positive("dns.cache.stale", c.Stale.Duration, 0),
		positive("dns.cache.failureTTL", c.FailureTTL.Duration, time.Second),
	}
	if c.FailureTTL.Duration > maxFailureTTL {
		errs = append(errs, fmt.Errorf("dns.cache.failureTTL: expected at most %v, found %v", maxFailureTTL, c.FailureTTL.Duration))
	}
	if c.MiB == 0 || c.MiB > 1<<14 {
		errs = append(errs, fmt.Errorf("dns.cache.mib: expected 1 to %d, found %d", 1<<14, c.MiB))
	}
	return errors.Join(errs...)
}

// objectName checks the name of an object that has a namespace.
func objectName(field, value string) error {
	namespace, name, ok := strings.Cut(value, "/")
	if !ok || dnsName(field, namespace) != nil || dnsName(field, name) != nil {
		return fmt.Errorf("%s: expected NAMESPACE/NAME, found %q", field, value)
	}
	return nil
}
