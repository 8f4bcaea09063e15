package kubeproxy

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"

	"github.com/sluicenet/sluice/internal/config"
)

// field is one field of a KubeProxyConfiguration.
type field struct {
	name string // its path
	// carry writes the field to our configuration. It returns why the field has
	// no meaning here if it is set all the same, and an error if it is wrong.
	carry func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (why string, err error)
}

// Why settings have no meaning here.
const (
	whyAtOnce   = "what has changed is programmed at once, and at a cost that no waiting would lower"
	whyVerify   = "what others change in the rules is looked for every 2 s, whatever their number"
	whyWindows  = "for Windows"
	whyMetrics  = "no metric is hidden"
	whyProtobuf = "protocol buffers are used where the API server has them"
	whyWatches  = "there is one watch a kind, and nothing that is written"
	whyProfiles = "the metrics' server has no profiles"
	whyPeriod   = "objects come by watches, and nothing is read anew while they last"
	whyLevel    = "the level is the same for all of the program"
	whyStderr   = "log lines are written at once, to standard error"
	whyGates    = "there are none here"
	whyLocal    = "for mode iptables; the list of addresses for NodePorts has the word localhost for all modes"
	whyMachine  = "nothing is told of the machine"
	whyAddress  = "the addresses of the node are those of its Node object"
)

// fields has every field of the type, each by the path of its name.
var fields = []field{
	{"featureGates", func(in *v1alpha1.KubeProxyConfiguration, _ *config.Configuration) (string, error) {
		return note(len(in.FeatureGates) > 0, whyGates+": "+strings.Join(slices.Sorted(maps.Keys(in.FeatureGates)), ", ")), nil
	}},
	{"clientConnection.kubeconfig", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		out.Kubeconfig = cmp.Or(in.ClientConnection.Kubeconfig, out.Kubeconfig)
		return "", nil
	}},
	ignored("clientConnection.acceptContentTypes", whyProtobuf, func(in *v1alpha1.KubeProxyConfiguration) any { return in.ClientConnection.AcceptContentTypes }),
	ignored("clientConnection.contentType", whyProtobuf, func(in *v1alpha1.KubeProxyConfiguration) any { return in.ClientConnection.ContentType }),
	ignored("clientConnection.qps", whyWatches, func(in *v1alpha1.KubeProxyConfiguration) any { return in.ClientConnection.QPS }),
	ignored("clientConnection.burst", whyWatches, func(in *v1alpha1.KubeProxyConfiguration) any { return in.ClientConnection.Burst }),
	{"logging.format", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		switch f := in.Logging.Format; f {
		case "":
		case "text", "json":
			out.Log.Format = f
		default:
			return "", fmt.Errorf(`expected text or json, found %q`, f)
		}
		return "", nil
	}},
	ignored("logging.flushFrequency", whyStderr, func(in *v1alpha1.KubeProxyConfiguration) any {
		// 5 s is what kube-proxy writes where nothing is said.
		if d := in.Logging.FlushFrequency.Duration.Duration; d != 5*time.Second {
			return d
		}
		return nil
	}),
	{"logging.verbosity", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		if in.Logging.Verbosity >= 4 { // klog's for debugging
			out.Log.Level = "debug"
		}
		return "", nil
	}},
	ignored("logging.vmodule", whyLevel, func(in *v1alpha1.KubeProxyConfiguration) any { return in.Logging.VModule }),
	ignored("logging.options", whyStderr, func(in *v1alpha1.KubeProxyConfiguration) any {
		o := in.Logging.Options
		return o.Text.SplitStream || o.JSON.SplitStream || o.Text.InfoBufferSize.Value() != 0 || o.JSON.InfoBufferSize.Value() != 0
	}),
	{"hostnameOverride", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		out.NodeName = cmp.Or(strings.ToLower(strings.TrimSpace(in.HostnameOverride)), out.NodeName)
		return "", nil
	}},
	{"bindAddress", func(in *v1alpha1.KubeProxyConfiguration, _ *config.Configuration) (string, error) {
		if in.BindAddress == "" {
			return "", nil
		}
		ip, err := netip.ParseAddr(in.BindAddress)
		if err != nil {
			return "", fmt.Errorf("expected an address, found %q", in.BindAddress)
		}
		return note(!ip.IsUnspecified(), whyAddress), nil
	}},
	{"healthzBindAddress", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		out.Proxy.Healthz = config.WithPort(cmp.Or(in.HealthzBindAddress, unspecified(in)), config.HealthzPort)
		return "", nil
	}},
	{"metricsBindAddress", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		loopback := "127.0.0.1"
		if unspecified(in) == "::" {
			loopback = "::1"
		}
		out.Metrics = config.WithPort(cmp.Or(in.MetricsBindAddress, loopback), config.MetricsPort)
		return "", nil
	}},
	{"bindAddressHardFail", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		out.Proxy.HealthzHardFail = in.BindAddressHardFail
		return "", nil
	}},
	ignored("enableProfiling", whyProfiles, func(in *v1alpha1.KubeProxyConfiguration) any { return in.EnableProfiling }),
	ignored("showHiddenMetricsForVersion", whyMetrics, func(in *v1alpha1.KubeProxyConfiguration) any { return in.ShowHiddenMetricsForVersion }),
	{"mode", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		switch in.Mode {
		case "":
			out.Proxy.Mode = "auto"
		case "iptables", "ipvs", "nftables":
			out.Proxy.Mode = string(in.Mode)
		default:
			return "", fmt.Errorf(`expected iptables, ipvs or nftables, found %q`, in.Mode)
		}
		return "", nil
	}},
	{"iptables.masqueradeBit", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		return masqueradeBit(in.IPTables.MasqueradeBit, in.Mode != "nftables", out)
	}},
	{"iptables.masqueradeAll", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		return masqueradeAll(in.IPTables.MasqueradeAll, in.Mode != "nftables", out)
	}},
	{"iptables.localhostNodePorts", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		if in.Mode == "" || in.Mode == "iptables" {
			return "", nil // with nodePortAddresses
		}
		return note(in.IPTables.LocalhostNodePorts != nil && *in.IPTables.LocalhostNodePorts, whyLocal), nil
	}},
	ignored("iptables.syncPeriod", whyVerify, func(in *v1alpha1.KubeProxyConfiguration) any { return in.IPTables.SyncPeriod }),
	ignored("iptables.minSyncPeriod", whyAtOnce, func(in *v1alpha1.KubeProxyConfiguration) any { return in.IPTables.MinSyncPeriod }),
	ignored("ipvs.syncPeriod", whyVerify, func(in *v1alpha1.KubeProxyConfiguration) any { return in.IPVS.SyncPeriod }),
	ignored("ipvs.minSyncPeriod", whyAtOnce, func(in *v1alpha1.KubeProxyConfiguration) any { return in.IPVS.MinSyncPeriod }),
	{"ipvs.scheduler", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		out.Proxy.IPVS.Scheduler = cmp.Or(in.IPVS.Scheduler, "rr")
		return "", config.ValidScheduler(out.Proxy.IPVS.Scheduler)
	}},
	{"ipvs.excludeCIDRs", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (_ string, err error) {
		out.Proxy.IPVS.ExcludeCIDRs, err = prefixes(in.IPVS.ExcludeCIDRs)
		return "", err
	}},
	{"ipvs.strictARP", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		out.Proxy.IPVS.StrictARP = in.IPVS.StrictARP
		return "", nil
	}},
	duration("ipvs.tcpTimeout", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (*metav1.Duration, *metav1.Duration) {
		return &in.IPVS.TCPTimeout, &out.Proxy.IPVS.TCPTimeout
	}, 0),
	duration("ipvs.tcpFinTimeout", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (*metav1.Duration, *metav1.Duration) {
		return &in.IPVS.TCPFinTimeout, &out.Proxy.IPVS.TCPFinTimeout
	}, 0),
	duration("ipvs.udpTimeout", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (*metav1.Duration, *metav1.Duration) {
		return &in.IPVS.UDPTimeout, &out.Proxy.IPVS.UDPTimeout
	}, 0),
	{"nftables.masqueradeBit", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		return masqueradeBit(in.NFTables.MasqueradeBit, in.Mode == "nftables", out)
	}},
	{"nftables.masqueradeAll", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		return masqueradeAll(in.NFTables.MasqueradeAll, in.Mode == "nftables", out)
	}},
	ignored("nftables.syncPeriod", whyVerify, func(in *v1alpha1.KubeProxyConfiguration) any { return in.NFTables.SyncPeriod }),
	ignored("nftables.minSyncPeriod", whyAtOnce, func(in *v1alpha1.KubeProxyConfiguration) any { return in.NFTables.MinSyncPeriod }),
	ignored("winkernel.networkName", whyWindows, func(in *v1alpha1.KubeProxyConfiguration) any { return in.Winkernel.NetworkName }),
	ignored("winkernel.sourceVip", whyWindows, func(in *v1alpha1.KubeProxyConfiguration) any { return in.Winkernel.SourceVip }),
	ignored("winkernel.enableDSR", whyWindows, func(in *v1alpha1.KubeProxyConfiguration) any { return in.Winkernel.EnableDSR }),
	ignored("winkernel.rootHnsEndpointName", whyWindows, func(in *v1alpha1.KubeProxyConfiguration) any { return in.Winkernel.RootHnsEndpointName }),
	ignored("winkernel.forwardHealthCheckVip", whyWindows, func(in *v1alpha1.KubeProxyConfiguration) any { return in.Winkernel.ForwardHealthCheckVip }),
	{"detectLocalMode", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		switch in.DetectLocalMode {
		case "", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix":
			out.Proxy.DetectLocal.Mode = cmp.Or(string(in.DetectLocalMode), "ClusterCIDR")
			return "", nil
		}
		return "", fmt.Errorf("expected ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix, found %q", in.DetectLocalMode)
	}},
	{"detectLocal.bridgeInterface", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		out.Proxy.DetectLocal.BridgeInterface = in.DetectLocal.BridgeInterface
		return "", nil
	}},
	{"detectLocal.interfaceNamePrefix", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		out.Proxy.DetectLocal.InterfaceNamePrefix = in.DetectLocal.InterfaceNamePrefix
		return "", nil
	}},
	{"clusterCIDR", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (_ string, err error) {
		out.Proxy.ClusterCIDRs, err = prefixes(strings.FieldsFunc(in.ClusterCIDR, func(r rune) bool { return r == ',' || r == ' ' }))
		return "", err
	}},
	{"nodePortAddresses", nodePortAddresses},
	{"oomScoreAdj", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		out.Proxy.OOMScoreAdj = or(in.OOMScoreAdj, -999)
		return "", within(out.Proxy.OOMScoreAdj, -1000, 1000)
	}},
	{"conntrack.maxPerCore", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		out.Proxy.Conntrack.MaxPerCore = or(in.Conntrack.MaxPerCore, 32<<10)
		return "", within(out.Proxy.Conntrack.MaxPerCore, 0, math.MaxInt32)
	}},
	{"conntrack.min", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		out.Proxy.Conntrack.Min = or(in.Conntrack.Min, 128<<10)
		return "", within(out.Proxy.Conntrack.Min, 0, math.MaxInt32)
	}},
	duration("conntrack.tcpEstablishedTimeout", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (*metav1.Duration, *metav1.Duration) {
		return in.Conntrack.TCPEstablishedTimeout, &out.Proxy.Conntrack.TCPEstablishedTimeout
	}, 24*time.Hour),
	duration("conntrack.tcpCloseWaitTimeout", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (*metav1.Duration, *metav1.Duration) {
		return in.Conntrack.TCPCloseWaitTimeout, &out.Proxy.Conntrack.TCPCloseWaitTimeout
	}, time.Hour),
	{"conntrack.tcpBeLiberal", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		out.Proxy.Conntrack.TCPBeLiberal = in.Conntrack.TCPBeLiberal
		return "", nil
	}},
	duration("conntrack.udpTimeout", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (*metav1.Duration, *metav1.Duration) {
		return &in.Conntrack.UDPTimeout, &out.Proxy.Conntrack.UDPTimeout
	}, 0),
	duration("conntrack.udpStreamTimeout", func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (*metav1.Duration, *metav1.Duration) {
		return &in.Conntrack.UDPStreamTimeout, &out.Proxy.Conntrack.UDPStreamTimeout
	}, 0),
	ignored("configSyncPeriod", whyPeriod, func(in *v1alpha1.KubeProxyConfiguration) any { return in.ConfigSyncPeriod }),
	ignored("portRange", "kube-proxy does not read it either", func(in *v1alpha1.KubeProxyConfiguration) any { return in.PortRange }),
	ignored("windowsRunAsService", whyWindows, func(in *v1alpha1.KubeProxyConfiguration) any { return in.WindowsRunAsService }),
}

func note(set bool, why string) string {
	if set {
		return why
	}
	return ""
}

// ignored is a field that has no meaning here.
func ignored(name, why string, get func(*v1alpha1.KubeProxyConfiguration) any) field {
	return field{name, func(in *v1alpha1.KubeProxyConfiguration, _ *config.Configuration) (string, error) {
		v := reflect.ValueOf(get(in))
		set := v.IsValid() && !v.IsZero() && (v.Kind() != reflect.Slice || v.Len() > 0)
		return note(set, why), nil
	}}
}

// duration is a time that the kernel keeps in seconds; 0 leaves it. Where the
// field is not there, it is what kube-proxy takes.
func duration(name string, of func(*v1alpha1.KubeProxyConfiguration, *config.Configuration) (in, out *metav1.Duration), absent time.Duration) field {
	return field{name, func(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
		from, to := of(in, out)
		if from == nil {
			from = &metav1.Duration{Duration: absent}
		}
		if from.Duration < 0 || from.Duration%time.Second != 0 {
			return "", fmt.Errorf("expected whole seconds, or 0, found %v", from.Duration)
		}
		*to = *from
		return "", nil
	}}
}

// masqueradeBit takes a mode's bit, if it is the mode.
func masqueradeBit(n *int32, mine bool, out *config.Configuration) (string, error) {
	b := or(n, 14)
	if err := within(b, 0, 31); err != nil {
		return "", err
	}
	if !mine {
		return note(b != 14, "the mode is another"), nil
	}
	out.Proxy.MasqueradeMark = 1 << b
	return "", nil
}

func masqueradeAll(all, mine bool, out *config.Configuration) (string, error) {
	if mine {
		out.Proxy.MasqueradeAll = all
	}
	return note(all && !mine, "the mode is another"), nil
}

// nodePortAddresses says what kube-proxy's modes take where nothing is said:
// iptables all addresses, and loopback unless it is told not to; ipvs all others
// than loopback; nftables the node's first.
func nodePortAddresses(in *v1alpha1.KubeProxyConfiguration, out *config.Configuration) (string, error) {
	for i, a := range in.NodePortAddresses {
		if _, err := netip.ParsePrefix(a); err != nil && !slices.Contains([]string{"primary", "localhost", "all"}, a) {
			return "", fmt.Errorf("[%d]: expected a range such as 10.0.0.0/8, or one of the words primary, localhost and all, found %q", i, a)
		}
	}
	list := slices.Clone(in.NodePortAddresses)
	switch {
	case in.Mode == "" || in.Mode == "iptables":
		list = config.IPTablesNodePorts(list, in.IPTables.LocalhostNodePorts)
	case len(list) > 0:
	case in.Mode == "nftables":
		list = []string{"primary"}
	default:
		list = []string{"all"}
	}
	out.Proxy.NodePortAddresses = list
	return "", nil
}

// unspecified is the address of all addresses, in the family of bindAddress.
func unspecified(in *v1alpha1.KubeProxyConfiguration) string {
	if ip, err := netip.ParseAddr(in.BindAddress); err == nil && ip.Is6() {
		return "::"
	}
	return "0.0.0.0"
}

func prefixes(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("expected a range such as 10.0.0.0/8, found %q", s)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func or(n *int32, absent int32) int32 {
	if n == nil {
		return absent
	}
	return *n
}

func within(n, least, most int32) error {
	if n < least || n > most {
		return fmt.Errorf("expected a number from %d to %d, found %d", least, most, n)
	}
	return nil
}
