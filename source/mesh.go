package source

import (
	"fmt"

	istiometa "istio.io/api/meta/v1alpha1"
	networking "istio.io/api/networking/v1"
	istionetworking "istio.io/client-go/pkg/apis/networking/v1"
	istiosecurity "istio.io/client-go/pkg/apis/security/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Of Istio's kinds only what no part could work with is checked here, since
// package mesh reports the rest, with more to say, as conditions.

func convertVirtualService(in *istionetworking.VirtualService, f *findings) []Value {
	stripMeta(&in.ObjectMeta)
	in.TypeMeta = metav1.TypeMeta{APIVersion: groupIstioNet + "/v1", Kind: "VirtualService"}
	in.Status = istiometa.IstioStatus{}
	if len(in.Spec.Hosts) == 0 {
		f.missing("spec.hosts", "a list of at least one host")
	}
	for i, r := range in.Spec.Http {
		for j, d := range r.GetRoute() {
			destination(fmt.Sprintf("spec.http[%d].route[%d].destination", i, j), d.GetDestination(), f)
			weightOf(fmt.Sprintf("spec.http[%d].route[%d].weight", i, j), d.GetWeight(), f)
		}
	}
	for i, r := range in.Spec.Tcp {
		for j, d := range r.GetRoute() {
			destination(fmt.Sprintf("spec.tcp[%d].route[%d].destination", i, j), d.GetDestination(), f)
			weightOf(fmt.Sprintf("spec.tcp[%d].route[%d].weight", i, j), d.GetWeight(), f)
		}
	}
	for i, r := range in.Spec.Tls {
		for j, d := range r.GetRoute() {
			destination(fmt.Sprintf("spec.tls[%d].route[%d].destination", i, j), d.GetDestination(), f)
			weightOf(fmt.Sprintf("spec.tls[%d].route[%d].weight", i, j), d.GetWeight(), f)
		}
	}
	return []Value{in}
}

func destination(at string, d *networking.Destination, f *findings) {
	if d.GetHost() == "" {
		f.missing(at+".host", "the name of a Service")
	}
	if n := d.GetPort().GetNumber(); n > 65535 {
		f.bad(at+".port.number", wantPort, n)
	}
}

func weightOf(at string, weight int32, f *findings) {
	if weight < 0 {
		f.bad(at, "a number from 0", weight)
	}
}

func convertDestinationRule(in *istionetworking.DestinationRule, f *findings) []Value {
	stripMeta(&in.ObjectMeta)
	in.TypeMeta = metav1.TypeMeta{APIVersion: groupIstioNet + "/v1", Kind: "DestinationRule"}
	in.Status = istiometa.IstioStatus{}
	if in.Spec.Host == "" {
		f.missing("spec.host", "the name of a Service")
	}
	names := map[string]bool{}
	for i, s := range in.Spec.Subsets {
		at := fmt.Sprintf("spec.subsets[%d].name", i)
		switch name := s.GetName(); {
		case name == "":
			f.missing(at, "a name")
		case names[name]:
			f.bad(at, "a name that no other subset of the rule has", name)
		default:
			names[name] = true
		}
	}
	return []Value{in}
}

func convertPeerAuthentication(in *istiosecurity.PeerAuthentication, f *findings) []Value {
	stripMeta(&in.ObjectMeta)
	in.TypeMeta = metav1.TypeMeta{APIVersion: groupIstioSecurity + "/v1", Kind: "PeerAuthentication"}
	in.Status = istiometa.IstioStatus{}
	for port := range in.Spec.PortLevelMtls {
		if port < 1 || port > 65535 {
			f.bad(fmt.Sprintf("spec.portLevelMtls[%d]", port), wantPort, port)
		}
	}
	return []Value{in}
}
