package sidecar_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluicenet/sluice/internal/echo"
	"github.com/sluicenet/sluice/internal/envoy"
	"github.com/sluicenet/sluice/internal/envoy/envoytest"
	"github.com/sluicenet/sluice/internal/lab"
	"github.com/sluicenet/sluice/mesh"
	"github.com/sluicenet/sluice/mesh/ca"
	"github.com/sluicenet/sluice/mesh/redirect"
	"github.com/sluicenet/sluice/mesh/sidecar"
	"github.com/sluicenet/sluice/model"
	modelstatus "github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/route"
	"github.com/sluicenet/sluice/source"
	"github.com/sluicenet/sluice/xds"
	"github.com/sluicenet/sluice/xds/bootstrap"
)

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, s := range texts {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// cluster is a control plane on a node and Pods on two.
type cluster struct {
	t         *testing.T
	lab       *lab.Lab
	node      *lab.Node
	store     *model.Store
	server    *xds.Server
	authority *ca.CA
	address   string
	envoy     string
	log       *slog.Logger
}

func newCluster(t *testing.T, life time.Duration) *cluster {
	t.Helper()
	c := &cluster{t: t, lab: lab.ForTest(t, lab.Options{}), store: model.NewStore(), envoy: executable(t)}
	c.log = slog.New(slog.NewTextHandler(t.Output(), nil))
	c.node = c.lab.MustNode("node1")
	var err error
	c.authority, err = ca.Open(t.Context(), ca.Dir(t.TempDir()), ca.Options{Life: life})
	if err != nil {
		t.Fatal(err)
	}
	c.server, err = xds.New(xds.Options{Authorize: authorize, Log: c.log})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// executable is an Envoy that a user who is not root can run.
func executable(t *testing.T) string {
	t.Helper()
	from := envoytest.Path(t)
	dir, err := os.MkdirTemp("", "sluice-envoy") //nolint:usetesting // only this user can look into t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(dir, "envoy")
	if out, err := exec.Command("cp", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return to
}

// authorize believes a node of whose namespace the certificate is.
func authorize(ctx context.Context, node *core.Node) ([]route.Group, error) {
	groups, err := bootstrap.Groups(node.GetId())
	if err != nil {
		return nil, err
	}
	ns, _ := bootstrap.Namespace(node.GetId())
	if id, ok := ca.PeerID(ctx); !ok || id.Namespace != ns {
		return nil, status.Error(codes.PermissionDenied, "not with this certificate")
	}
	return groups, nil
}

// run starts the control plane, once the first objects are there.
func (c *cluster) run() {
	c.t.Helper()
	c.store.Update(func(tx *model.Txn) {
		for _, kind := range mesh.Kinds() {
			tx.MarkSynced(kind)
		}
	})
	planned := make(chan struct{})
	c.background("mesh", func(ctx context.Context) error {
		return mesh.Run(ctx, mesh.Options{
			Config: mesh.Config{ServiceCIDRs: prefixes("10.96.0.0/16", "fd00:96::/112")},
			Store:  c.store, Publisher: c.server, Progress: c.server, Board: modelstatus.NewBoard(), Log: c.log,
			Planned: func() { close(planned) },
		})
	})
	<-planned
	ln, err := c.node.Listen("tcp", net.JoinHostPort(c.node.IPv4().String(), fmt.Sprint(mesh.ControlPlanePort)))
	if err != nil {
		c.t.Fatal(err)
	}
	c.address = ln.Addr().String()
	g := c.server.GRPC(c.authority.ServerTLS())
	ca.NewServer(c.authority, ca.SecretTokens{Store: c.store}, c.log).Register(g)
	go func() { _ = g.Serve(ln) }()
	c.t.Cleanup(g.Stop)
}

// background runs f until the end of the test and waits for it.
func (c *cluster) background(name string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && ctx.Err() == nil {
			c.t.Errorf("%s: %v", name, err)
		}
	})
}

func (c *cluster) put(manifest string) {
	c.t.Helper()
	objects, problems := source.Decode([]byte(manifest))
	for _, p := range problems {
		c.t.Fatal(p)
	}
	c.store.Update(func(tx *model.Txn) {
		for _, o := range objects {
			tx.Put(o.Key.Kind, o.Value)
		}
	})
}

// pod makes a Pod of namespace shop with its service account's token.
func (c *cluster) pod(node *lab.Node, name, labels, account string, meshed bool) *lab.Pod {
	c.t.Helper()
	p := node.MustPod(name)
	annotations := "{}"
	if meshed {
		annotations = "{sluice.io/sidecar: injected}"
	}
	c.put(fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, namespace: shop, labels: {%s}, annotations: %s}, spec: {serviceAccountName: %s, containers: [{name: c}]}, status: {podIPs: [{ip: %v}, {ip: "%v"}]}}
---
{apiVersion: v1, kind: Secret, metadata: {name: %[4]s-token, namespace: shop, annotations: {kubernetes.io/service-account.name: %[4]s}}, type: kubernetes.io/service-account-token, stringData: {token: token-of-%[4]s}}
`, name, labels, annotations, account, p.IPv4(), p.IPv6()))
	server, err := echo.Start(echo.Config{Name: name, HTTP: ":8080", TCP: ":9000"}, p)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = server.Close() })
	return p
}

// service makes a Service and a slice of Pods of each family.
func (c *cluster) service(name, ip string, pods ...*lab.Pod) {
	c.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, `{apiVersion: v1, kind: Service, metadata: {name: %s, namespace: shop}, spec: {clusterIPs: [%s, "fd00:96::%[3]s"], ports: [{name: http, port: 80}, {name: tcp, port: 9000}]}}`,
		name, ip, ip[strings.LastIndexByte(ip, '.')+1:])
	for _, family := range []string{"IPv4", "IPv6"} {
		fmt.Fprintf(&b, "\n---\n"+`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: %s-%s, namespace: shop, labels: {kubernetes.io/service-name: %[1]s}}, addressType: %[3]s,
ports: [{name: http, port: 8080, protocol: TCP}, {name: tcp, port: 9000, protocol: TCP}], endpoints: [`, name, strings.ToLower(family), family)
		for _, p := range pods {
			addr := p.IPv4()
			if family == "IPv6" {
				addr = p.IPv6()
			}
			fmt.Fprintf(&b, `{addresses: ["%v"], conditions: {ready: true}, targetRef: {kind: Pod, name: %s}},`, addr, p.Name())
		}
		b.WriteString("]}")
	}
	c.put(b.String())
}

// mesh makes a Pod's rules and starts its sidecar.
func (c *cluster) mesh(pod *lab.Pod, account string) {
	c.t.Helper()
	if err := redirect.Apply(redirect.Config{}, pod.FD()); err != nil {
		c.t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sluice-sidecar")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c.background("sidecar of "+pod.Name(), func(ctx context.Context) error {
		return sidecar.Run(ctx, sidecar.Options{
			Node: bootstrap.SidecarNode("shop", pod.Name()), ControlPlane: c.address, Dir: dir, Log: c.log,
			Signer: &ca.Client{
				Address: c.address,
				Roots:   func() ([]byte, error) { return c.authority.Roots(), nil },
				Token:   func() (string, error) { return "token-of-" + account, nil },
				Dialer: func(ctx context.Context, address string) (net.Conn, error) {
					return pod.DialContext(ctx, "tcp", address)
				},
			},
			Envoy: envoy.Options{Path: c.envoy, Concurrency: 1, Within: pod.Do},
		})
	})
}

// settle waits until n sidecars have all that there is.
func (c *cluster) settle(pods ...*lab.Pod) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 60*time.Second)
	defer cancel()
	for _, p := range pods {
		if err := c.server.WaitCurrent(ctx, route.WorkloadGroup("shop", p.Name()), 1); err != nil {
			c.t.Fatal(p.Name(), err)
		}
	}
	if err := c.server.WaitCurrent(ctx, route.MeshGroup, len(pods)); err != nil {
		c.t.Fatal(err)
	}
}
