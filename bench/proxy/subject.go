package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sluicenet/sluice/internal/lab"
)

// subject is a service proxy in one of its modes.
type subject struct {
	name string // "sluice" or "kube-proxy"
	mode string // of ours, with "+bytes" if it counts the bytes of Services
	peer bool   // not ours
	path string
}

// bytesToo is what modes end in that count the packets and bytes of each Service.
const bytesToo = "+bytes"

func (s subject) String() string { return s.name + " " + s.mode }

func subjectsOf(o options, modes []string) []subject {
	var out []subject
	for _, mode := range modes {
		out = append(out, subject{"sluice", mode, false, o.sluice})
		if o.kubeProxy != "" && !strings.HasSuffix(mode, bytesToo) {
			out = append(out, subject{"kube-proxy", mode, true, o.kubeProxy})
		}
	}
	return out
}

// Where the proxies of a world answer, on the node's loopback.
const (
	apiAddress     = "127.0.0.1:8080"
	metricsAddress = "127.0.0.1:10249"
	healthAddress  = "127.0.0.1:10256"
)

const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: bench, cluster: {server: "http://` + apiAddress + `"}}]
contexts: [{name: bench, context: {cluster: bench, user: bench}}]
users: [{name: bench, user: {}}]
current-context: bench
`

// kubeProxyConfig leaves everything at kube-proxy's defaults, but what a
// namespace cannot have.
const kubeProxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: %s
clientConnection: {kubeconfig: %s}
hostnameOverride: node1
clusterCIDR: 10.244.0.0/16
conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
metricsBindAddress: ` + metricsAddress + `
healthzBindAddress: ` + healthAddress + `
`

// start runs the proxy on a node.
func (s subject) start(ctx context.Context, node *lab.Node, dir string, log *os.File) (*lab.Cmd, error) {
	config := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(config, []byte(kubeconfig), 0o600); err != nil {
		return nil, err
	}
	args := []string{
		"node", "--kubeconfig", config, "--node-name", node.Name(), "--socket", filepath.Join(dir, "sluice.sock"),
		"--metrics", metricsAddress, "--dns-listen", "", "--proxy-mode", strings.TrimSuffix(s.mode, bytesToo),
		"--proxy-traffic-bytes=" + strconv.FormatBool(strings.HasSuffix(s.mode, bytesToo)),
		"--proxy-cluster-cidrs", "10.244.0.0/16", "--proxy-service-cidrs", "10.96.0.0/12",
	}
	if s.peer {
		file := filepath.Join(dir, "kube-proxy.yaml")
		if err := os.WriteFile(file, fmt.Appendf(nil, kubeProxyConfig, s.mode, config), 0o600); err != nil {
			return nil, err
		}
		args = []string{"--config", file}
	}
	cmd := node.Command(ctx, s.path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	return cmd, cmd.Start()
}

// syncs are the metrics that tell how often the kernel was programmed for a
// change, and how long that took together.
func (s subject) syncs() (sum, count string) {
	if s.peer {
		return "kubeproxy_sync_proxy_rules_duration_seconds_sum", "kubeproxy_sync_proxy_rules_duration_seconds_count"
	}
	return `sluice_proxy_sync_duration_seconds_sum`, `sluice_proxy_sync_duration_seconds_count`
}
