package model

import (
	"fmt"

	istionetworking "istio.io/client-go/pkg/apis/networking/v1"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	networkingv1 "k8s.io/api/networking/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Object is anything that the model keeps. Cluster-scoped objects have an
// empty namespace.
type Object interface {
	comparable
	GetNamespace() string
	GetName() string
}

// KindID numbers the kinds. Its String is the API's name of the kind.
type KindID uint8

// The kinds of objects. Services, EndpointSlices and the other kinds of which
// a cluster has very many are kept in a compact form of our own, the rest as
// the API's types. A new kind is one constant, one line in kindNames and one
// [Kind] below, and one entry in package source's table.
const (
	KindService KindID = iota
	KindEndpointSlice
	KindPod
	KindNode
	KindNamespace
	KindSecret
	KindConfigMap
	KindServiceAccount
	KindIngress
	KindIngressClass
	KindServiceCIDR
	KindGatewayClass
	KindGateway
	KindHTTPRoute
	KindReferenceGrant
	KindVirtualService
	KindDestinationRule
	KindPeerAuthentication
	KindSplit
	kindCount
)

var kindNames = [kindCount]string{
	KindService:            "Service",
	KindEndpointSlice:      "EndpointSlice",
	KindPod:                "Pod",
	KindNode:               "Node",
	KindNamespace:          "Namespace",
	KindSecret:             "Secret",
	KindConfigMap:          "ConfigMap",
	KindServiceAccount:     "ServiceAccount",
	KindIngress:            "Ingress",
	KindIngressClass:       "IngressClass",
	KindServiceCIDR:        "ServiceCIDR",
	KindGatewayClass:       "GatewayClass",
	KindGateway:            "Gateway",
	KindHTTPRoute:          "HTTPRoute",
	KindReferenceGrant:     "ReferenceGrant",
	KindVirtualService:     "VirtualService",
	KindDestinationRule:    "DestinationRule",
	KindPeerAuthentication: "PeerAuthentication",
	KindSplit:              "Split",
}

// The tables of a snapshot, by kind.
var (
	Services            = Kind[*Service]{KindService}
	EndpointSlices      = Kind[*EndpointSlice]{KindEndpointSlice}
	Pods                = Kind[*Pod]{KindPod}
	Nodes               = Kind[*Node]{KindNode}
	Namespaces          = Kind[*Namespace]{KindNamespace}
	Secrets             = Kind[*Secret]{KindSecret}
	ConfigMaps          = Kind[*ConfigMap]{KindConfigMap}
	ServiceAccounts     = Kind[*ServiceAccount]{KindServiceAccount}
	Ingresses           = Kind[*networkingv1.Ingress]{KindIngress}
	IngressClasses      = Kind[*networkingv1.IngressClass]{KindIngressClass}
	ServiceCIDRs        = Kind[*ServiceCIDR]{KindServiceCIDR}
	GatewayClasses      = Kind[*gatewayv1.GatewayClass]{KindGatewayClass}
	Gateways            = Kind[*gatewayv1.Gateway]{KindGateway}
	HTTPRoutes          = Kind[*gatewayv1.HTTPRoute]{KindHTTPRoute}
	ReferenceGrants     = Kind[*gatewayv1.ReferenceGrant]{KindReferenceGrant}
	VirtualServices     = Kind[*istionetworking.VirtualService]{KindVirtualService}
	DestinationRules    = Kind[*istionetworking.DestinationRule]{KindDestinationRule}
	PeerAuthentications = Kind[*istiosecurity.PeerAuthentication]{KindPeerAuthentication}
	// Splits are derived, not read: package mesh makes them of routes, and the
	// service proxy fills its slots by them.
	Splits = Kind[*Split]{KindSplit}
)

// String returns the kind's name in the API, such as "Service".
func (k KindID) String() string {
	if k < kindCount {
		return kindNames[k]
	}
	return fmt.Sprintf("KindID(%d)", uint8(k))
}

// KindByName returns the kind that the API calls name, such as "Service".
func KindByName(name string) (KindID, bool) {
	for id, n := range kindNames {
		if n == name {
			return KindID(id), true
		}
	}
	return 0, false
}

// Key names one object.
type Key struct {
	Kind      KindID
	Namespace string
	Name      string
}

// String returns "Kind namespace/name", or "Kind name" where the object has no
// namespace.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind.String() + " " + k.Name
	}
	return k.Kind.String() + " " + k.Namespace + "/" + k.Name
}

// Name is a namespaced name.
type Name struct{ Namespace, Name string }

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }
