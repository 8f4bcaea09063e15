package inject_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/sluicenet/sluice/mesh"
	"github.com/sluicenet/sluice/mesh/ca"
	"github.com/sluicenet/sluice/mesh/inject"
)

var update = flag.Bool("update", false, "write the golden files")

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGolden(t *testing.T) {
	in := read(t, "testdata/all.in.yaml")
	got, err := inject.Workload(in, inject.Options{Image: "registry.example/sluice:1"})
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/all.out.yaml", got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := read(t, "testdata/all.out.yaml"); !bytes.Equal(got, want) {
		t.Errorf("got:\n%s", got)
	}
	// What has no Pod is the same, byte for byte.
	before, after := strings.Split(string(in), "\n---"), strings.Split(string(got), "\n---")
	if len(before) != len(after) {
		t.Fatalf("%d documents became %d", len(before), len(after))
	}
	for _, i := range []int{0, 2, 6, 7} {
		if before[i] != after[i] {
			t.Errorf("document %d was:\n%s\nis:\n%s", i, before[i], after[i])
		}
	}
}

// A document of JSON stays one.
func TestJSON(t *testing.T) {
	got, err := inject.Workload([]byte(`{"kind": "Pod", "spec": {"containers": []}}`), inject.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := json.Unmarshal(got, &pod); err != nil || len(pod.Spec.InitContainers) != 2 {
		t.Errorf("%v in %s", err, got)
	}
}

// Pods have the fields that were meant, in the API's own types.
func TestAPI(t *testing.T) {
	got, err := inject.Workload([]byte("kind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: app}]}\n"), inject.Options{
		Image: "x: y\n- z", ControlPlane: "10.0.0.1:15012",
	})
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict(got, &pod); err != nil {
		t.Fatalf("%v in:\n%s", err, got)
	}
	if pod.Annotations[mesh.SidecarAnnotation] != mesh.SidecarInjected {
		t.Errorf("annotations: %v", pod.Annotations)
	}
	c := pod.Spec.InitContainers
	if len(c) != 2 || c[0].Name != inject.RedirectContainer || c[1].Name != inject.SidecarContainer || len(pod.Spec.Containers) != 1 {
		t.Fatalf("containers: %+v", pod.Spec)
	}
	if c[0].RestartPolicy != nil || *c[1].RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Error("the sidecar, and it alone, has to be restarted always")
	}
	if got := c[1].Image; got != "x: y\n- z" {
		t.Errorf("image %q", got)
	}
	if !strings.Contains(strings.Join(c[1].Command, " "), " --control-plane=10.0.0.1:15012 ") {
		t.Errorf("command: %q", c[1].Command)
	}
	if *c[1].SecurityContext.RunAsUser != mesh.ProxyUID || *c[0].SecurityContext.RunAsUser != 0 {
		t.Error("the rules let the sidecar's user pass, and root alone can make them")
	}
	volumes := map[string]bool{}
	for _, v := range pod.Spec.Volumes {
		volumes[v.Name] = true
		if v.ConfigMap != nil && v.ConfigMap.Name != ca.RootsConfigMap {
			t.Errorf("the roots are in %s, not in %s", ca.RootsConfigMap, v.ConfigMap.Name)
		}
		if v.Projected != nil && v.Projected.Sources[0].ServiceAccountToken.Audience != ca.Audience {
			t.Errorf("the authority takes no token for %s", v.Projected.Sources[0].ServiceAccountToken.Audience)
		}
	}
	for _, m := range c[1].VolumeMounts {
		if !volumes[m.Name] {
			t.Errorf("there is no volume %s", m.Name)
		}
	}
}

func TestTwice(t *testing.T) {
	in := read(t, "testdata/all.in.yaml")
	once, err := inject.Workload(in, inject.Options{Image: "a"})
	if err != nil {
		t.Fatal(err)
	}
	twice, err := inject.Workload(once, inject.Options{Image: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(once, twice) {
		t.Errorf("a second time changes:\n%s\nto:\n%s", once, twice)
	}
	other, err := inject.Workload(once, inject.Options{Image: "b"})
	if err != nil {
		t.Fatal(err)
	}
	direct, err := inject.Workload(in, inject.Options{Image: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(other, direct) {
		t.Error("a newer image does not take the place of the older")
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"a: b\n---\nkind: Pod\nmetadata: {name: p}\nspec: {hostNetwork: true}\n", "line 3: Pod p: a Pod on the host's network"},
		{"kind: Deployment\nmetadata: {name: d}\nspec: {}\n", "line 1: Deployment d: there is no template"},
		{"kind: Pod\nmetadata: {name: p}\nspec: {initContainers: 5}\n", "initContainers is of the wrong type"},
		{"x: &v [{name: a}]\nkind: Pod\nspec: {volumes: *v}\n", "volumes is an alias"},
		{"# one\n---\n---\na: [\n", "line 4: "},
	} {
		_, err := inject.Workload([]byte(c.in), inject.Options{})
		var e *inject.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.in, err, c.want)
		}
	}
}

func FuzzWorkload(f *testing.F) {
	f.Add(read(f, "testdata/all.in.yaml"))
	f.Add([]byte("kind: Pod\nmetadata:\nspec: {initContainers: }\n"))
	f.Add([]byte("---\n---\n# x"))
	f.Add([]byte("kind: List\nitems: [&a {kind: Pod, spec: {}}, *a]"))
	f.Fuzz(func(t *testing.T, in []byte) {
		once, err := inject.Workload(in, inject.Options{})
		if err != nil {
			return
		}
		twice, err := inject.Workload(once, inject.Options{})
		if err != nil {
			t.Fatalf("%v in what was injected: %q", err, once)
		}
		if !bytes.Equal(once, twice) {
			t.Fatalf("%q\nbecame\n%q", once, twice)
		}
	})
}
