package kubeproxy

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"

	"github.com/sluicenet/sluice/internal/config"
)

const head = "apiVersion: " + APIVersion + "\nkind: " + Kind + "\n"

// leaves returns the paths of all fields of a type, by their names in JSON.
func leaves(t reflect.Type, prefix string) []string {
	var out []string
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Type == reflect.TypeFor[metav1.TypeMeta]():
		case f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[metav1.Duration]() && f.Type.Name() != "TimeOrMetaDuration" && f.Type.Name() != "FormatOptions":
			out = append(out, leaves(f.Type, prefix+name+".")...)
		default:
			out = append(out, prefix+name)
		}
	}
	return out
}

// set gives each field a value that is not its default, and what our
// configuration has or says then.
var set = map[string]struct {
	yaml string
	want func(*config.Configuration) any
	is   any
	note string
}{
	"featureGates":                        {yaml: "featureGates: {Foo: true}", note: "there are none here: Foo"},
	"clientConnection.kubeconfig":         {yaml: "clientConnection: {kubeconfig: /k}", want: func(c *config.Configuration) any { return c.Kubeconfig }, is: "/k"},
	"clientConnection.acceptContentTypes": {yaml: "clientConnection: {acceptContentTypes: x}", note: "protocol buffers"},
	"clientConnection.contentType":        {yaml: "clientConnection: {contentType: x}", note: "protocol buffers"},
	"clientConnection.qps":                {yaml: "clientConnection: {qps: 7}", note: "one watch a kind"},
	"clientConnection.burst":              {yaml: "clientConnection: {burst: 7}", note: "one watch a kind"},
	"logging.format":                      {yaml: "logging: {format: json}", want: func(c *config.Configuration) any { return c.Log.Format }, is: "json"},
	"logging.flushFrequency":              {yaml: "logging: {flushFrequency: 9s}", note: "at once"},
	"logging.verbosity":                   {yaml: "logging: {verbosity: 5}", want: func(c *config.Configuration) any { return c.Log.Level }, is: "debug"},
	"logging.vmodule":                     {yaml: "logging: {vmodule: [{filePattern: a, verbosity: 3}]}", note: "the same for all"},
	"logging.options":                     {yaml: "logging: {options: {text: {splitStream: true}}}", note: "standard error"},
	"hostnameOverride":                    {yaml: "hostnameOverride: Node-7", want: func(c *config.Configuration) any { return c.NodeName }, is: "node-7"},
	"bindAddress":                         {yaml: "bindAddress: 192.0.2.1", note: "Node object"},
	"healthzBindAddress":                  {yaml: "healthzBindAddress: 192.0.2.1", want: func(c *config.Configuration) any { return c.Proxy.Healthz }, is: "192.0.2.1:10256"},
	"metricsBindAddress":                  {yaml: `metricsBindAddress: "[::]:9"`, want: func(c *config.Configuration) any { return c.Metrics }, is: "[::]:9"},
	"bindAddressHardFail":                 {yaml: "bindAddressHardFail: true", want: func(c *config.Configuration) any { return c.Proxy.HealthzHardFail }, is: true},
	"enableProfiling":                     {yaml: "enableProfiling: true", note: "no profiles"},
	"showHiddenMetricsForVersion":         {yaml: `showHiddenMetricsForVersion: "1.36"`, note: "no metric is hidden"},
	"mode":                                {yaml: "mode: ipvs", want: func(c *config.Configuration) any { return c.Proxy.Mode }, is: "ipvs"},
	"iptables.masqueradeBit":              {yaml: "iptables: {masqueradeBit: 3}", want: func(c *config.Configuration) any { return c.Proxy.MasqueradeMark }, is: uint32(8)},
	"iptables.masqueradeAll":              {yaml: "iptables: {masqueradeAll: true}", want: func(c *config.Configuration) any { return c.Proxy.MasqueradeAll }, is: true},
	"iptables.localhostNodePorts":         {yaml: "iptables: {localhostNodePorts: false}", want: func(c *config.Configuration) any { return c.Proxy.NodePortAddresses }, is: []string{"all"}},
	"iptables.syncPeriod":                 {yaml: "iptables: {syncPeriod: 9s}", note: "every 2 s"},
	"iptables.minSyncPeriod":              {yaml: "iptables: {minSyncPeriod: 9s}", note: "at once"},
	"ipvs.syncPeriod":                     {yaml: "ipvs: {syncPeriod: 9s}", note: "every 2 s"},
	"ipvs.minSyncPeriod":                  {yaml: "ipvs: {minSyncPeriod: 9s}", note: "at once"},
	"ipvs.scheduler":                      {yaml: "ipvs: {scheduler: lc}", want: func(c *config.Configuration) any { return c.Proxy.IPVS.Scheduler }, is: "lc"},
	"ipvs.excludeCIDRs":                   {yaml: "ipvs: {excludeCIDRs: [10.0.0.0/8]}", want: func(c *config.Configuration) any { return c.Proxy.IPVS.ExcludeCIDRs }, is: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
	"ipvs.strictARP":                      {yaml: "ipvs: {strictARP: true}", want: func(c *config.Configuration) any { return c.Proxy.IPVS.StrictARP }, is: true},
	"ipvs.tcpTimeout":                     {yaml: "ipvs: {tcpTimeout: 9s}", want: func(c *config.Configuration) any { return c.Proxy.IPVS.TCPTimeout.Duration }, is: 9 * time.Second},
	"ipvs.tcpFinTimeout":                  {yaml: "ipvs: {tcpFinTimeout: 9s}", want: func(c *config.Configuration) any { return c.Proxy.IPVS.TCPFinTimeout.Duration }, is: 9 * time.Second},
	"ipvs.udpTimeout":                     {yaml: "ipvs: {udpTimeout: 9s}", want: func(c *config.Configuration) any { return c.Proxy.IPVS.UDPTimeout.Duration }, is: 9 * time.Second},
	"nftables.masqueradeBit":              {yaml: "mode: nftables\nnftables: {masqueradeBit: 3}", want: func(c *config.Configuration) any { return c.Proxy.MasqueradeMark }, is: uint32(8)},
	"nftables.masqueradeAll":              {yaml: "mode: nftables\nnftables: {masqueradeAll: true}", want: func(c *config.Configuration) any { return c.Proxy.MasqueradeAll }, is: true},
	"nftables.syncPeriod":                 {yaml: "nftables: {syncPeriod: 9s}", note: "every 2 s"},
	"nftables.minSyncPeriod":              {yaml: "nftables: {minSyncPeriod: 9s}", note: "at once"},
	"winkernel.networkName":               {yaml: "winkernel: {networkName: x}", note: "Windows"},
	"winkernel.sourceVip":                 {yaml: "winkernel: {sourceVip: x}", note: "Windows"},
	"winkernel.enableDSR":                 {yaml: "winkernel: {enableDSR: true}", note: "Windows"},
	"winkernel.rootHnsEndpointName":       {yaml: "winkernel: {rootHnsEndpointName: x}", note: "Windows"},
	"winkernel.forwardHealthCheckVip":     {yaml: "winkernel: {forwardHealthCheckVip: true}", note: "Windows"},
	"detectLocalMode":                     {yaml: "detectLocalMode: NodeCIDR", want: func(c *config.Configuration) any { return c.Proxy.DetectLocal.Mode }, is: "NodeCIDR"},
	"detectLocal.bridgeInterface":         {yaml: "detectLocal: {bridgeInterface: cni0}", want: func(c *config.Configuration) any { return c.Proxy.DetectLocal.BridgeInterface }, is: "cni0"},
	"detectLocal.interfaceNamePrefix":     {yaml: "detectLocal: {interfaceNamePrefix: veth}", want: func(c *config.Configuration) any { return c.Proxy.DetectLocal.InterfaceNamePrefix }, is: "veth"},
	"clusterCIDR": {yaml: `clusterCIDR: "10.0.0.0/8,fd00::/64"`, want: func(c *config.Configuration) any { return c.Proxy.ClusterCIDRs },
		is: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/64")}},
	"nodePortAddresses":               {yaml: "nodePortAddresses: [primary, 10.0.0.0/8]", want: func(c *config.Configuration) any { return c.Proxy.NodePortAddresses }, is: []string{"primary", "10.0.0.0/8"}},
	"oomScoreAdj":                     {yaml: "oomScoreAdj: -500", want: func(c *config.Configuration) any { return c.Proxy.OOMScoreAdj }, is: int32(-500)},
	"conntrack.maxPerCore":            {yaml: "conntrack: {maxPerCore: 0}", want: func(c *config.Configuration) any { return c.Proxy.Conntrack.MaxPerCore }, is: int32(0)},
	"conntrack.min":                   {yaml: "conntrack: {min: 5}", want: func(c *config.Configuration) any { return c.Proxy.Conntrack.Min }, is: int32(5)},
	"conntrack.tcpEstablishedTimeout": {yaml: "conntrack: {tcpEstablishedTimeout: 0s}", want: func(c *config.Configuration) any { return c.Proxy.Conntrack.TCPEstablishedTimeout.Duration }, is: time.Duration(0)},
	"conntrack.tcpCloseWaitTimeout":   {yaml: "conntrack: {tcpCloseWaitTimeout: 9s}", want: func(c *config.Configuration) any { return c.Proxy.Conntrack.TCPCloseWaitTimeout.Duration }, is: 9 * time.Second},
	"conntrack.tcpBeLiberal":          {yaml: "conntrack: {tcpBeLiberal: true}", want: func(c *config.Configuration) any { return c.Proxy.Conntrack.TCPBeLiberal }, is: true},
	"conntrack.udpTimeout":            {yaml: "conntrack: {udpTimeout: 9s}", want: func(c *config.Configuration) any { return c.Proxy.Conntrack.UDPTimeout.Duration }, is: 9 * time.Second},
	"conntrack.udpStreamTimeout":      {yaml: "conntrack: {udpStreamTimeout: 9s}", want: func(c *config.Configuration) any { return c.Proxy.Conntrack.UDPStreamTimeout.Duration }, is: 9 * time.Second},
	"configSyncPeriod":                {yaml: "configSyncPeriod: 9s", note: "watches"},
	"portRange":                       {yaml: "portRange: 1-2", note: "does not read it"},
	"windowsRunAsService":             {yaml: "windowsRunAsService: true", note: "Windows"},
}

// TestEveryField proves of every field that the type has that it is carried over
// or named, and that a field which is not there is neither.
func TestEveryField(t *testing.T) {
	all := leaves(reflect.TypeFor[v1alpha1.KubeProxyConfiguration](), "")
	var known []string
	for _, f := range fields {
		known = append(known, f.name)
	}
	slices.Sort(known)
	if diff := cmp.Diff(slices.Sorted(slices.Values(all)), known); diff != "" {
		t.Errorf("the type's fields are not those of the table (-type +table):\n%s", diff)
	}
	plain, notes := apply(t, head)
	if len(notes) > 0 {
		t.Errorf("notes on nothing: %v", notes)
	}
	for _, name := range all {
		t.Run(name, func(t *testing.T) {
			c, ok := set[name]
			if !ok {
				t.Fatal("there is no case for this field")
			}
			out, notes := apply(t, head+c.yaml+"\n")
			if c.want != nil {
				if diff := cmp.Diff(c.is, c.want(out), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
					t.Error(diff)
				}
				if reflect.DeepEqual(c.is, c.want(plain)) {
					t.Error("the case sets what is the default")
				}
				if len(notes) > 0 {
					t.Errorf("notes %v", notes)
				}
				return
			}
			if len(notes) != 1 || notes[0].Field != name || !strings.Contains(notes[0].Why, c.note) {
				t.Errorf("notes %v, want one on %s that says %q", notes, name, c.note)
			}
			if diff := cmp.Diff(plain, out, cmpopts.EquateComparable(netip.Prefix{}, netip.AddrPort{}, netip.Addr{})); diff != "" {
				t.Errorf("what has no meaning changed the configuration:\n%s", diff)
			}
		})
	}
}

func apply(t *testing.T, text string) (*config.Configuration, []Note) {
	t.Helper()
	in, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	notes, err := Apply(in, &c)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Proxy.Validate(); err != nil && !strings.Contains(text, "detectLocal") {
		t.Errorf("not valid: %v", err)
	}
	return &c, notes
}

// TestKubeadm carries over what kubeadm writes, without a note.
func TestKubeadm(t *testing.T) {
	c := config.Default()
	notes, err := Load("testdata/kubeadm.yaml", &c)
	if err != nil || len(notes) > 0 {
		t.Fatal(notes, err)
	}
	want := config.Default()
	want.Proxy.ForNode()
	want.Kubeconfig = "/var/lib/kube-proxy/kubeconfig.conf"
	want.Proxy.Healthz = "0.0.0.0:10256"
	want.Proxy.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	want.Proxy.NodePortAddresses = []string{"all", "localhost"}
	want.Proxy.DetectLocal.Mode = "ClusterCIDR"
	if diff := cmp.Diff(want, c, cmpopts.EquateComparable(netip.Prefix{}, netip.AddrPort{}, netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

// TestNodePortAddresses gives what each mode takes where little is said.
func TestNodePortAddresses(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                 {"all", "localhost"},
		"mode: iptables":                   {"all", "localhost"},
		"mode: ipvs":                       {"all"},
		"mode: nftables":                   {"primary"},
		"nodePortAddresses: [127.0.0.0/8]": {"127.0.0.0/8"},
		"nodePortAddresses: [0.0.0.0/0]":   {"0.0.0.0/0", "localhost"},
		"nodePortAddresses: [10.0.0.0/8, 127.0.0.0/8]\niptables: {localhostNodePorts: false}":  {"10.0.0.0/8"},
		"nodePortAddresses: [127.0.0.0/8]\niptables: {localhostNodePorts: false}":              {"none"},
		"nodePortAddresses: [127.0.0.0/8, 'fd00::/64']\niptables: {localhostNodePorts: false}": {"fd00::/64", "none"},
		"nodePortAddresses: [10.0.0.0/8, '::1/128']\niptables: {localhostNodePorts: false}":    {"10.0.0.0/8", "none"},
		"mode: ipvs\nnodePortAddresses: [127.0.0.0/8]\niptables: {localhostNodePorts: false}":  {"127.0.0.0/8"},
		"mode: nftables\nnodePortAddresses: [primary, localhost]":                              {"primary", "localhost"},
	} {
		if c, _ := apply(t, head+text+"\n"); !slices.Equal(c.Proxy.NodePortAddresses, want) {
			t.Errorf("%q: %v, want %v", text, c.Proxy.NodePortAddresses, want)
		}
	}
}

// TestMistakes names the field of each.
func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  `apiVersion: expected "kubeproxy.config.k8s.io/v1alpha1", found ""`,
		"kind: x":                           `apiVersion: expected "kubeproxy.config.k8s.io/v1alpha1", found ""`,
		"- a":                               "cannot unmarshal",
		"\t":                                "yaml",
		head + "ipvs: {tcpTimeout: soon}\n": `ipvs.tcpTimeout: expected a duration such as 10s, found "soon"`,
		head + "nodePortAddresses: all\n":   `nodePortAddresses: expected a list, found "all"`,
		head + "kind: x\n":                  `key "kind" already set`,
		"apiVersion: " + APIVersion + "\nkind: x\n":           `kind: expected "KubeProxyConfiguration", found "x"`,
		head + "modes: ipvs\n":                                `unknown field "modes"`,
		head + "conntrack: {maxPercore: 1}\n":                 `unknown field "conntrack.maxPercore"`,
		head + "mode: userspace\n":                            `mode: expected iptables, ipvs or nftables, found "userspace"`,
		head + "mode: kernelspace\n":                          `mode: expected iptables, ipvs or nftables, found "kernelspace"`,
		head + "clusterCIDR: 10.0.0.0\n":                      `clusterCIDR: expected a range such as 10.0.0.0/8, found "10.0.0.0"`,
		head + "detectLocalMode: Guess\n":                     `detectLocalMode: expected ClusterCIDR`,
		head + "iptables: {masqueradeBit: 32}\n":              `iptables.masqueradeBit: expected a number from 0 to 31, found 32`,
		head + "nftables: {masqueradeBit: -1}\n":              `nftables.masqueradeBit: expected a number from 0 to 31, found -1`,
		head + "oomScoreAdj: 2000\n":                          `oomScoreAdj: expected a number from -1000 to 1000, found 2000`,
		head + "conntrack: {min: -1}\n":                       `conntrack.min: expected a number from 0 to 2147483647, found -1`,
		head + "conntrack: {udpTimeout: -1s}\n":               `conntrack.udpTimeout: expected whole seconds, or 0, found -1s`,
		head + "conntrack: {tcpEstablishedTimeout: 1500ms}\n": `conntrack.tcpEstablishedTimeout: expected whole seconds, or 0, found 1.5s`,
		head + "ipvs: {excludeCIDRs: [x]}\n":                  `ipvs.excludeCIDRs: expected a range such as 10.0.0.0/8, found "x"`,
		head + "ipvs: {scheduler: fastest}\n":                 `ipvs.scheduler: expected one of ["rr"`,
		head + "nodePortAddresses: [everywhere]\n":            `nodePortAddresses: [0]: expected a range`,
		head + "bindAddress: here\n":                          `bindAddress: expected an address, found "here"`,
		head + "serviceProxyName: a b\n":                      `serviceProxyName: expected the value of a label, found "a b"`,
		head + "logging: {format: xml}\n":                     `logging.format: expected text or json, found "xml"`,
	} {
		path := filepath.Join(t.TempDir(), "config.conf")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := config.Default()
		before := c
		_, err := Load(path, &c)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one that says %q", text, err, want)
		}
		if !reflect.DeepEqual(before, c) {
			t.Errorf("%q: a configuration with a mistake is half carried over", text)
		}
	}
	c := config.Default()
	if _, err := Load(filepath.Join(t.TempDir(), "none"), &c); err == nil || !strings.Contains(err.Error(), "kube-proxy's configuration: open ") {
		t.Errorf("no file: %v", err)
	}
}

// TestServiceProxyName carries over a field that the module does not have yet.
func TestServiceProxyName(t *testing.T) {
	for text, want := range map[string]string{"": "", "serviceProxyName: mine": "mine"} {
		if c, notes := apply(t, head+text+"\n"); c.Proxy.ProxyName != want || len(notes) > 0 {
			t.Errorf("%q: %q, notes %v", text, c.Proxy.ProxyName, notes)
		}
	}
}

// FuzzParse wants of whatever text an error or a configuration that is carried
// over in one way.
func FuzzParse(f *testing.F) {
	kubeadm, err := os.ReadFile("testdata/kubeadm.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(kubeadm)
	for _, c := range set {
		f.Add([]byte(head + c.yaml + "\n"))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		in, err := Parse(text)
		if err != nil {
			return
		}
		a, b := config.Default(), config.Default()
		first, errA := Apply(in, &a)
		second, errB := Apply(in, &b)
		if (errA == nil) != (errB == nil) || !slices.Equal(first, second) || !reflect.DeepEqual(a, b) {
			t.Errorf("twice, two results: %v %v", errA, errB)
		}
		if errA != nil && !reflect.DeepEqual(a, config.Default()) {
			t.Errorf("half carried over: %v", errA)
		}
	})
}
