package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/sluicenet/sluice/internal/remote"
	"github.com/sluicenet/sluice/internal/showcase"
	"github.com/sluicenet/sluice/mesh"
)

// Where things are.
const (
	namespace = "default" // the quick start
	system    = "sluice-system"
)

// cluster is where the quick start is applied, and sluice is installed.
type cluster struct {
	client  kubernetes.Interface
	objects dynamic.Interface
	table   *showcase.Table
	hosts   map[string]*remote.Client // by node
	remotes []*exec.Cmd
	clients []*remote.Client
	canary  string // the manifest as it is in force
}

// place finds out where in the cluster the manifests are in force.
func (c *cluster) place(ctx context.Context) (*showcase.Place, error) {
	p := &showcase.Place{
		Table: c.table, Proxies: c.proxies, Edit: c.edit,
	}
	var crashed map[string]int32
	p.Crash = func(ctx context.Context) (err error) {
		crashed, err = c.crash(ctx)
		return err
	}
	p.Recover = func(ctx context.Context) error {
		if err := showcase.Until(ctx, patience, "the Pods of sluice", func(ctx context.Context) error {
			return c.restarted(ctx, crashed)
		}); err != nil {
			return err
		}
		return p.Ready(ctx, patience)
	}
	for _, find := range []func(context.Context, *showcase.Place) error{c.findPods, c.findHosts, c.findServices, c.findGateway} {
		if err := find(ctx, p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// pods lists those that are not about to end.
func (c *cluster) pods(ctx context.Context, namespace, selector string) ([]corev1.Pod, error) {
	list, err := c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(cmp.Compare(a.Spec.NodeName, b.Spec.NodeName), cmp.Compare(a.Name, b.Name))
	})
	return pods, nil
}

// findPods enters the Pods that ask, and names those that answer as the quick
// start does.
func (c *cluster) findPods(ctx context.Context, p *showcase.Place) error {
	toolbox, err := c.enterOne(ctx, "toolbox")
	if err != nil {
		return err
	}
	p.Toolbox = toolbox
	if p.Frontend, err = c.enterOne(ctx, "frontend"); err != nil {
		return err
	}
	conf, err := toolbox.ResolvConf(ctx)
	if err != nil {
		return err
	}
	if p.Names, err = resolver(toolbox, conf); err != nil {
		return err
	}
	answering, err := c.pods(ctx, namespace, "app in (web, quotes, orders)")
	if err != nil {
		return err
	}
	names, count := map[string]string{}, map[string]int{}
	for _, pod := range answering {
		of := strings.TrimSuffix(pod.Labels["app"]+"-"+pod.Labels["version"], "-")
		count[of]++
		names[pod.Name] = fmt.Sprintf("%s-%d", of, count[of])
	}
	p.Who = func(pod string) string { return cmp.Or(names[pod], pod) }
	all, err := c.pods(ctx, "", "")
	if err != nil {
		return err
	}
	for _, pod := range all {
		if pod.Annotations[mesh.SidecarAnnotation] == mesh.SidecarInjected || pod.Labels["gateway.networking.k8s.io/gateway-name"] != "" {
			p.Want++
		}
	}
	return nil
}

// resolver asks as the resolv.conf of a Pod says.
func resolver(from showcase.Dialer, conf string) (*showcase.Resolver, error) {
	r := &showcase.Resolver{From: from}
	for line := range strings.Lines(conf) {
		switch fields := strings.Fields(line); {
		case len(fields) > 1 && fields[0] == "nameserver" && !r.Server.IsValid():
			ip, err := netip.ParseAddr(fields[1])
			if err != nil {
				return nil, fmt.Errorf("resolv.conf: %w", err)
			}
			r.Server = netip.AddrPortFrom(ip, 53)
		case len(fields) > 1 && fields[0] == "search":
			r.Search = fields[1:]
		}
	}
	if !r.Server.IsValid() {
		return nil, fmt.Errorf("resolv.conf has no server: %q", conf)
	}
	return r, nil
}

// findHosts enters the nodes. The last one is the client of the others.
func (c *cluster) findHosts(ctx context.Context, p *showcase.Place) error {
	pods, err := c.pods(ctx, system, "app=sluice-e2e")
	if err != nil {
		return err
	}
	c.hosts = map[string]*remote.Client{}
	for _, pod := range pods {
		node, err := c.client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		var ips []string
		for _, a := range node.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				ips = append(ips, a.Address)
			}
		}
		p.Nodes = append(p.Nodes, showcase.AddressesOf(ips))
		if c.hosts[node.Name], err = c.enter(ctx, pod); err != nil {
			return err
		}
		p.Client = c.hosts[node.Name]
	}
	if len(pods) == 0 {
		return errors.New("the DaemonSet sluice-e2e has no Pods")
	}
	return nil
}

func (c *cluster) findServices(ctx context.Context, p *showcase.Place) error {
	services, err := c.client.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	p.Services = map[string]showcase.Addresses{}
	for _, s := range services.Items {
		p.Services[s.Name] = showcase.AddressesOf(s.Spec.ClusterIPs)
	}
	for _, name := range []string{"web", "quotes", "orders"} {
		if !p.Services[name].V4.IsValid() {
			return fmt.Errorf("the Service %s has no IPv4 address", name)
		}
	}
	return nil
}

// findGateway waits for the address in the Gateway's status.
func (c *cluster) findGateway(ctx context.Context, p *showcase.Place) error {
	secret, err := c.client.CoreV1().Secrets(namespace).Get(ctx, "example-com", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if p.Trust, err = showcase.Trust(secret.Data); err != nil {
		return err
	}
	return showcase.Until(ctx, patience, "the address of the Gateway", func(ctx context.Context) error {
		gateway, err := c.read(ctx, object{kind: "Gateway", name: "public"})
		if err != nil {
			return err
		}
		var ips []string
		for _, a := range list(gateway.Object, "status", "addresses") {
			ips = append(ips, text(a, "value"))
		}
		if p.Gateway = showcase.AddressesOf(ips); !p.Gateway.V4.IsValid() {
			return fmt.Errorf("there are %v", ips)
		}
		return nil
	})
}

// proxies counts the Envoys that the control plane sees.
func (c *cluster) proxies(ctx context.Context) (map[string]int, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "kubectl", "-n", system, "exec", "deploy/sluice-controlplane", "--", "/sluice", "get", "proxies").Output()
	if err != nil {
		return nil, fmt.Errorf("sluice get proxies: %w", withStderr(err))
	}
	return showcase.ProxyStates(string(out))
}

// crash kills the processes of node agents and control plane, and returns how
// often the containers of each Pod had been started again before.
func (c *cluster) crash(ctx context.Context) (map[string]int32, error) {
	pods, err := c.pods(ctx, system, "app in (sluice-node, sluice-controlplane)")
	if err != nil {
		return nil, err
	}
	before := map[string]int32{}
	errs := make(chan error, len(pods))
	for _, pod := range pods {
		status := pod.Status.ContainerStatuses[0]
		before[pod.Name] = status.RestartCount
		_, id, _ := strings.Cut(status.ContainerID, "://")
		host := c.hosts[pod.Spec.NodeName]
		if host == nil {
			return nil, fmt.Errorf("the DaemonSet sluice-e2e is not on %s", pod.Spec.NodeName)
		}
		go func() { errs <- host.Kill(ctx, id) }()
	}
	for range pods {
		err = errors.Join(err, <-errs)
	}
	return before, err
}

// restarted checks that all Pods run again since then, and are ready.
func (c *cluster) restarted(ctx context.Context, since map[string]int32) error {
	pods, err := c.pods(ctx, system, "app in (sluice-node, sluice-controlplane)")
	if err != nil {
		return err
	}
	left := maps.Clone(since)
	for _, pod := range pods {
		if status := pod.Status.ContainerStatuses; len(status) > 0 && status[0].Ready && status[0].RestartCount > since[pod.Name] {
			delete(left, pod.Name)
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("not ready again: %v", slices.Sorted(maps.Keys(left)))
	}
	return nil
}
