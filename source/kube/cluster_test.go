//go:build e2e

package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
)

// TestCluster follows the cluster of KUBECONFIG with a source and a status
// writer. It makes and removes the namespace sluice-test, and installs the
// CRDs of the Gateway API and of Istio, which it leaves.
func TestCluster(t *testing.T) {
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil || os.Getenv("KUBECONFIG") == "" {
		t.Fatalf("set KUBECONFIG to a cluster for tests: %v", err)
	}
	store, board := model.NewStore(), status.NewBoard()
	src, err := New(Options{Config: cfg, Store: store, Board: board})
	if err != nil {
		t.Fatal(err)
	}
	writer, err := NewStatusWriter(StatusOptions{Config: cfg, Board: board})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- src.Run(ctx) }()
	go func() { ended <- writer.Run(ctx) }()
	t.Cleanup(func() {
		kubectl(t, "", "delete", "namespace", "sluice-test", "--wait=false", "--ignore-not-found")
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	start := time.Now()
	select {
	case <-src.Ready():
		t.Logf("ready after %v", time.Since(start))
	case <-time.After(time.Minute):
		t.Fatal("not ready")
	}
	until := func(what string, cond func(s *model.Snapshot) bool) {
		t.Helper()
		start := time.Now()
		for !cond(store.Snapshot()) {
			if time.Since(start) > 60*time.Second {
				t.Fatalf("not in time: %s", what)
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Logf("%s after %v", what, time.Since(start))
	}
	until("the Service kubernetes", func(s *model.Snapshot) bool {
		svc, ok := model.Services.Get(s, "default", "kubernetes")
		return ok && len(svc.ClusterIPs) == 1
	})

	kubectl(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: sluice-test}\n", "apply", "-f", "-")
	for _, crds := range []string{module(t, "sigs.k8s.io/gateway-api", "config/crd/standard"), module(t, "istio.io/api", "kubernetes/customresourcedefinitions.gen.yaml")} {
		args := []string{"apply", "--server-side", "-f", crds}
		kubectl(t, "", args...)
	}
	kubectl(t, `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: sluice-test}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Secret
metadata: {name: key, namespace: sluice-test}
stringData: {a: b}
`, "apply", "-f", "-")
	until("the Service web", func(s *model.Snapshot) bool {
		svc, ok := model.Services.Get(s, "sluice-test", "web")
		return ok && svc.Ports[0].Port == 80 && svc.AffinityTimeout == 0
	})
	applyUntil(t, `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sluice}
spec: {controllerName: sluice.io/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: sluice-test}
spec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: sluice-test}
spec: {hosts: [web], http: [{route: [{destination: {host: web}}]}]}
`)
	until("the routes", func(s *model.Snapshot) bool {
		r, ok := model.HTTPRoutes.Get(s, "sluice-test", "web")
		v, okV := model.VirtualServices.Get(s, "sluice-test", "web")
		return ok && *r.Spec.Rules[0].BackendRefs[0].Weight == 1 && okV && v.Spec.Hosts[0] == "web"
	})

	revision := store.Snapshot().Revision()
	cond := metav1.Condition{Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Accepted", ObservedGeneration: 1}
	board.Set("ingress", model.Key{Kind: model.KindHTTPRoute, Namespace: "sluice-test", Name: "web"}, status.Report{Value: gatewayv1.HTTPRouteStatus{RouteStatus: gatewayv1.RouteStatus{Parents: []gatewayv1.RouteParentStatus{{
		ParentRef: gatewayv1.ParentReference{Name: "gw"}, ControllerName: ControllerName, Conditions: []metav1.Condition{cond},
	}}}}})
	board.Set("ingress", model.Key{Kind: model.KindGatewayClass, Name: "sluice"}, status.Report{Value: gatewayv1.GatewayClassStatus{Conditions: []metav1.Condition{cond}}})
	board.Set("mesh", model.Key{Kind: model.KindVirtualService, Namespace: "sluice-test", Name: "web"}, status.Report{Conditions: []metav1.Condition{cond}})
	for _, what := range []struct{ object, path string }{
		{"httproute/web", "parents"}, {"virtualservice/web", "conditions"}, {"gatewayclass/sluice", "conditions"},
	} {
		until("status of "+what.object, func(*model.Snapshot) bool {
			var obj struct{ Status map[string]any }
			if err := json.Unmarshal(kubectl(t, "", "-n", "sluice-test", "get", what.object, "-o", "json"), &obj); err != nil {
				t.Fatal(err)
			}
			text, _ := json.Marshal(obj.Status[what.path])
			return strings.Contains(string(text), `"reason":"Accepted"`)
		})
	}
	time.Sleep(500 * time.Millisecond) // what came back with the statuses is here
	if got := store.Snapshot().Revision(); got != revision {
		t.Errorf("writing statuses made %d updates of the model", got-revision)
	}
	kubectl(t, "", "-n", "sluice-test", "delete", "svc", "web")
	until("web is gone", func(s *model.Snapshot) bool {
		_, ok := model.Services.Get(s, "sluice-test", "web")
		return !ok
	})
}

// applyUntil applies until the API server knows the kinds.
func applyUntil(t *testing.T, text string) {
	t.Helper()
	for i := 0; ; i++ {
		cmd := exec.Command("kubectl", "apply", "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return
		}
		if i == 30 {
			t.Fatalf("%v: %s", err, out)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func kubectl(t *testing.T, stdin string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("kubectl", args...)
	cmd.Stdin = strings.NewReader(stdin)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kubectl %v: %v: %s", args, err, errs.String())
	}
	return out
}

func module(t *testing.T, name, path string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", name).Output()
	if err != nil {
		t.Fatal(fmt.Errorf("go list: %w", err))
	}
	return filepath.Join(strings.TrimSpace(string(out)), path)
}
