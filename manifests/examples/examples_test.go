package examples_test

import (
	"bytes"
	"crypto/tls"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"github.com/sluicenet/sluice/manifests/examples"
	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/source"
)

// quickstart reads all manifests; every mistake and every warning fails.
func quickstart(t *testing.T) map[model.Key]any {
	t.Helper()
	out := map[model.Key]any{}
	err := fs.WalkDir(examples.Quickstart(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(examples.Quickstart(), name)
		if err != nil {
			return err
		}
		objects, problems := source.Decode(b)
		for _, p := range problems {
			t.Errorf("%s: %v", name, p)
		}
		for _, o := range objects {
			if _, twice := out[o.Key]; twice {
				t.Errorf("%s: %v is there twice", name, o.Key)
			}
			out[o.Key] = o.Value
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// each calls f with every object of a type.
func each[T any](objects map[model.Key]any, f func(model.Key, T)) {
	for key, o := range objects {
		if v, is := o.(T); is {
			f(key, v)
		}
	}
}

// TestEndpoints compares what stands for a cluster's controllers with what these
// would make: a slice a Service and family with the Pods that its selector
// chooses, and Pods in the networks of their Nodes.
func TestEndpoints(t *testing.T) {
	objects := quickstart(t)
	want := map[string]bool{}
	each(objects, func(_ model.Key, pod *model.Pod) {
		node, ok := objects[model.Key{Kind: model.KindNode, Name: pod.Node}].(*model.Node)
		if !ok {
			t.Fatalf("%s is on %q, which is not there", pod.Name, pod.Node)
		}
		for _, ip := range pod.IPs {
			if !slices.ContainsFunc(node.PodCIDRs, func(p netip.Prefix) bool { return p.Contains(ip) }) {
				t.Errorf("%s: %v is not in a network of %s", pod.Name, ip, node.Name)
			}
		}
		each(objects, func(_ model.Key, service *model.Service) {
			if service.Selector == "" || !selects(service.Selector, pod.Labels) {
				return
			}
			for _, ip := range pod.IPs {
				want[service.Name+" "+pod.Name+" "+ip.String()+" "+pod.Node] = true
			}
		})
	})
	got := map[string]bool{}
	each(objects, func(_ model.Key, slice *model.EndpointSlice) {
		service, ok := objects[model.Key{Kind: model.KindService, Namespace: slice.Namespace, Name: slice.Service}].(*model.Service)
		if !ok || len(slice.Ports) != len(service.Ports) {
			t.Errorf("EndpointSlice %s does not fit its Service", slice.Name)
		}
		for _, e := range slice.Endpoints {
			got[slice.Service+" "+e.Pod+" "+e.Addr.String()+" "+e.Node] = e.Ready
		}
	})
	if !maps.Equal(got, want) {
		t.Errorf("endpoints are\n%v\nand the selectors want\n%v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
}

func selects(selector string, labels map[string]string) bool {
	for want := range strings.SplitSeq(selector, ",") {
		if key, value, _ := strings.Cut(want, "="); labels[key] != value {
			return false
		}
	}
	return true
}

// TestWorkloads compares the Deployments, which a cluster runs, with the Pods
// that stand for them.
func TestWorkloads(t *testing.T) {
	type workload struct {
		labels  string
		account string
		meshed  bool
	}
	describe := func(labels map[string]string, account string, meshed bool) workload {
		return workload{labels["app"] + " " + labels["version"], account, meshed}
	}
	got, want := map[workload]int{}, map[workload]int{}
	for file, meshed := range map[string]bool{"workloads/plain.yaml": false, "workloads/meshed.yaml": true} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range bytes.SplitSeq(b, []byte("\n---\n")) {
			var d appsv1.Deployment
			if err := yaml.UnmarshalStrict(doc, &d); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			account := d.Spec.Template.Spec.ServiceAccountName
			if account == "" {
				account = "default"
			}
			got[describe(d.Spec.Template.Labels, account, meshed)] += int(*d.Spec.Replicas)
		}
	}
	objects := quickstart(t)
	each(objects, func(_ model.Key, pod *model.Pod) {
		want[describe(pod.Labels, pod.ServiceAccount, pod.Annotations["sluice.io/sidecar"] == "injected")]++
		if _, ok := objects[model.Key{Kind: model.KindServiceAccount, Namespace: pod.Namespace, Name: pod.ServiceAccount}]; !ok && pod.ServiceAccount != "default" {
			t.Errorf("%s: there is no ServiceAccount %s", pod.Name, pod.ServiceAccount)
		}
	})
	if !maps.Equal(got, want) {
		t.Errorf("the Deployments make\n%v\nand the Pods are\n%v", got, want)
	}
}

func TestCertificate(t *testing.T) {
	secret, ok := quickstart(t)[model.Key{Kind: model.KindSecret, Namespace: "default", Name: "example-com"}].(*model.Secret)
	if !ok {
		t.Fatal("there is no Secret example-com")
	}
	pair, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"www.example.com", "quotes.example.com"} {
		if err := pair.Leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
}
