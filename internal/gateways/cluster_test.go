package gateways

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/route"
)

func TestClusterDeploysAndRemoves(t *testing.T) {
	client := fake.NewClientset()
	c := &Cluster{
		Client: client, Namespace: "sluice-system", Image: "sluice:test", ControlPlane: "cp:15012",
		Log: slog.Default(),
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	defer func() { cancel(); <-done }()

	web := Wanted{Group: route.GatewayGroup("default", "web"), Gateway: model.Name{Namespace: "default", Name: "web"}, UID: "1", Ports: []uint16{80, 443}}
	class := Wanted{Group: route.GatewayGroup("", "nginx"), Gateway: model.Name{Name: "nginx"}, Ports: []uint16{80}}
	c.Want(web)
	c.Want(class)
	services := func(ns string) map[string]*corev1.Service {
		out := map[string]*corev1.Service{}
		list, err := client.CoreV1().Services(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			out[list.Items[i].Name] = &list.Items[i]
		}
		return out
	}
	eventually(t, "both Services", func() bool {
		return services("default")["web-sluice"] != nil && services("sluice-system")["nginx-sluice"] != nil
	})
	s := services("default")["web-sluice"]
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer || len(s.Spec.Ports) != 2 || s.OwnerReferences[0].Name != "web" {
		t.Errorf("Service %+v", s)
	}
	d, err := client.AppsV1().Deployments("default").Get(ctx, "web-sluice", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod := d.Spec.Template.Spec
	if pod.Containers[0].Image != "sluice:test" || !slices.Contains(pod.Containers[0].Command, string(web.Group)) {
		t.Errorf("container %+v", pod.Containers[0])
	}

	web.Ports = []uint16{8080}
	c.Want(web)
	eventually(t, "the new port", func() bool { return services("default")["web-sluice"].Spec.Ports[0].Port == 8080 })
	if g, ok := c.GroupOf(model.Name{Namespace: "sluice-system", Name: "nginx-sluice"}); !ok || g != class.Group {
		t.Errorf("group %v", g)
	}
	if g, ok := c.GroupOf(model.Name{Namespace: "other", Name: "web-sluice"}); ok {
		t.Errorf("somebody else's Service is taken for %v", g)
	}
	c.Drop(web.Group)
	eventually(t, "the removal", func() bool { return len(services("default")) == 0 })
}

func TestAddress(t *testing.T) {
	c := &Cluster{Namespace: "sluice-system"}
	store := model.NewStore()
	web := model.Name{Namespace: "default", Name: "web"}
	if got := c.Address(store.Snapshot(), web); got != nil {
		t.Errorf("without a Service: %v", got)
	}
	put := func(lb ...netip.Addr) {
		store.Update(func(tx *model.Txn) {
			model.Services.Put(tx, &model.Service{
				Meta:       model.Meta{Namespace: "default", Name: "web-sluice"},
				ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.9")}, LoadBalancerIPs: lb,
			})
		})
	}
	put()
	if got := c.Address(store.Snapshot(), web); !slices.Equal(got, []string{"10.96.0.9"}) {
		t.Errorf("without a load balancer: %v", got)
	}
	put(netip.MustParseAddr("192.0.2.1"))
	if got := c.Address(store.Snapshot(), web); !slices.Equal(got, []string{"192.0.2.1"}) {
		t.Errorf("with a load balancer: %v", got)
	}
}
