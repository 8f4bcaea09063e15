package apiserver

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// TestInformer reads the server as a client does, in both encodings.
func TestInformer(t *testing.T) {
	for _, media := range []string{jsonType, protobufType} {
		t.Run(media, func(t *testing.T) {
			s := New(map[schema.GroupVersionKind]string{corev1.SchemeGroupVersion.WithKind("Service"): "services"})
			srv := httptest.NewServer(s)
			defer srv.Close()
			service := func(name, ip string) *corev1.Service {
				return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip}}
			}
			s.Put(service("a", "10.96.0.1"), service("b", "10.96.0.2"))

			client, err := kubernetes.NewForConfig(&rest.Config{Host: srv.URL, ContentConfig: rest.ContentConfig{ContentType: media, AcceptContentTypes: media}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			factory := informers.NewSharedInformerFactory(client, 0)
			seen := make(chan string, 10)
			_, err = factory.Core().V1().Services().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
				AddFunc:    func(o any) { seen <- "added " + describe(o) },
				UpdateFunc: func(_, o any) { seen <- "changed to " + describe(o) },
				DeleteFunc: func(o any) { seen <- "deleted " + describe(o) },
			})
			if err != nil {
				t.Fatal(err)
			}
			factory.Start(ctx.Done())
			expect := func(want ...string) {
				t.Helper()
				missing := map[string]bool{}
				for _, w := range want {
					missing[w] = true
				}
				for len(missing) > 0 {
					select {
					case got := <-seen:
						if !missing[got] {
							t.Fatalf("seen %q, want one of %q", got, want)
						}
						delete(missing, got)
					case <-ctx.Done():
						t.Fatalf("not seen: %v", missing)
					}
				}
			}
			expect("added a 10.96.0.1", "added b 10.96.0.2")
			s.Put(service("a", "10.96.0.9"))
			expect("changed to a 10.96.0.9")
			s.Delete(service("b", "10.96.0.2"))
			expect("deleted b 10.96.0.2")
		})
	}
}

func describe(o any) string {
	s, ok := o.(*corev1.Service)
	if !ok {
		return "something else"
	}
	return s.Name + " " + s.Spec.ClusterIP
}
