package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
)

func TestResolver(t *testing.T) {
	r, err := resolver(nil, "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver 10.0.0.1\noptions ndots:5\n")
	if err != nil {
		t.Fatal(err)
	}
	if r.Server.String() != "10.96.0.10:53" || !slices.Equal(r.Search, []string{"default.svc.cluster.local", "svc.cluster.local"}) {
		t.Errorf("%+v", r)
	}
	for _, wrong := range []string{"", "nameserver\n", "nameserver nobody\n"} {
		if _, err := resolver(nil, wrong); err == nil {
			t.Errorf("%q is no error", wrong)
		}
	}
}

func FuzzResolver(f *testing.F) {
	f.Add("search a b\nnameserver fd00::a\n")
	f.Fuzz(func(t *testing.T, conf string) {
		if r, err := resolver(nil, conf); err == nil && !r.Server.IsValid() {
			t.Errorf("%q has no server", conf)
		}
	})
}

func TestIsTrue(t *testing.T) {
	condition := func(of, status string, generation int64) any {
		return map[string]any{
			"type": of, "status": status, "observedGeneration": generation, "reason": "Because", "message": "so",
			"lastTransitionTime": metav1.Now().UTC().Format(time.RFC3339),
		}
	}
	untimed := map[string]any{"type": "Accepted", "status": "True", "observedGeneration": int64(2)}
	for _, c := range []struct {
		name string
		in   []any
		want string
	}{
		{"true", []any{condition("Programmed", "False", 2), condition("Accepted", "True", 2)}, ""},
		{"absent", []any{condition("Programmed", "True", 2)}, "there is no condition Accepted"},
		{"false", []any{condition("Accepted", "False", 2)}, "Accepted is False: Because: so"},
		{"one of two", []any{condition("Accepted", "True", 2), condition("Accepted", "False", 2)}, "Accepted is False"},
		{"old", []any{condition("Accepted", "True", 1)}, "Accepted is of generation 1, not 2"},
		{"without a time", []any{untimed}, "Accepted is of generation 2"},
	} {
		got := ""
		if err := isTrue(c.in, "Accepted", 2); err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestEdit changes the objects of canary.yaml that the edit is about, and no
// others.
func TestEdit(t *testing.T) {
	object := func(apiVersion, kind, name string, spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"namespace": namespace, "name": name}, "spec": spec,
		}}
	}
	client := dynamicfake.NewSimpleDynamicClient(runtime.NewScheme(),
		object("v1", "Service", "quotes-main", map[string]any{"type": "ExternalName", "clusterIP": "kept"}))
	c := &cluster{objects: client}
	change := strings.NewReplacer("externalName: quotes-v1.", "externalName: quotes-v2.").Replace
	if _, err := c.edit(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	got, err := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "services"}).Namespace(namespace).
		Get(t.Context(), "quotes-main", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec := got.Object["spec"].(map[string]any)
	if spec["externalName"] != "quotes-v2.default.svc.cluster.local" || spec["clusterIP"] != "kept" {
		t.Errorf("spec is %v", spec)
	}
	if _, err := c.edit(t.Context(), change); err == nil {
		t.Error("an edit without effect is no error")
	}
	for _, action := range client.Actions() {
		if action.GetVerb() == "patch" && action.GetResource().Resource != "services" {
			t.Errorf("also wrote %v", action.GetResource())
		}
	}
}
