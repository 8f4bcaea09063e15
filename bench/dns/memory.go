package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluicenet/sluice/bench/internal/apiserver"
)

// What the memory is measured with: a large cluster, and as many names of others
// in the cache as CoreDNS' has room for by default.
const (
	memoryEndpoints = 10 // of each Service
	cachedNames     = 10_000
	apiAddress      = "127.0.0.1:6443"
)

// memory is what a process has in memory, in MiB.
type memory struct {
	Services  int `json:"services"`
	Endpoints int `json:"endpoints"`
	Cached    int `json:"cached_names"`
	// Anonymous is what the process has taken, File the parts of its program that
	// were used, which the kernel may drop and all processes of a program share.
	Anonymous float64 `json:"anonymous_mib"`
	File      float64 `json:"file_mib"`
	Peak      float64 `json:"peak_mib"` // of both together
}

// resources are what the name server may ask for.
var resources = map[schema.GroupVersionKind]string{
	corev1.SchemeGroupVersion.WithKind("Service"):            "services",
	corev1.SchemeGroupVersion.WithKind("Node"):               "nodes",
	corev1.SchemeGroupVersion.WithKind("Namespace"):          "namespaces",
	discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"): "endpointslices",
}

// cluster returns an API server with so many Services and endpoints.
func cluster(services int) *apiserver.Server {
	s := apiserver.New(resources)
	s.Put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}})
	portName, number, protocol, ready := "http", int32(8080), corev1.ProtocolTCP, true
	for i := range services {
		name := fmt.Sprintf("service-%d", i)
		addr := netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}).String()
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name + "-x7k2p", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &number, Protocol: &protocol}},
		}
		for j := range memoryEndpoints {
			n, node := i*memoryEndpoints+j, fmt.Sprintf("node%d", 1+j)
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{netip.AddrFrom4([4]byte{10, byte(128 + n>>16), byte(n >> 8), byte(n)}).String()}, NodeName: &node,
				Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready},
				TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: fmt.Sprintf("%s-7d4b9c6f5-%05d", name, j)},
			})
		}
		s.Put(slice, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": name}},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeClusterIP, ClusterIP: addr, ClusterIPs: []string{addr},
				IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: map[string]string{"app": name},
				Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
			},
		})
	}
	return s
}

// standalone is "sluice dns" alone, with the names of a cluster.
func standalone(path string) subject {
	const kubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: bench, cluster: {server: "http://` + apiAddress + `"}}]
contexts: [{name: bench, context: {cluster: bench, user: bench}}]
users: [{name: bench, user: {}}]
current-context: bench
`
	return subject{name: "sluice", command: func(dir string) ([]string, error) {
		file := filepath.Join(dir, "kubeconfig")
		return []string{
			path, "dns", "--kubeconfig", file, "--node-name", "node1", "--socket", filepath.Join(dir, "socket"), "--metrics", "",
			"--dns-listen", serverAddress, "--dns-upstreams", upstreamAddress, "--dns-intercept-mode", "off",
			"--dns-pods", "insecure", // as in the manifests of CoreDNS
		}, os.WriteFile(file, []byte(kubeconfig), 0o600)
	}}
}

// measureMemory starts the name server on a cluster, fills its cache and says what
// it has in memory when it is idle again.
func measureMemory(ctx context.Context, o options, services int) (memory, error) {
	m := memory{Services: services, Endpoints: services * memoryEndpoints, Cached: cachedNames}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := standalone(o.sluice)
	s.last = serviceName(services - 1)
	s.before = func(w *world) error {
		l, err := w.node.Listen("tcp", apiAddress)
		if err == nil {
			go func() { _ = http.Serve(l, cluster(services)) }()
		}
		return err
	}
	w, err := newWorld(ctx, o, s)
	if err != nil {
		return m, err
	}
	defer w.close()
	names := mix{name: "names", n: cachedNames, pattern: func(i int) string { return fmt.Sprintf("host-%d.department-%d.example", i, i%100) }}
	file, err := w.prepare(ctx, names)
	if err != nil {
		return m, err
	}
	if _, err := w.perf(ctx, "-d", file, "-n", "2", "-q", "20"); err != nil {
		return m, err
	}
	before := w.upstream.queries.Load()
	if _, err := w.perf(ctx, "-d", file, "-n", "1", "-q", "20"); err != nil {
		return m, err
	}
	if again := w.upstream.queries.Load() - before; again > 0 {
		return m, fmt.Errorf("%d of %d names are not in the cache", again, cachedNames)
	}
	time.Sleep(15 * time.Second) // what the start left is given back by then, or never
	err = m.read(w.cmd.Process.Pid)
	return m, err
}

func (m *memory) read(pid int) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return err
	}
	found := 0
	for line := range bytes.Lines(b) {
		key, value, _ := strings.Cut(string(line), ":")
		into := map[string]*float64{"RssAnon": &m.Anonymous, "RssFile": &m.File, "VmHWM": &m.Peak}[key]
		if into == nil {
			continue
		}
		kib, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
		if err != nil {
			return fmt.Errorf("/proc/PID/status: %s: %w", key, err)
		}
		*into = kib / 1024
		found++
	}
	if found != 3 {
		return errors.New("/proc/PID/status: no resident memory")
	}
	return nil
}

func (m memory) String() string {
	return fmt.Sprintf("memory with %d Services, %d endpoints and %d cached names: %.1f MiB, and %.1f MiB of the program; at most %.1f MiB of both",
		m.Services, m.Endpoints, m.Cached, m.Anonymous, m.File, m.Peak)
}
