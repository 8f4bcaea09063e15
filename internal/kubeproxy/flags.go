package kubeproxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/spf13/pflag"

	"github.com/sluicenet/sluice/internal/config"
)

// ignoredFlags are kube-proxy's flags that have no meaning here, and why. Those
// with one are names of ours: see config.Configuration.Flags.
var ignoredFlags = map[string]string{
	"bind-address":                    whyAddress,
	"boot-id-file":                    whyMachine,
	"config-sync-period":              whyPeriod,
	"feature-gates":                   whyGates,
	"iptables-min-sync-period":        whyAtOnce,
	"iptables-sync-period":            whyVerify,
	"ipvs-min-sync-period":            whyAtOnce,
	"ipvs-sync-period":                whyVerify,
	"kube-api-burst":                  whyWatches,
	"kube-api-content-type":           whyProtobuf,
	"kube-api-qps":                    whyWatches,
	"log-flush-frequency":             whyStderr,
	"log-json-info-buffer-size":       whyStderr,
	"log-json-split-stream":           whyStderr,
	"log-text-info-buffer-size":       whyStderr,
	"log-text-split-stream":           whyStderr,
	"machine-id-file":                 whyMachine,
	"profiling":                       whyProfiles,
	"show-hidden-metrics-for-version": whyMetrics,
	"vmodule":                         whyLevel,
}

// refusedFlags are kube-proxy's flags that would make another program of this
// one, and what to do instead.
var refusedFlags = map[string]string{
	"cleanup":         "run \"sluice cleanup\", for kube-proxy's own rules with --kube-proxy",
	"init-only":       "a DaemonSet's container has its rights from its security context",
	"version":         "run \"sluice version\"",
	"write-config-to": "the help of the flags has what holds where nothing is said",
}

// AddFlags adds kube-proxy's flags that are no names of ours, so that its command
// line goes on working. They are hidden. The function returns a [Note] for each that
// was given with a value that would have a meaning for a kube-proxy and has none for
// this configuration.
func AddFlags(set *pflag.FlagSet) func(*config.Configuration) []Note {
	for name := range ignoredFlags {
		f := set.VarPF(new(ignoredFlag), name, "", "kube-proxy's; it has no meaning here")
		f.Hidden, f.NoOptDefVal = true, noOptDefVal(name)
	}
	for name, instead := range refusedFlags {
		f := set.VarPF(refusedFlag(instead), name, "", "kube-proxy's; "+instead)
		f.Hidden, f.NoOptDefVal = true, noOptDefVal(name)
	}
	return func(c *config.Configuration) []Note {
		var out []Note
		for _, name := range slices.Sorted(maps.Keys(ignoredFlags)) {
			if f := set.Lookup(name); f.Changed && !idle(name, f.Value.String()) {
				out = append(out, Note{"--" + name, ignoredFlags[name]})
			}
		}
		if on := c.Proxy.LocalhostNodePorts; on != nil && *on && (c.Proxy.Mode == "nftables" || c.Proxy.Mode == "ipvs") {
			out = append(out, Note{"--iptables-localhost-nodeports", whyLocal})
		}
		return out
	}
}

// idle reports whether a flag says what a kube-proxy does without it.
func idle(name, value string) bool {
	switch name {
	case "bind-address":
		ip, err := netip.ParseAddr(value)
		return err == nil && ip.IsUnspecified()
	case "log-flush-frequency":
		return value == "5s"
	}
	return value == "" || value == "false" || value == "0" || value == "0s"
}

// noOptDefVal is the value of a flag that is given without one: kube-proxy's
// switches are.
func noOptDefVal(name string) string {
	switch name {
	case "profiling", "log-json-split-stream", "log-text-split-stream", "cleanup", "init-only", "version":
		return "true"
	}
	return ""
}

// ignoredFlag takes every value.
type ignoredFlag string

// Type implements [pflag.Value].
func (*ignoredFlag) Type() string { return "string" }

// String implements [pflag.Value].
func (f *ignoredFlag) String() string { return string(*f) }

// Set implements [pflag.Value].
func (f *ignoredFlag) Set(s string) error {
	*f = ignoredFlag(s)
	return nil
}

// refusedFlag takes none. It says what to do instead.
type refusedFlag string

// Type implements [pflag.Value].
func (refusedFlag) Type() string { return "string" }

// String implements [pflag.Value].
func (refusedFlag) String() string { return "" }

// Set implements [pflag.Value].
func (f refusedFlag) Set(string) error {
	return fmt.Errorf("this is kube-proxy's flag and not sluice's; %s", string(f))
}
