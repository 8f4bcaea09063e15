package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/mesh/ca"
)

// The mesh of the churn: a client and two versions of a server, each with a
// sidecar.
const (
	meshV1     = 4
	meshV2     = 5
	meshClient = 6
	meshVIP    = "10.96.0.110"
	token      = "token-of-the-bench"
)

// remove deletes a manifest.
func (w *world) remove(name string) error { return os.Remove(filepath.Join(w.dir, name)) }

// mesh writes the routes of the mesh with new weights; only the policy is as
// it was.
func (m *mutator) mesh() string {
	v1 := m.rand.IntN(101)
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  clusterIP: %s
  selector: {app: shop}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shop}
spec:
  host: shop
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop]
  http:
  - route:
    - {destination: {host: shop, subset: v1}, weight: %d}
    - {destination: {host: shop, subset: v2}, weight: %d}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: shop}
spec:
  selector: {matchLabels: {app: shop}}
  mtls: {mode: STRICT}
`, meshVIP, v1, 100-v1)
}

// writeMeshPods writes the pods with a sidecar, the endpoints and the token.
func (m *mutator) writeMeshPods() error {
	docs := []string{fmt.Sprintf(`apiVersion: v1
kind: Secret
metadata: {name: default-token, annotations: {kubernetes.io/service-account.name: default}}
type: kubernetes.io/service-account-token
stringData: {token: %s}
`, token)}
	var slice strings.Builder
	slice.WriteString(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-1, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
`)
	for _, i := range []int{meshV1, meshV2, meshClient} {
		labels := "app: caller"
		if i != meshClient {
			labels = fmt.Sprintf("app: shop, version: v%d", i-meshV1+1)
			_, _ = fmt.Fprintf(&slice, "- {addresses: [%s], targetRef: {kind: Pod, name: %s}}\n", m.w.pods[i].IPv4(), m.w.pods[i].Name())
		}
		docs = append(docs, fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {%s}, annotations: {sluice.io/sidecar: injected}}
spec: {nodeName: node1, serviceAccountName: default, containers: [{name: app, image: app}]}
status: {phase: Running, podIPs: [{ip: %s}], conditions: [{type: Ready, status: "True"}]}
`, m.w.pods[i].Name(), labels, m.w.pods[i].IPv4()))
	}
	_, err := m.w.write("mesh-pods.yaml", strings.Join(append(docs, slice.String()), "---\n"))
	return err
}

// sidecars starts a sidecar in each pod of the mesh, once the root certificate
// is there.
func (m *mutator) sidecars(ctx context.Context) error {
	roots := filepath.Join(m.w.state, "state", ca.RootsFile)
	if err := until(ctx, 30*time.Second, func() (bool, error) {
		time.Sleep(10 * time.Millisecond)
		_, err := os.Stat(roots)
		return err == nil, err
	}); err != nil {
		return fmt.Errorf("%w\n%s", err, m.w.log)
	}
	for _, i := range []int{meshV1, meshV2, meshClient} {
		if err := m.sidecar(ctx, m.w.pods[i], roots); err != nil {
			return fmt.Errorf("sidecar of %s: %w", m.w.pods[i].Name(), err)
		}
	}
	return nil
}

func (m *mutator) sidecar(ctx context.Context, pod *lab.Pod, roots string) error {
	if out, err := pod.Command(ctx, m.w.opt.binary, "redirect").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	dir, err := os.MkdirTemp("", "sluice-bench-") // a socket's path is short
	if err != nil {
		return err
	}
	m.w.trash = append(m.w.trash, dir)
	secret := filepath.Join(dir, "token")
	if err := os.WriteFile(secret, []byte(token), 0o600); err != nil {
		return err
	}
	cmd := pod.Command(ctx, m.w.opt.binary, "sidecar", "--pod", pod.Name(), "--namespace", "default",
		"--control-plane", fmt.Sprintf("%s:15012", m.w.node.IPv4()), "--roots", roots,
		"--token", secret, "--run-dir", dir, "--envoy", m.w.envoy)
	cmd.Stdout, cmd.Stderr = m.w.log.File, m.w.log.File
	return cmd.Start()
}

// meshWays are requests from the client's pod through both sidecars.
func (m *mutator) meshWays() []way {
	c := from(m.w.pods[meshClient])
	return []way{{"sidecars: mutual TLS, kept connections", func(ctx context.Context) error {
		return expect200(ctx, c, meshVIP+":80", "shop")
	}}}
}
