package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/sluicenet/sluice/internal/config"
	"github.com/sluicenet/sluice/internal/kubeproxy"
	"github.com/sluicenet/sluice/proxy"
)

// TestChooseEngine proves that auto takes the best that is usable, and that an
// engine which is asked for is never replaced.
func TestChooseEngine(t *testing.T) {
	lacks := func(engine string) error {
		return &proxy.UnsupportedError{Engine: engine, Feature: "a feature is missing", Remedy: "get it", Err: errors.ErrUnsupported}
	}
	for _, c := range []struct {
		mode, unusable, want, fails string
		probed                      string
	}{
		{mode: "auto", want: "nftables", probed: "nftables"},
		{mode: "auto", unusable: "nftables", want: "iptables", probed: "nftables iptables"},
		{mode: "auto", unusable: "nftables iptables", fails: "no engine can run on this machine:\nnftables: a feature is missing: unsupported operation; get it\niptables: a feature is missing", probed: "nftables iptables"},
		{mode: "ipvs", want: "ipvs", probed: "ipvs"},
		{mode: "nftables", unusable: "nftables", fails: "nftables: a feature is missing: unsupported operation; get it", probed: "nftables"},
		{mode: "iptables", unusable: "nftables", want: "iptables", probed: "iptables"},
		{mode: "ebpf", fails: `proxy.mode: there is no engine "ebpf"`},
	} {
		var probed []string
		kind, err := chooseEngine(c.mode, engineKinds(), func(k engineKind) error {
			probed = append(probed, k.name)
			if slices.Contains(strings.Fields(c.unusable), k.name) {
				return lacks(k.name)
			}
			return nil
		})
		if strings.Join(probed, " ") != c.probed {
			t.Errorf("%+v: probed %v", c, probed)
		}
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%+v: error %v", c, err)
			}
			if _, typed := errors.AsType[*proxy.UnsupportedError](err); !typed && c.mode != "ebpf" {
				t.Errorf("%+v: error %T", c, err)
			}
		} else if err != nil || kind.name != c.want {
			t.Errorf("%+v: %s %v", c, kind.name, err)
		}
	}
}

// TestEveryModeHasAnEngine proves that the configuration and the engines agree.
func TestEveryModeHasAnEngine(t *testing.T) {
	for _, k := range engineKinds() {
		c := config.Default()
		c.Proxy.Mode = k.name
		if err := c.Validate(); err != nil {
			t.Errorf("engine %s cannot be asked for: %v", k.name, err)
		}
	}
}

// TestCleanOthers proves that the chosen engine is left alone and that one which
// fails hinders no other.
func TestCleanOthers(t *testing.T) {
	var cleaned []string
	kind := func(name string, err error) engineKind {
		return engineKind{name: name, clean: func(context.Context) error { cleaned = append(cleaned, name); return err }}
	}
	var log strings.Builder
	cleanOthers(t.Context(), "b", []engineKind{kind("a", errors.New("locked")), kind("b", nil), kind("c", nil)}, slog.New(slog.NewTextHandler(&log, nil)))
	if !slices.Equal(cleaned, []string{"a", "c"}) || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), "engine=a error=locked") {
		t.Errorf("cleaned %v, said %s", cleaned, &log)
	}
}

// TestPlannerConfig carries the configuration to the planner.
func TestPlannerConfig(t *testing.T) {
	c := config.Default()
	c.Proxy.DetectLocal = config.DetectLocal{Mode: "InterfaceNamePrefix", InterfaceNamePrefix: "veth"}
	c.Proxy.NodePortAddresses, c.Proxy.ProxyName = []string{"primary", "localhost"}, "mine"
	got, err := (&process{conf: &c}).plannerConfig()
	if err != nil || got.DetectLocal != proxy.DetectInterfaceNamePrefix || !slices.Equal(got.PodInterfaces, []string{"veth"}) ||
		!got.NodePorts.Primary || !got.NodePorts.Localhost || got.ProxyName != "mine" || len(got.ServiceCIDRs) != 2 {
		t.Errorf("%+v %v", got, err)
	}
}

// TestKernelFindings proves each of the settings that are looked at.
func TestKernelFindings(t *testing.T) {
	good := map[string]string{
		"proc/sys/net/ipv4/ip_forward": "1", "proc/sys/net/ipv4/ip_local_port_range": "32768\t60999", "proc/sys/net/ipv4/ip_local_reserved_ports": "",
		"proc/sys/net/netfilter/nf_conntrack_count": "10", "proc/sys/net/netfilter/nf_conntrack_max": "1000", "proc/sys/net/ipv4/conf/all/rp_filter": "2",
		"sys/class/net/eth0/device": "", "sys/class/net/eth1/device": "",
	}
	for _, c := range []struct{ path, value, want string }{
		{"proc/sys/net/ipv4/ip_forward", "0", "net.ipv4.ip_forward is 0"},
		{"proc/sys/net/bridge/bridge-nf-call-iptables", "0", "bridge-nf-call-iptables is 0"},
		{"proc/sys/net/ipv4/conf/all/rp_filter", "1", "rp_filter is 1 and there are several network cards"},
		{"proc/sys/net/netfilter/nf_conntrack_count", "950", "950 of 1000 connections are remembered"},
		{"proc/sys/net/ipv4/ip_local_port_range", "1024 65535", "ip_local_port_range is 1024-65535, which has node ports (30000-32767)"},
		{"proc/sys/net/ipv4/ip_local_port_range", "32767 60999", "ip_local_port_range is 32767-60999"},
		{"proc/sys/net/ipv4/ip_local_port_range", "what", ""},
		{"", "", ""},
	} {
		root := t.TempDir()
		for path, value := range good {
			if path == c.path {
				continue
			}
			write(t, filepath.Join(root, path), value)
		}
		if c.path != "" {
			write(t, filepath.Join(root, c.path), c.value+"\n")
		}
		var said []string
		for _, f := range kernelFindings(root) {
			if f.err != nil {
				said = append(said, f.err.Error())
			}
		}
		if c.want == "" && len(said) > 0 || c.want != "" && (len(said) != 1 || !strings.Contains(said[0], c.want)) {
			t.Errorf("%s = %s: %q, want %q", c.path, c.value, said, c.want)
		}
	}
	for reserved, overlaps := range map[string]bool{"30000-32767": false, "8080,30000-31000,31001-32767": false, "30000-32766": true, "": true, "x": true, "1-99999999999": false} {
		if err := ephemeralOverlap("1024 65535", reserved); (err != nil) != overlaps {
			t.Errorf("reserved %q: %v", reserved, err)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestProcessNamed looks for a running kube-proxy.
func TestProcessNamed(t *testing.T) {
	proc := t.TempDir()
	write(t, filepath.Join(proc, "7/comm"), "sh\n")
	if pid, running := processNamed(proc, "kube-proxy"); running {
		t.Errorf("process %s", pid)
	}
	write(t, filepath.Join(proc, "42/comm"), "kube-proxy\n")
	if pid, running := processNamed(proc, "kube-proxy"); !running || pid != "42" {
		t.Errorf("%s %v", pid, running)
	}
}

// TestWhoWins proves the order: kube-proxy's configuration says least, then our
// file, then flags, of either name.
func TestWhoWins(t *testing.T) {
	dir := t.TempDir()
	theirs, ours := filepath.Join(dir, "config.conf"), filepath.Join(dir, "sluice.yaml")
	write(t, theirs, "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.1.0.0/16\nmode: ipvs\noomScoreAdj: -1\nportRange: 1-2\n")
	write(t, ours, "apiVersion: sluice.io/v1alpha1\nkind: Configuration\nproxy: {mode: iptables, oomScoreAdj: -2}\n")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--kube-proxy-config", theirs}, ""},
		{[]string{"--kube-proxy-config", ours}, `unknown field "proxy"`},
		{[]string{"--config", theirs}, "is given with --kube-proxy-config"},
		{[]string{"--proxy-mode=userspace"}, `proxy.mode: expected one of`},
		{[]string{"--healthz-bind-address=here"}, `proxy.healthz: expected HOST:PORT, found "here"`},
		{[]string{"--iptables-masquerade-bit=32"}, "expected a number from 0 to 31"},
		{[]string{"--nodeport-addresses=x"}, "proxy.nodePortAddresses[0]: expected a range"},
		{[]string{"--conntrack-udp-timeout=1ms"}, "proxy.conntrack.udpTimeout: expected whole seconds"},
		{[]string{"--detect-local-mode=BridgeInterface"}, "proxy.detectLocal.bridgeInterface: is missing"},
		{[]string{"--cleanup"}, `run "sluice cleanup"`},
	} {
		_, _, err := configuration(c.args)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q: error %v, want %q", c.args, err, c.want)
		}
	}
	restricted := filepath.Join(dir, "restricted.conf")
	write(t, restricted, "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nnodePortAddresses: [10.0.0.0/8]\n")
	if got, _, err := configuration([]string{"--kube-proxy-config", restricted, "--iptables-localhost-nodeports=false"}); err != nil || !slices.Equal(got.Proxy.NodePortAddresses, []string{"10.0.0.0/8"}) {
		t.Errorf("NodePorts answer on %q, %v", got.Proxy.NodePortAddresses, err)
	}
	if got, _, err := configuration([]string{"--proxy-mode=iptables"}); err != nil || !slices.Equal(got.Proxy.NodePortAddresses, []string{"all", "localhost"}) {
		t.Errorf("NodePorts answer on %q, %v", got.Proxy.NodePortAddresses, err)
	}
	got, notes, err := configuration([]string{"--oom-score-adj=-3", "--kube-proxy-config", theirs, "--config", ours, "--healthz-bind-address=192.0.2.1", "--iptables-masquerade-bit=3"})
	if err != nil || got.Proxy.OOMScoreAdj != -3 || got.Proxy.Mode != "iptables" || len(got.Proxy.ClusterCIDRs) != 1 || got.Proxy.Healthz != "192.0.2.1:10256" || got.Proxy.MasqueradeMark != 8 || notes != 1 {
		t.Errorf("%+v, %d notes, %v", got.Proxy, notes, err)
	}
}

// configuration parses the arguments of a command with the node's parts.
func configuration(args []string) (c config.Configuration, notes int, err error) {
	cmd := withConfiguration(&cobra.Command{Use: "node", SilenceUsage: true, SilenceErrors: true}, role{node: true},
		func(_ *cobra.Command, got *config.Configuration, n []kubeproxy.Note) error {
			c, notes = *got, len(n)
			return nil
		})
	cmd.SetArgs(args)
	err = cmd.Execute()
	return c, notes, err
}

// TestAPIServer proves that a named API server wins over the kubeconfig's.
func TestAPIServer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kubeconfig")
	write(t, file, "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'http://192.0.2.1:1'}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n")
	for args, want := range map[string]string{"": "http://192.0.2.1:1", "--master=http://192.0.2.2:2": "http://192.0.2.2:2"} {
		c, _, err := configuration(append(strings.Fields(args), "--kubeconfig", file))
		if err != nil {
			t.Fatal(err)
		}
		p, err := newProcess(t.Context(), &c, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		p.stop()
		if got := strings.TrimSuffix(p.rest.Host, "/"); got != want {
			t.Errorf("%q: asks %s, want %s", args, got, want)
		}
	}
}
