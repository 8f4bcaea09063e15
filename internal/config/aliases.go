package config

import (
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/spf13/pflag"
)

// aliasOf is the annotation of a flag that is another name of one.
const aliasOf = "sluice.io/alias-of"

// aliases are kube-proxy's names of flags that mean the same, so that a
// kube-proxy's command line goes on working.
var aliases = map[string]string{
	"hostname-override":                 "node-name",
	"logging-format":                    "log-format",
	"bind-address-hard-fail":            "proxy-healthz-hard-fail",
	"cluster-cidr":                      "proxy-cluster-cidrs",
	"nodeport-addresses":                "proxy-node-port-addresses",
	"masquerade-all":                    "proxy-masquerade-all",
	"detect-local-mode":                 "proxy-detect-local-mode",
	"pod-bridge-interface":              "proxy-detect-local-bridge-interface",
	"pod-interface-name-prefix":         "proxy-detect-local-interface-name-prefix",
	"oom-score-adj":                     "proxy-oom-score-adj",
	"ipvs-scheduler":                    "proxy-ipvs-scheduler",
	"ipvs-exclude-cidrs":                "proxy-ipvs-exclude-cidrs",
	"ipvs-strict-arp":                   "proxy-ipvs-strict-arp",
	"ipvs-tcp-timeout":                  "proxy-ipvs-tcp-timeout",
	"ipvs-tcpfin-timeout":               "proxy-ipvs-tcp-fin-timeout",
	"ipvs-udp-timeout":                  "proxy-ipvs-udp-timeout",
	"conntrack-max-per-core":            "proxy-conntrack-max-per-core",
	"conntrack-min":                     "proxy-conntrack-min",
	"conntrack-tcp-timeout-established": "proxy-conntrack-tcp-established-timeout",
	"conntrack-tcp-timeout-close-wait":  "proxy-conntrack-tcp-close-wait-timeout",
	"conntrack-tcp-be-liberal":          "proxy-conntrack-tcp-be-liberal",
	"conntrack-udp-timeout":             "proxy-conntrack-udp-timeout",
	"conntrack-udp-timeout-stream":      "proxy-conntrack-udp-stream-timeout",
}

// addAliases adds kube-proxy's names to set, which has ours. They are hidden.
func addAliases(set *pflag.FlagSet, c *Configuration) {
	for name, of := range aliases {
		alias(set, name, of, set.Lookup(of).Value)
	}
	alias(set, "healthz-bind-address", "proxy-healthz", &bindAddress{set.Lookup("proxy-healthz").Value, HealthzPort})
	alias(set, "metrics-bind-address", "metrics", &bindAddress{set.Lookup("metrics").Value, MetricsPort})
	alias(set, "iptables-masquerade-bit", "proxy-masquerade-mark", (*bit)(&c.Proxy.MasqueradeMark))
	alias(set, "v", "log-level", (*verbosity)(&c.Log.Level))
	alias(set, "iptables-localhost-nodeports", "proxy-node-port-addresses", (*localhost)(&c.Proxy.NodePortAddresses))
}

func alias(set *pflag.FlagSet, name, of string, v pflag.Value) {
	f := set.VarPF(v, name, "", "kube-proxy's name of --"+of)
	f.NoOptDefVal = set.Lookup(of).NoOptDefVal
	if v.Type() == "bool" {
		f.NoOptDefVal = "true"
	}
	f.Hidden = true
	f.Annotations = map[string][]string{aliasOf: {of}}
}

// The ports of kube-proxy's servers, which their addresses may leave out.
const (
	HealthzPort = 10256
	MetricsPort = 10249
)

// bindAddress is an address whose port may be left out.
type bindAddress struct {
	pflag.Value
	port int
}

// Set implements [pflag.Value].
func (b *bindAddress) Set(s string) error { return b.Value.Set(WithPort(s, b.port)) }

// WithPort adds a port to an address that has none.
func WithPort(address string, port int) string {
	if ip, err := netip.ParseAddr(address); err == nil {
		return net.JoinHostPort(ip.String(), strconv.Itoa(port))
	}
	return address
}

// bit is a mark as the number of its bit.
type bit uint32

// Type implements [pflag.Value].
func (b *bit) Type() string { return "number" }

// String implements [pflag.Value].
func (b *bit) String() string { return strconv.Itoa(bits.TrailingZeros32(uint32(*b))) }

// Set implements [pflag.Value].
func (b *bit) Set(s string) error {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil || n > 31 {
		return fmt.Errorf("expected a number from 0 to 31, found %q", s)
	}
	*b = 1 << n
	return nil
}

// verbosity is a level as klog's number.
type verbosity string

// debugVerbosity is the klog level from which on lines are for debugging.
const debugVerbosity = 4

// Type implements [pflag.Value].
func (v *verbosity) Type() string { return "number" }

// String implements [pflag.Value].
func (v *verbosity) String() string {
	if *v == "debug" {
		return strconv.Itoa(debugVerbosity)
	}
	return "0"
}

// Set implements [pflag.Value].
func (v *verbosity) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return fmt.Errorf("expected a number, found %q", s)
	}
	if n >= debugVerbosity {
		*v = "debug"
	}
	return nil
}

// localhost is whether a list of addresses for NodePorts has the word for it.
type localhost []string

// Type implements [pflag.Value].
func (l *localhost) Type() string { return "bool" }

// String implements [pflag.Value].
func (l *localhost) String() string { return strconv.FormatBool(slices.Contains(*l, "localhost")) }

// Set implements [pflag.Value].
func (l *localhost) Set(s string) error {
	on, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("expected true or false, found %q", s)
	}
	rest := slices.DeleteFunc(slices.Clone(*l), func(a string) bool { return a == "localhost" })
	switch {
	case on && len(rest) == 0:
		rest = localhost{"all", "localhost"}
	case on:
		rest = append(rest, "localhost")
	}
	*l = rest
	return nil
}
