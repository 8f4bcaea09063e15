package kubeproxy

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/sluicenet/sluice/internal/config"
)

// kubeProxyFlags are the flags of kube-proxy 1.36 (cmd/kube-proxy/app/options.go),
// with those for its log and those of the libraries that it has, as its help has
// them, and the two that the help hides.
const kubeProxyFlags = `bind-address boot-id-file machine-id-file version bind-address-hard-fail cleanup cluster-cidr config config-sync-period
conntrack-max-per-core conntrack-min conntrack-tcp-be-liberal conntrack-tcp-timeout-close-wait
conntrack-tcp-timeout-established conntrack-udp-timeout conntrack-udp-timeout-stream detect-local-mode
feature-gates healthz-bind-address healthz-port hostname-override init-only iptables-localhost-nodeports
iptables-masquerade-bit iptables-min-sync-period iptables-sync-period ipvs-exclude-cidrs ipvs-min-sync-period
ipvs-scheduler ipvs-strict-arp ipvs-sync-period ipvs-tcp-timeout ipvs-tcpfin-timeout ipvs-udp-timeout
kube-api-burst kube-api-content-type kube-api-qps kubeconfig masquerade-all master metrics-bind-address
metrics-port nodeport-addresses oom-score-adj pod-bridge-interface pod-interface-name-prefix profiling proxy-mode
show-hidden-metrics-for-version write-config-to
log-flush-frequency log-json-info-buffer-size log-json-split-stream log-text-info-buffer-size log-text-split-stream
logging-format v vmodule`

func flags() (*pflag.FlagSet, *config.Configuration, func(*config.Configuration) []Note) {
	c := config.Default()
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	set.String("config", "", "")
	c.Flags(set)
	return set, &c, AddFlags(set)
}

func TestFlagsAreAllKnown(t *testing.T) {
	set, _, _ := flags()
	for name := range strings.FieldsSeq(kubeProxyFlags) {
		switch f := set.Lookup(name); {
		case f == nil:
			t.Errorf("there is no --%s", name)
		case !f.Hidden && !slices.Contains([]string{"config", "kubeconfig", "proxy-mode"}, name):
			t.Errorf("--%s is in the help", name)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		args  []string
		fails string
		notes string
		level string
	}{
		{args: []string{"--v=4"}, level: "debug"},
		{args: []string{"--v=2", "--logging-format=json"}, level: "info"},
		{args: []string{"-v", "4"}, level: "debug"},
		{args: []string{"-v=2"}, level: "info"},
		{args: []string{"--v=much"}, fails: "expected a number"},
		{args: []string{"--profiling", "--iptables-sync-period=10s", "--feature-gates=A=true"}, level: "info",
			notes: "--feature-gates: " + whyGates + "\n--iptables-sync-period: " + whyVerify + "\n--profiling: " + whyProfiles},
		{args: []string{"--cleanup"}, fails: `run "sluice cleanup"`},
		{args: []string{"--version"}, fails: `run "sluice version"`},
		{args: []string{"--write-config-to=/tmp/x"}, fails: "kube-proxy's flag"},
		{args: []string{"--bind-address=0.0.0.0", "--profiling=false", "--feature-gates=", "--iptables-min-sync-period=0s"}, level: "info"},
		{args: []string{"--bind-address=192.0.2.1"}, level: "info", notes: "--bind-address: " + whyAddress},
		{args: []string{"--proxy-mode=ipvs", "--iptables-localhost-nodeports"}, level: "info", notes: "--iptables-localhost-nodeports: " + whyLocal},
		{args: []string{"--proxy-mode=iptables", "--iptables-localhost-nodeports"}, level: "info"},
		{args: []string{"--init-only=true"}, fails: "kube-proxy's flag"},
		{args: []string{"--ipvs-exclude-cidrs=1.2.3.4"}, fails: `expected a range such as 10.0.0.0/8, found "1.2.3.4"`},
		{args: []string{"--conntrack-udp-timeout=soon"}, fails: `expected a duration such as 10s, found "soon"`},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			set, conf, given := flags()
			err := set.Parse(c.args)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("got %v, want %q", err, c.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var notes []string
			for _, n := range given(conf) {
				notes = append(notes, n.String())
			}
			if got := strings.Join(notes, "\n"); got != c.notes {
				t.Errorf("notes\n%s\nwant\n%s", got, c.notes)
			}
			if conf.Log.Level != c.level {
				t.Errorf("level %s, want %s", conf.Log.Level, c.level)
			}
		})
	}
}
