package kube

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/sluicenet/sluice/model"
	"github.com/sluicenet/sluice/source"
)

// apiServer is a real API server.
type apiServer struct {
	config    *rest.Config
	discovery discovery.DiscoveryInterface
	scheme    *runtime.Scheme
}

func (a *apiServer) serves(ctx context.Context, kind *source.Kind, version string) (bool, error) {
	gv := schema.GroupVersion{Group: kind.Group, Version: version}
	list := &metav1.APIResourceList{}
	err := a.discovery.RESTClient().Get().AbsPath("/apis", gv.Group, gv.Version).Do(ctx).Into(list)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask for the resources of %s: %w", gv, err)
	}
	for _, r := range list.APIResources {
		if r.Name == kind.Resource {
			return true, nil
		}
	}
	return false, nil
}

// listWatch speaks protocol buffers for the kinds of Kubernetes' own, and JSON
// for those of CRDs, which have nothing else.
func (a *apiServer) listWatch(kind *source.Kind, version, node string) (*cache.ListWatch, error) {
	cfg := rest.CopyConfig(a.config)
	cfg.GroupVersion = &schema.GroupVersion{Group: kind.Group, Version: version}
	cfg.APIPath = "/apis"
	if kind.Group == "" {
		cfg.APIPath = "/api"
	}
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(a.scheme).WithoutConversion()
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	if kind.CRD {
		cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	}
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, err
	}
	params := runtime.NewParameterCodec(a.scheme)
	selector := selectorFor(kind, node)
	request := func(o metav1.ListOptions) *rest.Request {
		o.FieldSelector = selector
		var timeout time.Duration
		if o.TimeoutSeconds != nil {
			timeout = time.Duration(*o.TimeoutSeconds) * time.Second
		}
		return client.Get().Resource(kind.Resource).VersionedParams(&o, params).Timeout(timeout)
	}
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return request(o).Do(ctx).Get()
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return request(o).Watch(ctx)
		},
	}, nil
}

// selectorFor leaves out on the server what is never read.
func selectorFor(kind *source.Kind, node string) string {
	switch {
	case kind.ID == model.KindPod && node != "":
		return fields.OneTermEqualSelector("spec.nodeName", node).String()
	case kind.ID == model.KindSecret:
		return "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token"
	}
	return ""
}

// observe tells of each answer of the API server, and of none.
func observe(lw *cache.ListWatch, answered func(error)) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := lw.ListWithContext(ctx, o)
			answered(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			w, err := lw.WatchWithContext(ctx, o)
			answered(err)
			return w, err
		},
	}
}
