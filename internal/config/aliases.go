package config

import (
	"fmt"
	"math/bits"
	"net"
	"net/netip"
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
	"master":                            "api-server",
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
	addServer(set, "healthz", set.Lookup("proxy-healthz"), HealthzPort)
	addServer(set, "metrics", set.Lookup("metrics"), MetricsPort)
	alias(set, "iptables-masquerade-bit", "proxy-masquerade-mark", (*bit)(&c.Proxy.MasqueradeMark))
	alias(set, "v", "log-level", (*verbosity)(&c.Log.Level))
	hidden(set, "iptables-localhost-nodeports", "proxy-node-port-addresses", boolPointer{&c.Proxy.LocalhostNodePorts})
}

// alias adds another name of a flag, whose value v reads in its own way.
func alias(set *pflag.FlagSet, name, of string, v pflag.Value) {
	hidden(set, name, of, v).Annotations = map[string][]string{aliasOf: {of}}
}

// hidden adds a flag that has to do with one of ours. A name of one letter is a
// shorthand too.
func hidden(set *pflag.FlagSet, name, of string, v pflag.Value) *pflag.Flag {
	short := ""
	if len(name) == 1 {
		short = name
	}
	f := set.VarPF(v, name, short, "kube-proxy's name of --"+of)
	f.NoOptDefVal = set.Lookup(of).NoOptDefVal
	if v.Type() == "bool" {
		f.NoOptDefVal = "true"
	}
	f.Hidden = true
	return f
}

// The ports of kube-proxy's servers, which their addresses may leave out.
const (
	HealthzPort = 10256
	MetricsPort = 10249
)

// server is the address of a server as kube-proxy's flags have it: an address
// whose port may be left out, and the port that it has then. Port 0 is no server.
type server struct {
	address pflag.Value
	given   string
	port    int
}

func addServer(set *pflag.FlagSet, name string, of *pflag.Flag, port int) {
	s := &server{address: of.Value, port: port}
	alias(set, name+"-bind-address", of.Name, (*serverAddress)(s))
	hidden(set, name+"-port", of.Name, (*serverPort)(s))
}

func (s *server) apply() error {
	switch {
	case s.port == 0:
		return s.address.Set("")
	case s.given != "":
		return s.address.Set(WithPort(s.given, s.port))
	}
	return nil
}

// serverAddress is the flag of the address.
type serverAddress server

// Type implements [pflag.Value].
func (a *serverAddress) Type() string { return "string" }

// String implements [pflag.Value].
func (a *serverAddress) String() string { return a.address.String() }

// Set implements [pflag.Value].
func (a *serverAddress) Set(s string) error {
	if a.given = s; s == "" {
		return a.address.Set("")
	}
	return (*server)(a).apply()
}

// serverPort is the flag of the port.
type serverPort server

// Type implements [pflag.Value].
func (p *serverPort) Type() string { return "number" }

// String implements [pflag.Value].
func (p *serverPort) String() string { return strconv.Itoa(p.port) }

// Set implements [pflag.Value].
func (p *serverPort) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return fmt.Errorf("expected a number from 0 to 65535, found %q", s)
	}
	p.port = int(n)
	return (*server)(p).apply()
}

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
