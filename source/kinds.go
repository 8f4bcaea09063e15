package source

import (
	"reflect"

	istionetworking "istio.io/client-go/pkg/apis/networking/v1"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluicenet/sluice/model"
)

// Value is an object as package model keeps it.
type Value interface {
	GetNamespace() string
	GetName() string
}

// Kind is what sluice knows of one kind of the API.
type Kind struct {
	ID    model.KindID
	Name  string // of the API: "Service"
	Group string // empty for the core group
	// Versions that are accepted, which all have the same Go type. The first
	// that the API server serves is watched.
	Versions   []string
	Resource   string // plural, as in the API's paths
	Namespaced bool
	CRD        bool // a cluster may lack it
	// Optional marks a kind of Kubernetes' own that older clusters lack, or that
	// a role may not cover: then there are none of it, and nothing waits for it.
	Optional  bool
	FilesOnly bool // never watched on a cluster
	New       func() runtime.Object
	NewList   func() runtime.Object

	convert func(obj runtime.Object, f *findings) []Value
	equal   func(a, b Value) bool // nil: reflect.DeepEqual
}

// Kinds returns the table of kinds.
func Kinds() []*Kind { return kinds }

// KindOf returns the watched kind of that number; derived kinds have none.
func KindOf(id model.KindID) (*Kind, bool) {
	for _, k := range kinds {
		if k.ID == id && !k.FilesOnly {
			return k, true
		}
	}
	return nil, false
}

const (
	groupGateway       = "gateway.networking.k8s.io"
	groupIstioNet      = "networking.istio.io"
	groupIstioSecurity = "security.istio.io"
)

var kinds = []*Kind{
	kind(model.KindService, "", "services", convertService,
		func() *corev1.Service { return &corev1.Service{} }, func() runtime.Object { return &corev1.ServiceList{} }),
	kind(model.KindEndpointSlice, "discovery.k8s.io", "endpointslices", convertEndpointSlice,
		func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} }, func() runtime.Object { return &discoveryv1.EndpointSliceList{} }).comparedBy(equalEndpointSlice),
	// On a cluster its mirroring controller makes EndpointSlices of them.
	kind(model.KindEndpointSlice, "", "endpoints", convertEndpoints,
		func() *corev1.Endpoints { return &corev1.Endpoints{} }, func() runtime.Object { return &corev1.EndpointsList{} }). //nolint:staticcheck // deprecated, but people have them
		named("Endpoints").filesOnly(),
	kind(model.KindPod, "", "pods", convertPod,
		func() *corev1.Pod { return &corev1.Pod{} }, func() runtime.Object { return &corev1.PodList{} }),
	kind(model.KindNode, "", "nodes", convertNode,
		func() *corev1.Node { return &corev1.Node{} }, func() runtime.Object { return &corev1.NodeList{} }).clusterScoped(),
	kind(model.KindNamespace, "", "namespaces", convertNamespace,
		func() *corev1.Namespace { return &corev1.Namespace{} }, func() runtime.Object { return &corev1.NamespaceList{} }).clusterScoped(),
	kind(model.KindSecret, "", "secrets", convertSecret,
		func() *corev1.Secret { return &corev1.Secret{} }, func() runtime.Object { return &corev1.SecretList{} }),
	kind(model.KindConfigMap, "", "configmaps", convertConfigMap,
		func() *corev1.ConfigMap { return &corev1.ConfigMap{} }, func() runtime.Object { return &corev1.ConfigMapList{} }),
	kind(model.KindServiceAccount, "", "serviceaccounts", convertServiceAccount,
		func() *corev1.ServiceAccount { return &corev1.ServiceAccount{} }, func() runtime.Object { return &corev1.ServiceAccountList{} }),
	kind(model.KindIngress, "networking.k8s.io", "ingresses", convertIngress,
		func() *networkingv1.Ingress { return &networkingv1.Ingress{} }, func() runtime.Object { return &networkingv1.IngressList{} }),
	kind(model.KindIngressClass, "networking.k8s.io", "ingressclasses", convertIngressClass,
		func() *networkingv1.IngressClass { return &networkingv1.IngressClass{} }, func() runtime.Object { return &networkingv1.IngressClassList{} }).clusterScoped(),
	kind(model.KindServiceCIDR, "networking.k8s.io", "servicecidrs", convertServiceCIDR,
		func() *networkingv1.ServiceCIDR { return &networkingv1.ServiceCIDR{} }, func() runtime.Object { return &networkingv1.ServiceCIDRList{} }).clusterScoped().optional(),
	kind(model.KindGatewayClass, groupGateway, "gatewayclasses", convertGatewayClass,
		func() *gatewayv1.GatewayClass { return &gatewayv1.GatewayClass{} }, func() runtime.Object { return &gatewayv1.GatewayClassList{} }).clusterScoped().crd("v1", "v1beta1"),
	kind(model.KindGateway, groupGateway, "gateways", convertGateway,
		func() *gatewayv1.Gateway { return &gatewayv1.Gateway{} }, func() runtime.Object { return &gatewayv1.GatewayList{} }).crd("v1", "v1beta1"),
	kind(model.KindHTTPRoute, groupGateway, "httproutes", convertHTTPRoute,
		func() *gatewayv1.HTTPRoute { return &gatewayv1.HTTPRoute{} }, func() runtime.Object { return &gatewayv1.HTTPRouteList{} }).crd("v1", "v1beta1"),
	kind(model.KindReferenceGrant, groupGateway, "referencegrants", convertReferenceGrant,
		func() *gatewayv1.ReferenceGrant { return &gatewayv1.ReferenceGrant{} }, func() runtime.Object { return &gatewayv1.ReferenceGrantList{} }).crd("v1", "v1beta1"),
	kind(model.KindVirtualService, groupIstioNet, "virtualservices", convertVirtualService,
		func() *istionetworking.VirtualService { return &istionetworking.VirtualService{} }, func() runtime.Object { return &istionetworking.VirtualServiceList{} }).
		crd("v1", "v1beta1", "v1alpha3").comparedBy(equalVirtualService),
	kind(model.KindDestinationRule, groupIstioNet, "destinationrules", convertDestinationRule,
		func() *istionetworking.DestinationRule { return &istionetworking.DestinationRule{} }, func() runtime.Object { return &istionetworking.DestinationRuleList{} }).
		crd("v1", "v1beta1", "v1alpha3").comparedBy(equalDestinationRule),
	kind(model.KindPeerAuthentication, groupIstioSecurity, "peerauthentications", convertPeerAuthentication,
		func() *istiosecurity.PeerAuthentication { return &istiosecurity.PeerAuthentication{} }, func() runtime.Object { return &istiosecurity.PeerAuthenticationList{} }).
		crd("v1", "v1beta1").comparedBy(equalPeerAuthentication),
}

// kind makes an entry of a namespaced kind of version v1.
func kind[T runtime.Object](id model.KindID, group, resource string, convert func(T, *findings) []Value, newObject func() T, newList func() runtime.Object) *Kind {
	return &Kind{
		ID: id, Name: id.String(), Group: group, Versions: []string{"v1"}, Resource: resource, Namespaced: true,
		New:     func() runtime.Object { return newObject() },
		NewList: newList,
		convert: func(obj runtime.Object, f *findings) []Value { return convert(obj.(T), f) },
	}
}

func (k *Kind) named(name string) *Kind { k.Name = name; return k }
func (k *Kind) filesOnly() *Kind        { k.FilesOnly = true; return k }
func (k *Kind) clusterScoped() *Kind    { k.Namespaced = false; return k }
func (k *Kind) optional() *Kind         { k.Optional = true; return k }
func (k *Kind) crd(versions ...string) *Kind {
	k.CRD, k.Versions = true, versions
	return k
}
func (k *Kind) comparedBy(equal func(a, b Value) bool) *Kind { k.equal = equal; return k }

// GVR returns the resource in that version of the API.
func (k *Kind) GVR(version string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: k.Group, Version: version, Resource: k.Resource}
}

// GVK returns the kind in that version of the API.
func (k *Kind) GVK(version string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: k.Group, Version: version, Kind: k.Name}
}

// Convert makes of an object of the API, which must be of the type that New
// returns, the objects of the model: one, or for Endpoints one a family. Parts
// that are wrong are named and left out; none is returned if nothing usable
// remains. The result may share memory with obj, which is the callee's from
// then on. Of a Service the labels of the given names are kept, too.
func (k *Kind) Convert(obj runtime.Object, labels ...string) ([]Value, []FieldError) {
	f := findings{labels: labels}
	values := k.convert(obj, &f)
	return values, f.errs
}

// Equal reports whether two objects of the kind say the same.
func (k *Kind) Equal(a, b Value) bool {
	if k.equal != nil {
		return k.equal(a, b)
	}
	return reflect.DeepEqual(a, b)
}

// Scheme returns a scheme that decodes every version of every kind into the
// one Go type of the kind.
func Scheme() *runtime.Scheme {
	s := runtime.NewScheme()
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	for _, k := range kinds {
		for _, version := range k.Versions {
			gvk := k.GVK(version)
			s.AddKnownTypeWithName(gvk, k.New())
			gvk.Kind += "List"
			s.AddKnownTypeWithName(gvk, k.NewList())
			metav1.AddToGroupVersion(s, gvk.GroupVersion())
		}
	}
	return s
}
