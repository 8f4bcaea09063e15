package source

import (
	"fmt"
	"net/netip"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

func convertIngress(in *networkingv1.Ingress, f *findings) []Value {
	stripMeta(&in.ObjectMeta)
	in.TypeMeta = metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "Ingress"}
	in.Status = networkingv1.IngressStatus{}
	if in.Spec.DefaultBackend == nil && len(in.Spec.Rules) == 0 {
		f.missing("spec.rules", "a list of at least one rule where there is no spec.defaultBackend")
	}
	if in.Spec.DefaultBackend != nil {
		ingressBackend("spec.defaultBackend", in.Spec.DefaultBackend, f)
	}
	for i := range in.Spec.Rules {
		rule := &in.Spec.Rules[i]
		at := fmt.Sprintf("spec.rules[%d]", i)
		hostname(at+".host", rule.Host, f)
		if rule.HTTP == nil {
			continue
		}
		for j := range rule.HTTP.Paths {
			path := &rule.HTTP.Paths[j]
			at := fmt.Sprintf("%s.http.paths[%d]", at, j)
			ingressBackend(at+".backend", &path.Backend, f)
			const types = "Exact, Prefix or ImplementationSpecific"
			switch {
			case path.PathType == nil:
				f.missing(at+".pathType", types)
			case *path.PathType == networkingv1.PathTypeExact, *path.PathType == networkingv1.PathTypePrefix:
				if !strings.HasPrefix(path.Path, "/") {
					f.bad(at+".path", "a path that begins with /", path.Path)
				}
			case *path.PathType != networkingv1.PathTypeImplementationSpecific:
				f.bad(at+".pathType", types, string(*path.PathType))
			}
		}
	}
	for i, tls := range in.Spec.TLS {
		for j, host := range tls.Hosts {
			hostname(fmt.Sprintf("spec.tls[%d].hosts[%d]", i, j), host, f)
		}
	}
	return []Value{in}
}

func ingressBackend(at string, b *networkingv1.IngressBackend, f *findings) {
	switch {
	case b.Service == nil && b.Resource == nil:
		f.missing(at+".service", "a Service's name and port")
	case b.Service == nil:
	case b.Service.Name == "":
		f.missing(at+".service.name", "a Service's name")
	case b.Service.Port.Name == "" && b.Service.Port.Number == 0:
		f.missing(at+".service.port", "a port's number or name")
	case b.Service.Port.Name != "" && b.Service.Port.Number != 0:
		f.bad(at+".service.port", "either a number or a name", "both")
	case b.Service.Port.Name == "":
		portNumber(f, at+".service.port.number", b.Service.Port.Number)
	}
}

// hostname checks a host that may begin with "*."; empty means all.
func hostname(at, host string, f *findings) {
	if host == "" {
		return
	}
	_, err := netip.ParseAddr(host)
	if err == nil || len(validation.IsDNS1123Subdomain(strings.TrimPrefix(host, "*."))) > 0 {
		f.bad(at, "a DNS name in lower case, or one with *. before it", host)
	}
}

func convertIngressClass(in *networkingv1.IngressClass, f *findings) []Value {
	stripMeta(&in.ObjectMeta)
	in.TypeMeta = metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "IngressClass"}
	if in.Spec.Controller == "" {
		f.missing("spec.controller", "the name of a controller such as sluice.io/ingress-controller")
	}
	return []Value{in}
}
