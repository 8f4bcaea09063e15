package kube

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	fcache "k8s.io/client-go/tools/cache/testing"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/model/status"
	"github.com/sluicenet/sluice/source"
)

// fakeServer is an API server of client-go's fake sources.
type fakeServer struct {
	mu      sync.Mutex
	sources map[string]*fcache.FakeControllerSource // kind -> objects; no entry: the kind is not there
	broken  error                                   // what every request gets
	refused map[string]bool                         // kinds that may not be read
}

func (f *fakeServer) set(kind string, src *fcache.FakeControllerSource) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sources[kind] = src
}

func (f *fakeServer) get(kind *source.Kind) (*fcache.FakeControllerSource, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	if f.refused[kind.Name] {
		return nil, apierrors.NewForbidden(schema.GroupResource{Resource: kind.Resource}, "", errors.New("no role allows it"))
	}
	src := f.sources[kind.Name]
	if src == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: kind.Resource}, "")
	}
	return src, nil
}

func (f *fakeServer) forbid(kind string, refused bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused = map[string]bool{kind: refused}
}

func (f *fakeServer) serves(_ context.Context, kind *source.Kind, version string) (bool, error) {
	_, err := f.get(kind)
	if apierrors.IsForbidden(err) { // everybody may ask what there is
		return version == kind.Versions[0], nil
	}
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil && version == kind.Versions[0], err
}

func (f *fakeServer) listWatch(kind *source.Kind, _, _ string) (*cache.ListWatch, error) {
	return &cache.ListWatch{
		ListWithContextFunc: func(_ context.Context, o metav1.ListOptions) (runtime.Object, error) {
			src, err := f.get(kind)
			if err != nil {
				return nil, err
			}
			return src.List(o)
		},
		WatchFuncWithContext: func(_ context.Context, o metav1.ListOptions) (watch.Interface, error) {
			if o.SendInitialEvents != nil {
				return nil, apierrors.NewInvalid(schema.GroupKind{}, "", nil) // as a server without streamed lists
			}
			src, err := f.get(kind)
			if err != nil {
				return nil, err
			}
			return src.Watch(o)
		},
	}, nil
}

type fixture struct {
	*testing.T
	server *fakeServer
	store  *model.Store
	board  *status.Board
	src    *Source
}

// bubble gives fn a fake server, in fake time; everything that is started in
// it ends with it.
func bubble(t *testing.T, fn func(f *fixture)) {
	synctest.Test(t, func(t *testing.T) {
		fn(&fixture{T: t, server: &fakeServer{sources: map[string]*fcache.FakeControllerSource{}}, store: model.NewStore(), board: status.NewBoard()})
	})
}

// source makes a fake source of objects, which is not served yet.
func (f *fixture) source(objects ...runtime.Object) *fcache.FakeControllerSource {
	src := fcache.NewFakeControllerSource()
	for _, o := range objects {
		src.Add(o)
	}
	f.Cleanup(src.Shutdown)
	return src
}

// run runs a source of these kinds until the test ends.
func (f *fixture) run(kinds ...model.KindID) {
	f.Helper()
	src, err := newSource(Options{Store: f.store, Board: f.board, Kinds: kinds, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, f.server)
	if err != nil {
		f.Fatal(err)
	}
	f.src = src
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- src.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Errorf("Run: %v", err)
		}
	})
}

// settle lets everything happen that does not take longer than d.
func (f *fixture) settle(d time.Duration) *model.Snapshot {
	time.Sleep(d)
	synctest.Wait()
	return f.store.Snapshot()
}

func service(name string, port int32) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{{Port: port, Protocol: corev1.ProtocolTCP}}},
	}
}

func TestFollow(t *testing.T) {
	bubble(t, func(f *fixture) {
		services := f.source(service("a", 80), service("b", 81))
		f.server.set("Service", services)
		f.run(model.KindService)
		s := f.settle(time.Second)
		select {
		case <-f.src.Ready():
		default:
			f.Fatal("not ready")
		}
		if model.Services.Len(s) != 2 || !s.Synced(model.KindService) || s.Revision() != 1 {
			f.Fatalf("%d Services at revision %d", model.Services.Len(s), s.Revision())
		}
		// What says the same is no update.
		same := service("a", 80)
		same.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "x"}}
		same.Status.Conditions = []metav1.Condition{{Type: "x"}}
		services.Modify(same)
		if s = f.settle(time.Second); s.Revision() != 1 {
			f.Errorf("revision %d after a change of nothing", s.Revision())
		}
		services.Modify(service("a", 82))
		services.Delete(service("b", 81))
		s = f.settle(time.Second)
		if a, _ := model.Services.Get(s, "default", "a"); model.Services.Len(s) != 1 || a.Ports[0].Port != 82 {
			f.Errorf("%d Services, a on %v", model.Services.Len(s), a.Ports)
		}
	})
}

// TestMistakes proves that one bad part of an object costs only that part, and
// is reported until it is mended.
func TestMistakes(t *testing.T) {
	bad := service("a", 80)
	bad.Spec.ExternalIPs = []string{"192.0.2.1", "nonsense"}
	bubble(t, func(f *fixture) {
		services := f.source(bad)
		f.server.set("Service", services)
		f.run(model.KindService)
		key := model.Key{Kind: model.KindService, Namespace: "default", Name: "a"}
		s := f.settle(time.Second)
		if a, ok := model.Services.Get(s, "default", "a"); !ok || len(a.ExternalIPs) != 1 || a.ExternalIPs[0].String() != "192.0.2.1" {
			f.Errorf("Service: %+v", a)
		}
		r := f.board.Get(key)[Part]
		if len(r.Conditions) != 1 || !strings.Contains(r.Conditions[0].Message, `spec.externalIPs[1]: must be an IP address, found "nonsense"`) {
			f.Errorf("report: %+v", r)
		}
		services.Modify(service("a", 80))
		f.settle(time.Second)
		if len(f.board.Get(key)) != 0 {
			f.Error("still reported")
		}
	})
}

// TestMissingCRD proves that a kind which the cluster does not have counts as
// synced, is taken up when it comes, and dropped when it goes for good.
func TestMissingCRD(t *testing.T) {
	bubble(t, func(f *fixture) {
		routes := f.source(&gatewayv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "r"}})
		f.run(model.KindHTTPRoute)
		if s := f.settle(100 * time.Millisecond); !s.Synced(model.KindHTTPRoute) {
			f.Fatal("not synced")
		}
		f.server.set("HTTPRoute", routes)
		if s := f.settle(15 * time.Second); model.HTTPRoutes.Len(s) != 1 {
			f.Fatal("the route did not come")
		}
		f.server.set("HTTPRoute", nil)
		routes.ResetWatch() // no events, as after an outage
		if s := f.settle(20 * time.Second); model.HTTPRoutes.Len(s) != 1 {
			f.Fatal("the route went at the first sign")
		}
		if s := f.settle(5 * time.Minute); model.HTTPRoutes.Len(s) != 0 {
			f.Fatal("the route of a kind that is not there stays")
		}
		f.server.set("HTTPRoute", routes)
		if s := f.settle(15 * time.Second); model.HTTPRoutes.Len(s) != 1 {
			f.Fatal("the route did not come again")
		}
	})
}

// TestForbiddenKind proves that nothing waits for an optional kind that may not
// be read, and that it is taken up when it may.
func TestForbiddenKind(t *testing.T) {
	bubble(t, func(f *fixture) {
		f.server.set("Service", f.source(service("a", 80)))
		f.server.set("ServiceCIDR", f.source(&networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/12", "fd00::/112"}},
		}))
		f.server.forbid("ServiceCIDR", true)
		f.run(model.KindService, model.KindServiceCIDR)
		s := f.settle(time.Second)
		select {
		case <-f.src.Ready():
		default:
			t.Fatal("not ready")
		}
		if !s.Synced(model.KindServiceCIDR) || model.ServiceCIDRs.Len(s) != 0 {
			t.Fatalf("%d ServiceCIDRs", model.ServiceCIDRs.Len(s))
		}
		f.server.forbid("ServiceCIDR", false)
		s = f.settle(time.Minute)
		if c, ok := model.ServiceCIDRs.Get(s, "", "kubernetes"); !ok || len(c.CIDRs) != 2 {
			t.Fatalf("the ServiceCIDR did not come: %+v", c)
		}
	})
}

// TestOutage proves that what is known stays while the API server is lost, and
// that only what differs afterwards is an update.
func TestOutage(t *testing.T) {
	bubble(t, func(f *fixture) {
		services := f.source(service("a", 80), service("b", 80), service("c", 80))
		f.server.set("Service", services)
		f.run(model.KindService, model.KindHTTPRoute)
		f.settle(time.Second)
		w := f.store.Watch()
		defer w.Stop()
		if _, err := w.Next(context.Background()); err != nil {
			f.Fatal(err)
		}
		f.server.mu.Lock()
		f.server.broken = errors.New("connection refused")
		f.server.mu.Unlock()
		services.ResetWatch()
		if s := f.settle(10 * time.Minute); model.Services.Len(s) != 3 || !s.Synced(model.KindService, model.KindHTTPRoute) {
			f.Fatalf("%d Services during the outage", model.Services.Len(s))
		}
		services.DeleteDropWatch(service("b", 80))
		services.ModifyDropWatch(service("c", 81))
		f.server.mu.Lock()
		f.server.broken = nil
		f.server.mu.Unlock()
		f.settle(time.Minute)
		up, err := w.Next(context.Background())
		if err != nil {
			f.Fatal(err)
		}
		if len(up.Changed) != 2 || model.Services.Len(up.New) != 2 {
			f.Errorf("changed: %v", up.Changed)
		}
	})
}

// TestOneUpdate proves that events that wait are taken together.
func TestOneUpdate(t *testing.T) {
	store := model.NewStore()
	kind, _ := source.KindOf(model.KindService)
	q := newQueue(store, nil)
	f := &feed{kind: kind, queue: q}
	for i := range 100 {
		if err := f.Add(service("s", int32(i+1))); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		q.wake = make(chan struct{}, 1)
		q.wake <- struct{}{}
		go q.run(ctx, func(model.KindID) {})
		synctest.Wait()
		cancel()
	})
	if got := store.Snapshot().Revision(); got != 1 {
		t.Errorf("%d updates", got)
	}
}

// TestWire proves what is asked of a real API server: protocol buffers for
// Kubernetes' own kinds, JSON for others, and only what is read.
func TestWire(t *testing.T) {
	var mu sync.Mutex
	accept, query := map[string]string{}, map[string]string{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		accept[r.URL.Path], query[r.URL.Path] = r.Header.Get("Accept"), r.URL.Query().Get("fieldSelector")
		mu.Unlock()
		if r.URL.Path == "/apis/gateway.networking.k8s.io/v1" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"gateway.networking.k8s.io/v1","resources":[{"name":"gateways","kind":"Gateway"}]}`)
			return
		}
		http.Error(w, "not here", http.StatusForbidden)
	}))
	defer srv.Close()
	src, err := New(Options{Config: &rest.Config{Host: srv.URL}, Store: model.NewStore(), Node: "n1", Kinds: []model.KindID{model.KindPod, model.KindSecret, model.KindGateway}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- src.Run(ctx) }()
	const pods, secrets, gateways = "/api/v1/pods", "/api/v1/secrets", "/apis/gateway.networking.k8s.io/v1/gateways"
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		mu.Lock()
		asked := accept[pods] != "" && accept[secrets] != "" && accept[gateways] != ""
		mu.Unlock()
		if asked {
			break
		}
		if time.Since(start) > 20*time.Second {
			t.Fatal("not asked for all")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if !strings.HasPrefix(accept[pods], "application/vnd.kubernetes.protobuf") {
		t.Errorf("Accept for Pods: %q", accept[pods])
	}
	if !strings.HasPrefix(accept[gateways], "application/json") {
		t.Errorf("Accept for Gateways: %q", accept[gateways])
	}
	if query[pods] != "spec.nodeName=n1" || !strings.Contains(query[secrets], "type!=helm.sh/release.v1") {
		t.Errorf("selectors: %v", query)
	}
}
